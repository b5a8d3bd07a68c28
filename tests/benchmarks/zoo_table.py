"""The table of biases in docs/fold.md: how many a model has, how many are left, and where the others went.

``python -m tests.benchmarks.zoo_table`` writes it between ``<!-- BEGIN:zoo -->`` and ``<!-- END:zoo -->``; with
``--print`` it goes to stdout instead. Three sorts of models are looked at: torchvision's nets, exported with
every BatchNormalization (as `nets` makes them), the small trained ones of models/, and those of the folder
that BIASOPT_CORPUS names. What is not there is left out, and said.
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


def markdown(found: Sequence[Entry]) -> str:
    """Return the table and what its columns mean."""
    rows = [row(e.name, converter.inspect(e.path, freeze_overridable=e.frozen).fates) for e in found]
    return table(HEAD, rows, right=tuple(range(1, 8))) + "\n\n" + NOTE


def main(argv: Sequence[str], page: Path = ROOT / "docs" / "fold.md") -> int:
    """Write the table into docs/fold.md, or with ``--print`` to stdout."""

    def say(line: str) -> None:
        sys.stderr.write(f"zoo-table: {line}\n")

    made = markdown(entries(say))
    if "--print" in argv:
        sys.stdout.write(made + "\n")
        return 0
    try:
        text = fill(page.read_text(encoding="utf-8"), "zoo", made)
    except BiasoptError as exc:
        say(str(exc))
        return 3
    page.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
