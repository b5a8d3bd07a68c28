"""Run models on onnxruntime: the only package that imports it."""

from __future__ import annotations

from converter.runtime.session import Port, Session, available_cores

__all__ = ["Port", "Session", "available_cores"]
