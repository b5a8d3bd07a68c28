"""What a result must offer to be reported: shapes that ``converter.api`` fills and this package only reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from converter.records import Counts, Finding, Parity, Rewrite, Safety


class Inspected(Protocol):
    """A model and what every pass said about it."""

    @property
    def path(self) -> str:
        """Where the model was read from; empty for a model in memory."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the model file and of its data files."""

    @property
    def opset(self) -> int:
        """Version of the default operator set."""

    @property
    def before(self) -> Counts: ...

    @property
    def findings(self) -> tuple[Finding, ...]: ...

    @property
    def overridable_blocked(self) -> int:
        """How many folds decline only because a constant is also a graph input."""

    @property
    def overridable_names(self) -> tuple[str, ...]:
        """The initializers that those folds wait for."""


class Folded(Inspected, Protocol):
    """What ``fold`` did, checked and wrote."""

    @property
    def output(self) -> str | None:
        """The file that was written, or None where nothing was."""

    @property
    def after(self) -> Counts: ...

    @property
    def rewrites(self) -> tuple[Rewrite, ...]: ...

    @property
    def parity(self) -> Parity | None: ...

    @property
    def frozen(self) -> tuple[str, ...]:
        """Graph inputs that ``--freeze-overridable`` removed."""

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
    def guards(self) -> tuple[GuardLike, ...]: ...

    @property
    def after(self) -> tuple[str, ...]: ...

    @property
    def module(self) -> str:
        """Dotted name of the file that holds the pass; its docstring is the page."""


PageOf = Callable[[PassLike], str]
