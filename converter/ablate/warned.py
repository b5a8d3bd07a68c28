"""What a reader of the report must know first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from converter.ablate.effects import changes, disagreement
from converter.ablate.measure import Zeroed
from converter.ablate.samples import Data

if TYPE_CHECKING:
    from converter.ablate.run import Probed, Variant

FEW_ROWS = 64  # below which compensation is fitted on chance
GOOD_ROWS = 256  # from which more data gained nothing on digits
_SAME = 1e-2  # outputs that vary less than this, relative, say little


def warnings_on(data: Data, zeroed: Zeroed, *, cut: bool) -> list[str]:
    """Why figures may say less than they seem to."""
    found = []
    if data.rows < 2 * FEW_ROWS:
        found.append(
            f"{data.rows} rows of data are few: half of them are fitted on, which takes {FEW_ROWS}, better {GOOD_ROWS}"
        )
    if cut:
        found.append("time ran out while layers were looked at; give --max-time more")
    if zeroed.stopped:
        found.append(
            f"time ran out: biases were left out on {zeroed.rows:,} of {data.rows:,} rows; --max-time gives more"
        )
    if zeroed.varies < _SAME:
        found.append(
            f"output {zeroed.output!r} is nearly the same for every row: it varies by {zeroed.varies:.1g} of its size. "
            "What biases are worth cannot be seen on this data, or the model is not trained"
        )
    if not zeroed.decides:
        found.append(f"output {zeroed.output!r} decides between no classes: effects are errors of its numbers alone")
    return found


def off_the_data(variants: Sequence[Variant], probed: Sequence[Probed]) -> list[str]:
    """A warning for the compensated model where its answers change off the data and not on it."""
    found = []
    for variant in variants:
        if not variant.name.startswith("compensate"):
            continue
        worst = max(probed, key=lambda p: disagreement(p.effects[variant.name]), default=None)
        if worst is None:
            continue
        here, there = disagreement(variant.effect), disagreement(worst.effects[variant.name])
        if changes(variant.effect, worst.effects[variant.name]):
            found.append(
                f"{variant.said}: under {worst.probe.said} {100 * there:.3g} % differ from the original, on the data "
                f"{100 * here:.2g} %. Biases carried what the level of the inputs means"
            )
    return found
