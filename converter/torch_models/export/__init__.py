"""From a torch module to an ONNX file that still holds every BatchNormalization, and says where it came from.

torch's exporters fuse Conv and BatchNorm by default. Here they do not: what they fuse nobody records, proves or
reports, while `fold` does all three.
"""

from __future__ import annotations

from converter.torch_models.export.calls import Answer, run_in_float64, run_module
from converter.torch_models.export.exporters import Dynamic, parse_dynamic
from converter.torch_models.export.exporting import Exported, Request, export

__all__ = ["Answer", "Dynamic", "Exported", "Request", "export", "parse_dynamic", "run_in_float64", "run_module"]
