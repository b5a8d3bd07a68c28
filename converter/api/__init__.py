"""The public functions: load, inspect, explain, fold; what judges and measures loads from its own module."""

from __future__ import annotations

from converter.analysis.asked import NoSuchBias
from converter.api.folding import FoldResult, fold
from converter.api.inspecting import InspectResult, explain, inspect
from converter.graph import load

__all__ = ["FoldResult", "InspectResult", "NoSuchBias", "explain", "fold", "inspect", "load"]
