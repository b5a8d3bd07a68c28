"""The referee: ``compare(ref, got)`` says whether two models give the same answers, and on what evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converter.referee.verify.request import compare

__all__ = ["compare"]


def __getattr__(name: str) -> Any:
    # When it is asked for: what `compare` is made of reads modules of this folder itself.
    if name == "compare":
        from converter.referee.verify.request import compare

        return compare
    raise AttributeError(name)
