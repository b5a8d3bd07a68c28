"""Do two models give the same answers?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.records import Parity

if TYPE_CHECKING:
    from onnx import ModelProto


def verify(
    a: Path | str | bytes | ModelProto, b: Path | str | bytes | ModelProto, *, decide: bool = True, **options: Any
) -> Parity:
    """Judge whether ``b`` computes what ``a`` computes, up to rounding, by every stage that there is.

    Parameters
    ----------
    a, b : path, bytes or ModelProto
        The original and the rewritten model; any two models with the same inputs and outputs.
    decide : bool
        Judge what the models decide on the user's inputs as well, where there are some.
    **options
        As in `converter.referee.verify.compare`, the referee; ``stages`` is all of them by default.

    Returns
    -------
    Parity
        ``verdict`` PASS, FAIL or INCONCLUSIVE, with the evidence in ``stages``.

    Raises
    ------
    ModelError, DataError, RuntimeUnavailable
        A model, its inputs or the provider is not what was asked for.

    Examples
    --------
    >>> import converter
    >>> parity = converter.compare("a.onnx", "b.onnx", inputs="data.npz")  # doctest: +SKIP
    >>> parity.verdict  # doctest: +SKIP
    <Verdict.PASS: 'PASS'>
    """
    from converter.referee.verify import compare
    from converter.referee.verify.options import CHOICES

    stages = options.pop("stages", None)
    chosen = [s for s in CHOICES if (decide or s != "decision") and (stages is None or s in stages)]
    unknown = [s for s in stages or () if s not in CHOICES]
    return compare(a, b, stages=[*chosen, *unknown], timed=True, **options)
