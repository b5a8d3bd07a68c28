"""What each bias of a model is worth on the user's data: ``ablate``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter._version import __version__
from converter.ablate.ablate import AblateOptions, Ablation, OpenedModel, open_model
from converter.ablate.ablate import ablate as run
from converter.ablate.document import ablate_document
from converter.ablate.samples import Data, DataSource
from converter.ablate.session import Net, SessionOptions
from converter.ablate.sites import Uncovered, choose_sites
from converter.commands.inspect import Model, blame, quiet
from converter.records import InputSet, ModelFacts
from converter.referee.proto.source import LoadedModel, describe_model, list_free_inputs
from converter.referee.verify.models import find_default_memory

_HELD = 4  # of the memory, one part in so many holds the data


@dataclass(frozen=True, slots=True)
class AblateResult:
    """What was found out about the biases of one model.

    ``result.scores`` ranks them, ``uncovered`` are those that were not looked at, ``folded`` batch norms became
    biases first.
    """

    model: ModelFacts
    result: Ablation
    uncovered: tuple[Uncovered, ...]
    folded: int
    inputs: InputSet
    seed: int

    def document(self, argv: Sequence[str] = ()) -> dict[str, Any]:
        """``biasopt.ablate/1``, from which every report is made."""
        return ablate_document(
            self.model,
            self.result,
            self.uncovered,
            self.folded,
            self.inputs,
            self.seed,
            argv=argv,
            version=__version__,
        )


def ablate(
    model: Model,
    *,
    inputs: Any = None,
    images: str | Path | None = None,
    preprocess: str = "imagenet",
    labels: Any = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    samples: int | None = None,
    output: str | None = None,
    only: Sequence[str] = (),
    probe: Sequence[str] = (),
    compensate: bool = True,
    fold_first: bool = True,
    data: str | Path | None = None,
    custom_ops: str | Path | None = None,
    provider: str = "cpu",
    seed: int = 0,
    max_time: float = 120.0,
    max_memory: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> AblateResult:
    """Score every bias of Conv, ConvTranspose, Gemm and MatMul + Add: dead, redundant, small, compensable, essential.

    Parameters
    ----------
    model : path, bytes or ModelProto
    inputs : path, ``script.py:function``, mapping of input name to array, or a sequence of these
        The user's data, see `converter.referee.inputs.files`.
    images, preprocess : a folder of images in its place, and how they are scaled
    labels : path or integer array, optional
        The right class of every row.
    shapes : mapping of input name to shape, optional
        Of images: sizes that the model leaves open.
    samples : int, optional
        How many runs of the data to read at most.
    output : str, optional
        The output to look at; a classifier's by default, else the first of floating-point numbers.
    only : names of nodes
        Look at these alone.
    probe : of "contrast", "offset", "noise"
        Ask as well what happens off the data.
    compensate : bool
        Also fit weights that make up for the biases, and measure the model with these.
    fold_first : bool
        Fold batch norms first, in memory: what they add becomes biases.
    data : path, optional
        Directory of the external data of a proto.
    custom_ops, provider : see `converter.referee.verify.compare`
    seed : int
        Of the halves of the data, drawn positions and noise.
    max_time : float, seconds
        What was begun is finished; what was not measured is said.
    max_memory : int, optional
        Bytes to hold at once; half of the free memory by default.
    progress : callable, optional
        Told what is being done, in a few words.

    Returns
    -------
    AblateResult

    Raises
    ------
    ModelError
        The model cannot be read or run.
    DataError
        There is no data, or it does not fit the model.
    ValueError
        A name is no bias's, or no probe's.
    """
    from converter.ablate.measure import KINDS

    unknown = [p for p in probe if p not in KINDS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no probe; there are {', '.join(KINDS)}")
    tell = progress or (lambda text: None)
    tell("reading the model")
    with quiet():
        made = open_model(model, data, folds=fold_first)
        try:
            with blame(made.graph):
                sites = choose_sites(made.found.sites, only) if only else list(made.found.sites)
                size = max_memory or find_default_memory()
                given = DataSource(inputs, images, preprocess, shapes, labels, samples)
                rows = read(given, made.source, size, tell)
                where = SessionOptions(provider, None if custom_ops is None else Path(custom_ops))
                net = Net(made.source, made.found.sites, where)
                settings = AblateOptions(output, tuple(probe), seed, max_time, size, compensate, tell)
                result = run(net, sites, rows, settings)
        finally:
            made.graph.close()
    facts = describe_model(LoadedModel.open(model, None if data is None else Path(data)))
    return AblateResult(facts, result, uncovered(made), made.folded, rows.record, seed)


def read(given: DataSource, source: LoadedModel, size: int, tell: Callable[[str], None]) -> Data:
    """The data, held where it takes at most a part of ``size`` bytes."""
    tell("reading the data")
    return Data(given, source.proto, list_free_inputs(source.proto), size // _HELD)


def uncovered(made: OpenedModel) -> tuple[Uncovered, ...]:
    """Biases that ablation cannot look at."""
    return made.found.uncovered
