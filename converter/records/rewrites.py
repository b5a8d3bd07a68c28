"""What passes did to a model: findings, rewrites, what became of each bias, and what a model holds."""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from converter.dataclass import dataclass
from converter.records.evidence import HIDDEN, INLINE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


class Safety(StrEnum):
    """What a pass promises about the outputs."""

    EXACT = "exact"  # the same under ``==``
    ROUNDING = "rounding"  # equal in real arithmetic
    ASSUMES = "assumes"  # needs data or a promise; off unless allowed by name


class Status(StrEnum):
    """What became of a match."""

    ACT = "act"  # inspect: would be rewritten; fold: was rewritten
    DECLINED = "declined"


@dataclass(frozen=True)
class Finding:
    """One match of one pass, acted on or declined.

    ``code`` is public API: kebab-case, empty when the pass acts. ``why`` is a plain clause.
    """

    id: str  # pass@node
    pass_name: str = field(metadata=HIDDEN)
    node: str = field(metadata=HIDDEN)
    status: Status
    code: str = ""
    why: str = ""


@dataclass(frozen=True)
class Delta:
    """What applying one plan did to the graph, counted by the graph."""

    removed_nodes: tuple[str, ...] = ()
    changed_nodes: tuple[str, ...] = ()
    removed_tensors: tuple[str, ...] = ()
    added_tensors: tuple[str, ...] = ()
    bytes_added: int = 0  # bytes of new tensors less bytes of tensors that went away


@dataclass(frozen=True)
class Rewrite:
    """One applied match: ``output`` is the tensor whose value is the same before and after."""

    id: str
    pass_name: str = field(metadata={"json": "pass"})
    node: str
    safety: Safety
    output: str
    delta: Delta = field(default_factory=Delta, metadata=INLINE)


class FateKind(StrEnum):
    """What became of a bias."""

    DEAD = "dead"  # nothing downstream depends on it
    ZERO = "zero"
    ABSORBED = "absorbed"  # taken over by something that exists anyway
    MERGED = "merged"  # one bias with a parallel one
    REMOVED = "removed"  # on data: the weights of its layer make up for it there
    KEPT = "kept"


class Verb(StrEnum):
    """What a node does with the shift of a bias that reaches it."""

    PROPAGATES = "carries"
    ABSORBS = "absorbs"
    CANCELS = "annihilates"
    BLOCKS = "stops"
    STARTS = "root"  # of the node that bears the bias, where a path is drawn


class EffectKind(StrEnum):
    """In which way it does so: passes and reports decide by this tag, never by the sentence beside it."""

    PLAIN = ""  # as its operator does

    WEIGHTS = "weights"  # it propagates: through its weights
    SOFTMAX_ROWS = "softmax-rows"  # through weights of attention that sum to one
    DATA = "data"  # multiplied by data
    UNNORMALIZED = "unnormalized"  # by weights of attention that need not sum to one
    FACTOR = "factor"  # times a factor that depends on the data
    MASKED = "masked"  # but for entries that stay minus infinity

    NORM = "norm"  # it cancels: a mean is subtracted
    SOFTMAX = "softmax"  # all entries of a softmax share it
    SUM = "cancelled"  # the shifts of its operands cancel
    SHAPE = "shape"  # no value is read

    BIAS = "bias"  # it absorbs: into its bias
    NEW_BIAS = "new-bias"
    MEAN = "mean"
    CONSTANT = "constant"
    SIBLING = "sibling"  # into the bias of the other operand

    NONLINEAR = "nonlinear"  # it blocks: it is not linear


@dataclass(frozen=True)
class Step:
    """One node that a bias's shift meets, and what it does with it.

    Attributes
    ----------
    op : str
        The operator; ``output`` or ``use`` where ``node`` is a tensor that is used for something besides.
    how : str
        A clause for people; ``kind`` says the same to programs.
    sources : tuple of str
        Nodes that hand it the shift, so that a path can be drawn as a tree.
    part : str
        The part of a fused bias whose path this is.
    """

    node: str
    op: str
    verb: Verb
    how: str = ""
    kind: EffectKind = EffectKind.PLAIN
    sources: tuple[str, ...] = ()
    part: str = ""


@dataclass(frozen=True)
class Fate:
    """Where one bias went, or why it is kept.

    ``removed`` of its ``elements`` are gone: all of them unless it is kept, some where a part of a
    fused bias went. ``names``: all by which somebody may ask for it, of nodes and tensors, before and after.
    """

    node: str
    op: str
    kind: FateKind = field(metadata={"json": "fate"})
    elements: int
    removed: int = 0
    where: str = ""  # the nodes where it went
    code: str = ""  # why it is kept
    why: str = ""
    path: tuple[Step, ...] = field(default=(), metadata=HIDDEN)
    names: tuple[str, ...] = field(default=(), repr=False, metadata=HIDDEN)


def count_biases(fates: Sequence[Fate]) -> tuple[int, int]:
    """Biases of all kinds, a batch norm's and a recurrent layer's among them: how many there were, and are left."""
    return len(fates), sum(fate.kind is FateKind.KEPT for fate in fates)


@dataclass(frozen=True)
class Counts:
    """What a model holds, over the main graph, subgraphs and functions.

    ``biases`` of a fold are its fates: what a layer, or a batch norm that no layer takes in, adds; how many there were,
    and how many are kept. Of an exported model they are bias vectors: constant third inputs of Conv, ConvTranspose and
    Gemm, and a constant Add after a MatMul.
    """

    nodes: int
    batch_norms: int
    biases: int
    parameter_bytes: int


@dataclass(frozen=True)
class Gate:
    """The gate that keeps the memory of an LSTM or GRU, resting on its bias.

    Attributes
    ----------
    gate : str
        ``forget`` (LSTM) or ``update`` (GRU: H_t = (1 - z) h + z H_{t-1}).
    direction : str
        ``forward`` or ``reverse``.
    units : int, optional
        H.
    mean, std : float, optional
        Of Wb + Rb over the units; None where B is not known.
    kept : float, optional
        sigma(mean): the share of the memory that a step leaves; None where the gate is no sigmoid.
    memory_steps : float, optional
        1 / (1 - kept) = 1 + e^mean.
    note : str
        One sentence where there is something to say.
    """

    node: str
    op: str
    gate: str
    direction: str
    units: int | None = None
    mean: float | None = None
    std: float | None = None
    kept: float | None = None
    memory_steps: float | None = None
    note: str = ""


class Weight(Protocol):
    """The value of a constant, made only when asked for.

    ``load`` gives it as stored, rounded once; ``float64`` in that type before any rounding, so that
    a chain of folds rounds one time, at the end.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def load(self) -> NDArray[Any]: ...

    def float64(self) -> NDArray[np.float64]: ...
