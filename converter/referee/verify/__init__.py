"""The referee: ``compare(ref, got)`` says whether two models give the same answers, and on what evidence."""

from __future__ import annotations

from converter.referee.verify.comparison import compare

__all__ = ["compare"]
