"""One tool, one model, one process: ``python worker.py TOOL IN OUT``.

Each tool does what its documentation shows first, and nothing else is imported: what is measured is what
a script of three lines would cost.
"""

from __future__ import annotations

import sys


def onnxruntime(source: str, target: str, level: str = "BASIC") -> None:
    """Save what a session has optimised, at the basic level, which keeps to standard operators, or the extended one."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = target
    options.log_severity_level = 3
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def onnxslim(source: str, target: str) -> None:
    import onnxslim

    onnxslim.slim(source, target)


def onnxsim(source: str, target: str) -> None:
    import onnx
    import onnxsim

    model, _ = onnxsim.simplify(onnx.load(source))
    onnx.save(model, target)


def onnxoptimizer(source: str, target: str) -> None:
    import onnx
    import onnxoptimizer

    onnx.save(onnxoptimizer.optimize(onnx.load(source)), target)


def onnxscript(source: str, target: str) -> None:
    import onnx
    from onnxscript import optimizer

    onnx.save(optimizer.optimize(onnx.load(source)), target)


TOOLS = {tool.__name__: tool for tool in (onnxruntime, onnxslim, onnxsim, onnxoptimizer, onnxscript)}
TOOLS["onnxruntime extended"] = lambda source, target: onnxruntime(source, target, "EXTENDED")

if __name__ == "__main__":
    TOOLS[sys.argv[1]](sys.argv[2], sys.argv[3])
