"""What a result must offer to be reported: shapes that ``converter.commands`` fills and this package only reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from converter.records import Counts, Fate, Finding, Rewrite, Safety

if TYPE_CHECKING:
    from converter.records import Gate, Latency, Parity


class Inspected(Protocol):
    """A model and what every pass would do about it."""

    @property
    def path(self) -> Path | None:
        """Where the model was read from; None for a model in memory."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the model and of its data files."""

    @property
    def opset(self) -> int:
        """Version of the default operator set."""

    @property
    def before(self) -> Counts: ...

    @property
    def after(self) -> Counts: ...

    @property
    def rewrites(self) -> tuple[Rewrite, ...]: ...

    @property
    def findings(self) -> tuple[Finding, ...]: ...

    @property
    def frozen(self) -> tuple[str, ...]:
        """Graph inputs that ``--freeze-overridable`` removed."""

    @property
    def overridable_blocked(self) -> int:
        """How many folds decline only because a constant is also a graph input."""

    @property
    def overridable_names(self) -> int:
        """How many such constants the model has."""

    @property
    def problem(self) -> str:
        """What onnx's checker holds against the model as it came; empty for a clean model."""

    @property
    def fates(self) -> tuple[Fate, ...]:
        """What became of every bias."""

    @property
    def gates(self) -> tuple[Gate, ...]:
        """How long recurrent layers remember on their bias alone."""


class Folded(Inspected, Protocol):
    """What ``fold`` did, checked and wrote."""

    @property
    def output(self) -> Path | None:
        """The file that was written, or None where nothing was."""

    @property
    def parity(self) -> Parity | None: ...

    @property
    def latency(self) -> Latency | None:
        """Of the original and the folded model, where it was measured."""

    @property
    def certificate(self) -> Path | None:
        """The file that holds every rewrite as data, where one was written."""

    @property
    def exit_code(self) -> int: ...


class GuardLike(Protocol):
    """One condition of a pass."""

    @property
    def code(self) -> str: ...

    @property
    def why(self) -> str: ...


class PassLike(Protocol):
    """One row of the table of passes."""

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str: ...

    @property
    def safety(self) -> Safety: ...

    @property
    def guards(self) -> Sequence[GuardLike]: ...

    @property
    def after(self) -> tuple[str, ...]: ...

    @property
    def page(self) -> str:
        """A sentence; then what is given, the result, and the source."""
