"""Bugs of public optimisers, each rebuilt as two tiny models: what goes in, and what comes out wrong.

``python -m tests.gallery FOLDER`` writes ``NAME.before.onnx`` and ``NAME.after.onnx``, on which docs/gallery.md runs
its commands; ``--docs`` writes that page. The models are ours, and so are their numbers; the kinds of bug were met in
optimisers that are in use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from tests import tiny
from tests.tiny import Array, Consts, Draw, model

X = "(float[2,4,9,9] x)"
Y = "(float[2,5,7,7] y)"


@dataclass(frozen=True)
class Bug:
    """One bug: what the optimiser did, the models, and what a fold of ours does with the same."""

    name: str
    what: str
    before: onnx.ModelProto
    after: onnx.ModelProto
    folds: bool  # whether `biasopt fold` rewrites the model, rightly
    exit_code: int = 1  # of `biasopt verify`; 0: the outputs agree, and a warning says what else is different


def _bn(c: Consts, tag: str = "", eps: float = 1e-5) -> tuple[Array, Array]:
    """Scale and shift of a batch norm, in float64."""
    g, be, m, v = (np.asarray(c[k + tag], np.float64) for k in ("g", "be", "m", "v"))
    s = g / np.sqrt(v + eps)
    return s, be - m * s


def _f32(**values: Array) -> dict[str, Array]:
    return {name: np.asarray(value, np.float32) for name, value in values.items()}


def forgotten_epsilon() -> Bug:
    draw = Draw()
    c = draw.conv(5, 4, 3, 3) | draw.bn(5) | _f32(v=np.array([1e-3, 2e-3, 1e-2, 0.5, 1.0]))
    s, t = _bn(c, eps=0.0)
    text = f"{X} => {Y} {{ h = Conv(x, w) y = BatchNormalization <epsilon = 1e-3> (h, g, be, m, v) }}"
    wrong = _f32(w=c["w"] * s[:, None, None, None], b=t)
    return Bug(
        "forgotten-epsilon",
        "The epsilon of a batch norm is left out of the fold; where the variance is small, that is a factor.",
        model(text, c),
        model(f"{X} => {Y} {{ y = Conv(x, w, b) }}", wrong),
        True,
    )


def shifted_border() -> Bug:
    draw = Draw()
    c = draw.conv(5, 4, 3, 3) | draw.bn(4)
    s, t = _bn(c)
    out = "(float[2,5,9,9] y)"
    pads = "<pads = [1,1,1,1]>"
    wrong = _f32(w=c["w"] * s[None, :, None, None], b=np.einsum("oikl,i->o", c["w"].astype(np.float64), t))
    return Bug(
        "shifted-border",
        "A batch norm before a padded convolution is folded into it; padded zeros are not shifted: the border differs.",
        model(f"{X} => {out} {{ h = BatchNormalization(x, g, be, m, v) y = Conv {pads} (h, w) }}", c),
        model(f"{X} => {out} {{ y = Conv {pads} (x, w, b) }}", wrong),
        False,
    )


def shared_weight() -> Bug:
    draw = Draw()
    c = draw.conv(5, 4, 3, 3) | draw.bn(5)
    s, t = _bn(c)
    wrong = _f32(w=c["w"] * s[:, None, None, None], b=t)
    rest = "r = Relu(x) k = Conv(r, w) y = Add(n, k)"
    return Bug(
        "shared-weight",
        "Two convolutions share a weight, one has a batch norm; the fold writes into the tensor that both read.",
        model(f"{X} => {Y} {{ h = Conv(x, w) n = BatchNormalization(h, g, be, m, v) {rest} }}", c),
        model(f"{X} => {Y} {{ n = Conv(x, w, b) {rest} }}", wrong),
        False,
    )


def bias_is_beta() -> Bug:
    draw = Draw()
    c = draw.conv(5, 4, 3, 3) | draw.bn(5)
    s, t = _bn(c)
    be = c["be"].astype(np.float64)
    shifted = be * s + t  # written over `be`, and then used as beta once more
    wrong = _f32(w=c["w"] * s[:, None, None, None], b=be * s + shifted - c["m"] * s)
    return Bug(
        "bias-is-beta",
        "The convolution's bias and the norm's beta are one tensor; the new bias is made of an overwritten beta.",
        model(f"{X} => {Y} {{ h = Conv(x, w, be) y = BatchNormalization(h, g, be, m, v) }}", c),
        model(f"{X} => {Y} {{ y = Conv(x, w, b) }}", wrong),
        True,
    )


def gemm_alpha_beta() -> Bug:
    draw = Draw()
    c = {"w": draw.normal(3, 5), "b": draw.normal(5)} | draw.bn(5)
    s, t = _bn(c)
    gemm = "h = Gemm <alpha = 2.0, beta = 0.5> (x, w, b)"
    text = f"(float[7,3] x) => (float[7,5] y) {{ {gemm} y = BatchNormalization(h, g, be, m, v) }}"
    wrong = _f32(w=c["w"] * s, b=c["b"] * s + t)
    after = "(float[7,3] x) => (float[7,5] y) { y = Gemm <alpha = 2.0> (x, w, b) }"
    return Bug(
        "gemm-alpha-beta",
        "A Gemm's beta is forgotten when a batch norm is folded into it.",
        model(text, c),
        model(after, wrong),
        True,
    )


def wrong_axis() -> Bug:
    draw = Draw()
    c = {"w": draw.normal(3, 5)} | draw.bn(5)
    s, t = _bn(c)
    turned = "h = MatMul(x, w) k = Transpose <perm = [1, 0]> (h)"
    text = f"(float[5,3] x) => (float[5,5] y) {{ {turned} y = BatchNormalization(k, g, be, m, v) }}"
    wrong = _f32(w=c["w"] * s, b=t)
    after = "(float[5,3] x) => (float[5,5] y) { h = Gemm(x, w, b) y = Transpose <perm = [1, 0]> (h) }"
    return Bug(
        "wrong-axis",
        "Behind a transpose the norm's channels are the batch; five of each, so that the sizes fit all the same.",
        model(text, c),
        model(after, wrong),
        False,
    )


def group_layout() -> Bug:
    draw = Draw()
    c = {"w": draw.normal(4, 2, 3, 3)} | draw.bn(4)
    s, t = _bn(c)
    out = "(float[2,4,11,11] y)"
    wrong = _f32(w=c["w"] * np.concatenate([s[:2], s[:2]]).reshape(2, 2).T.reshape(-1)[:2][None, :, None, None], b=t)
    return Bug(
        "group-layout",
        "A grouped ConvTranspose holds its outputs as [in, out/groups]; the second group gets the first one's factors.",
        model(f"{X} => {out} {{ h = ConvTranspose <group = 2> (x, w) y = BatchNormalization(h, g, be, m, v) }}", c),
        model(f"{X} => {out} {{ y = ConvTranspose <group = 2> (x, w, b) }}", wrong),
        True,
    )


def broadcast_last_axis() -> Bug:
    draw = Draw()
    c = {"w": draw.normal(7, 4, 3, 3), "k": draw.positive(7)}
    out = "(float[2,7,7,7] y)"
    wrong = _f32(w=c["w"] * c["k"].astype(np.float64)[:, None, None, None])
    return Bug(
        "broadcast-last-axis",
        "A factor of shape [7] multiplies the last axis; the fold takes it for one of each channel, also seven.",
        model(f"{X} => {out} {{ h = Conv(x, w) y = Mul(h, k) }}", c),
        model(f"{X} => {out} {{ y = Conv(x, w) }}", wrong),
        False,
    )


def training_statistics() -> Bug:
    draw = Draw()
    c = draw.conv(5, 4, 3, 3) | draw.bn(5)
    s, t = _bn(c)
    text = f"{X} => {Y} {{ h = Conv(x, w) y, rm, rv = BatchNormalization <training_mode = 1> (h, g, be, m, v) }}"
    wrong = _f32(w=c["w"] * s[:, None, None, None], b=t)
    return Bug(
        "training-statistics",
        "A batch norm in training mode normalises by its batch; it is folded by its running statistics.",
        model(text, c),
        model(f"{X} => {Y} {{ y = Conv(x, w, b) }}", wrong),
        False,
    )


def half_precision_overflow() -> Bug:
    draw = Draw(np.float16)
    c = draw.conv(5, 4, 3, 3) | draw.bn(5)
    c |= {"g": np.full(5, 60000, np.float16), "v": np.full(5, 1e-2, np.float16), "w": (c["w"] / 512).astype(np.float16)}
    s, t = _bn(c)
    x, y = X.replace("float", "float16"), Y.replace("float", "float16")
    with np.errstate(over="ignore"):
        wrong = {"w": (c["w"] * s[:, None, None, None]).astype(np.float16), "b": t.astype(np.float16)}
    half = "k = Mul(n, scale) y = Relu(k)"
    c |= {"scale": np.float16([2.0**-12])}
    wrong |= {"scale": c["scale"]}
    return Bug(
        "half-precision-overflow",
        "In float16 the product of weight and scale exceeds 65,504: the folded weight is infinite.",
        model(f"{x} => {y} {{ h = Conv(x, w) n = BatchNormalization(h, g, be, m, v) {half} }}", c),
        model(f"{x} => {y} {{ n = Conv(x, w, b) {half} }}", wrong),
        True,
    )


def overridden_default() -> Bug:
    draw = Draw()
    c = draw.conv(5, 4, 3, 3) | draw.bn(5)
    s, t = _bn(c)
    before = tiny.as_inputs(model(f"{X} => {Y} {{ h = Conv(x, w) y = BatchNormalization(h, g, be, m, v) }}", c), "g")
    wrong = _f32(w=c["w"] * s[:, None, None, None], b=t)
    return Bug(
        "overridden-default",
        "The norm's scale is an input with a default value; it is folded away, and a caller's own is no longer taken.",
        before,
        model(f"{X} => {Y} {{ y = Conv(x, w, b) }}", wrong),
        False,
        exit_code=0,
    )


def removed_live_bias() -> Bug:
    draw = Draw()
    c = draw.conv(5, 4, 3, 3, bias=5)
    return Bug(
        "removed-live-bias",
        "A bias before an average pool and a Relu is taken for one that a norm would subtract.",
        model(f"{X} => (float[2,5,1,1] y) {{ h = Conv(x, w, b) p = GlobalAveragePool(h) y = Relu(p) }}", c),
        model(f"{X} => (float[2,5,1,1] y) {{ h = Conv(x, w) p = GlobalAveragePool(h) y = Relu(p) }}", {"w": c["w"]}),
        False,
    )


MAKERS: tuple[Callable[[], Bug], ...] = (
    forgotten_epsilon,
    shifted_border,
    shared_weight,
    bias_is_beta,
    gemm_alpha_beta,
    wrong_axis,
    group_layout,
    broadcast_last_axis,
    training_statistics,
    half_precision_overflow,
    overridden_default,
    removed_live_bias,
)


HEAD = """# Bugs of optimisers, and the command that finds each

