"""Run models on onnxruntime: the only package that imports it."""

from __future__ import annotations

from converter.runtime.session import Port, Session, count_cores

__all__ = ["Port", "Session", "count_cores"]
