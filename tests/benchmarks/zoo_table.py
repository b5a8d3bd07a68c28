"""Two tables in docs/fold.md: how many biases a model has and where they went; what went by each pass.

``python -m tests.benchmarks.zoo_table`` writes them between ``<!-- BEGIN:zoo -->`` and ``<!-- END:zoo -->``, and
``BEGIN:passes`` and ``END:passes``; with ``--print`` they go to stdout instead. Three sorts of models are looked at:
torchvision's nets, exported with every BatchNormalization (as `nets` makes them), the small trained ones of models/,
and those of the folder that BIASOPT_CORPUS names. What is not there is left out, and said.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import converter
from converter.errors import BiasoptError
from converter.records import Fate, FateKind
from converter.records.results import InspectResult
from converter.report.content.bias_path import blocker, count_fates, percent_of
from converter.report.docs import fill
from converter.report.render.markdown import literal, prose, table
from tests.benchmarks import nets

ROOT = Path(__file__).resolve().parents[2]
HEAD = ("model", "biases", "left", "dead", "absorbed", "merged", "zero", "elements gone", "what blocks those left")
GONE = (FateKind.DEAD, FateKind.ABSORBED, FateKind.MERGED, FateKind.ZERO)
SHOWN = 3  # operators that depend on what is left
NOTE = """\
Counted once every BatchNormalization that can be folded is: a convolution and its batch norm have one bias. A batch
norm that is left keeps its shift and is not counted. *dead*: nothing needs it; *absorbed*: a bias further down takes it
over; *merged*: with that of a layer beside it; *zero*: the file holds zeros there, as torchvision initialises some of
its biases. *elements gone* counts biases that go as a whole: a part of a fused one becomes zero, and
stays in the file."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A model to look at; ``frozen``: weights that are listed as inputs are constants."""

    name: str
    path: Path
    frozen: bool = False


def torchvision_nets() -> Iterator[Entry]:
    """Yield torchvision's nets, exported now where they are not there yet."""
    for name in nets.NAMES:
        yield Entry(f"torchvision {name}", nets.path(name, "torchscript"))


def small_models() -> Iterator[Entry]:
    """Yield the models of models/."""
    for path in sorted((ROOT / "models").glob("*.onnx")):
        yield Entry(f"models/{path.name}", path)


def real_models() -> Iterator[Entry]:
    """Yield the models of the corpus."""
    folder = Path(os.environ["BIASOPT_CORPUS"])
    for entry in json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))["models"]:
        listed = bool(entry["initializers_also_graph_inputs"])
        yield Entry(entry["file"], folder / entry["file"], listed)


SORTS: dict[str, Callable[[], Iterator[Entry]]] = {
    "torchvision": torchvision_nets,
    "models/": small_models,
    "the corpus": real_models,
}


def entries(say: Callable[[str], None]) -> list[Entry]:
    """Every model that is there; what is missing is said."""
    found: list[Entry] = []
    for name, sort in SORTS.items():
        try:
            found += sort()
        except (PackageNotFoundError, RuntimeError, OSError, KeyError) as exc:
            say(f"{name} is left out: {type(exc).__name__}: {exc}")
    return found


def row(name: str, all_fates: Sequence[Fate]) -> tuple[str, ...]:
    """One line of the table."""
    fates = [fate for fate in all_fates if fate.op != "BatchNormalization"]
    count = Counter(fate.kind for fate in fates)
    total = count_fates(fates)
    share = percent_of(total.elements_removed, total.elements)
    gone = (f"{count[kind]:,}" if count[kind] else "" for kind in GONE)
    return (literal(name), f"{len(fates):,}", f"{count[FateKind.KEPT]:,}", *gone, share, prose(_felt(fates)))


def _felt(fates: Sequence[Fate]) -> str:
    ends = [blocker(fate) for fate in fates if fate.kind is FateKind.KEPT]
    count = Counter("other reasons" if end is None else end.op for end in ends)
    others = count.pop("other reasons", 0)
    ranked = sorted(count.items(), key=lambda item: (-item[1], item[0]))
    others += sum(n for _, n in ranked[SHOWN:])
    return ", ".join([f"{op} {n}" for op, n in ranked[:SHOWN]] + [f"others {others}"] * bool(others))


def inspect_all(found: Sequence[Entry]) -> dict[str, InspectResult]:
    """What a fold of each would do."""
    return {e.name: converter.inspect(e.path, freeze_overridable=e.frozen) for e in found}


def markdown(results: dict[str, InspectResult]) -> str:
    """Return the table and what its columns mean."""
    rows = [row(name, result.fates) for name, result in results.items()]
    return table(HEAD, rows, right=tuple(range(1, 8))) + "\n\n" + NOTE


def shares(results: dict[str, InspectResult]) -> str:
    """What goes by each pass, of all that goes: a line a pass that did anything, those of most nodes first."""
    rewrites: Counter[str] = Counter()
    nodes: Counter[str] = Counter()
    models: Counter[str] = Counter()
    for result in results.values():
        models.update({r.pass_name for r in result.rewrites})
        for r in result.rewrites:
            rewrites[r.pass_name] += 1
            nodes[r.pass_name] += len(r.delta.removed_nodes)
    gone, made = sum(nodes.values()), sum(rewrites.values())
    rows = [
        (
            f"`{name}`",
            f"{models[name]}",
            f"{n:,}",
            percent_of(n, made),
            f"{nodes[name]:,}",
            percent_of(nodes[name], gone),
        )
        for name, n in sorted(rewrites.items(), key=lambda item: (-nodes[item[0]], -item[1], item[0]))
    ]
    head = ("pass", "models", "rewrites", "of all", "nodes gone", "of all")
    before, after = (sum(c) for c in zip(*((r.before.nodes, r.after.nodes) for r in results.values()), strict=True))
    said = f"Of {len(results)} models with {before:,} nodes, {after:,} are left."
    return f"{said}\n\n{table(head, rows, right=tuple(range(1, 6)))}"


def main(argv: Sequence[str], page: Path = ROOT / "docs" / "fold.md") -> int:
    """Write the tables into docs/fold.md, or with ``--print`` to stdout."""

    def say(line: str) -> None:
        sys.stderr.write(f"zoo-table: {line}\n")

    results = inspect_all(entries(say))
    made = {"zoo": markdown(results), "passes": shares(results) if results else ""}
    if "--print" in argv:
        sys.stdout.write("\n\n".join(made.values()) + "\n")
        return 0
    try:
        text = page.read_text(encoding="utf-8")
        for mark, block in made.items():
            text = fill(text, mark, block)
    except BiasoptError as exc:
        say(str(exc))
        return 3
    page.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