Kinds of bug that were met in public ONNX optimisers, rebuilt by us as pairs of tiny models, which
`python -m tests.gallery gallery` writes. `biasopt verify` says FAIL and names the tensor; in front of an optimiser of
yours, `biasopt guard -- CMD` does the same and keeps the model from being replaced. `biasopt fold` on the model before
either folds it rightly, or leaves it and says why.
"""


def page() -> str:
    """docs/gallery.md."""
    parts = [HEAD]
    for make in MAKERS:
        bug = make()
        found = "FAIL, exit code 1" if bug.exit_code else "PASS for the default value, with a warning about the input"
        ours = "folds it, rightly" if bug.folds else "leaves it, and says why"
        command = f"biasopt verify gallery/{bug.name}.before.onnx gallery/{bug.name}.after.onnx --bisect"
        parts.append(f"## {bug.name}\n\n{bug.what}\n\n```sh\n{command}\n```\n\n{found}. `biasopt fold` {ours}.\n")
    return "\n".join(parts)


def main(folder: Path) -> None:
    """Write every pair."""
    folder.mkdir(parents=True, exist_ok=True)
    for make in MAKERS:
        bug = make()
        onnx.save(bug.before, folder / f"{bug.name}.before.onnx")
        onnx.save(bug.after, folder / f"{bug.name}.after.onnx")


if __name__ == "__main__":
    if "--docs" in sys.argv:
        (Path(__file__).resolve().parents[1] / "docs" / "gallery.md").write_text(page(), encoding="utf-8")
    else:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else "gallery"))
