"""Of two batch norms that compute the same, one goes away: its rows."""

from __future__ import annotations

from tests.cases.case import fold, refuse
from tests.rewrite.passes.moved_maps import Build, net, norm
from tests.rewrite.passes.walk import PassRows

P = "merge-equal-bns"
X = "(float[2,5,11,13] x)"


def twice(
    end: str = "y = Add (p, q)", outputs: str = "float[2,5,11,13] y", second: str = "", **consts: object
) -> Build:
    """A batch norm, and another one of the same value."""
    body = f"r = Relu (x) {norm('r', 'p')} {second or norm('r', 'q', '2')} {end}"
    build = net(f"{X} => ({outputs}) {{ {body} }}", bn={"": 5, "2": 5}, **consts)

    def same() -> object:
        proto = build()
        held = {t.name: t for t in proto.graph.initializer}
        for name in ("g", "be", "m", "v"):
            held[f"{name}2"].raw_data = held[name].raw_data
        return proto

    return same  # type: ignore[return-value]


class TestMergeEqualBns(PassRows):
    name = P
    own = (
        fold("equal-constants", twice(), P, "Relu BatchNormalization Add"),
        fold("one-set-of-constants", twice(second=norm("r", "q")), P, "Relu BatchNormalization Add"),
        refuse(
            "second-is-an-output",
            twice("y = Relu (p)", "float[2,5,11,13] y, float[2,5,11,13] q"),
            P,
            "output-is-graph-output",
            "Relu BatchNormalization BatchNormalization Relu",
            twice(),
        ),
    )
