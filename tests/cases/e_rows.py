"""E1-E41: the shapes of model on which other folders crash, write an invalid file or change the answer.

``IN_TABLE_A`` names the rows of table A that are an E row already; they are not run twice. E40
(metadata, external data) is about files and lies in ``tests/rewrite/test_edge_cases.py``.
"""

from __future__ import annotations

from tests.cases import e_affine, e_beyond, e_forward, e_inner, e_linear, e_merge, e_numeric, e_scope
from tests.cases.case import Case

SECTIONS = (e_scope, e_inner, e_linear, e_affine, e_forward, e_numeric, e_beyond, e_merge)
SOUND: tuple[Case, ...] = (*e_beyond.SOUND, *e_merge.SOUND)  # nothing need happen, but the outputs stay
ROWS: tuple[Case, ...] = tuple(case for section in SECTIONS for case in section.ROWS)
IN_TABLE_A: dict[str, tuple[str, ...]] = {
    "E1": ("conv-empty-third-input-bn",),
    "E3": ("training-3-outputs", "training-1-output"),
    "E4": ("opset-7-spatial-0",),
    "E5": ("opset-6-is-test", "ir-3-initializers-are-inputs"),
    "E6": ("weight-overridable", "bn-scale-overridable"),
    "E7": ("shared-weights-both-with-bn", "shared-weights-one-with-bn"),
    "E8": ("conv-bias-is-beta",),
    "E9": ("weight-is-graph-output",),
    "E10": ("weight-captured-by-if",),
    "E11": ("conv-output-is-graph-output",),
    "E12": ("conv-output-captured-by-if",),
    "E13": ("conv-output-second-consumer", "one-conv-two-bns"),
    "E14": ("matmul-transpose-bn-square", "matmul-reshape-bn-sizes-coincide"),
    "E15": ("matmul-3d-bn-on-time",),
    "E16": ("matmul-3d-transpose-bn",),
    "E17": ("gemm-alpha-beta-trans-b-bn", "gemm-c-m-n-bn", "gemm-c-m-1-bn"),
    "E18": ("conv-transpose-grouped-bn", "conv-transpose-grouped-square-bn"),
    "E20": (
        "mul-by-4-hits-w",
        "mul-by-4-1-hits-h",
        "mul-per-sample",
        "add-by-4-hits-w",
        "add-by-4-1-hits-h",
        "add-per-sample",
    ),
    "E21": ("mul-expands-batch", "add-rank-5", "add-expands-channels", "add-ones-rank-5"),
    "E22": ("mul-add-const-first", "sub-div-mul-add", "div-scalar"),
    "E23": ("mul-add", "mul-rank-0", "mul-shape-1"),
    "E24": ("bn-conv", "bn-padded-conv", "bn-conv-same-upper"),
    "E26": ("bn-depthwise-conv",),
    "E29": ("fp16-var-0-eps-1e-8",),
    "E30": ("fp16-overflow",),
    "E31": ("bn15-fp16-params-fp32",),
    "E32": ("float64",),
    "E33": ("weight-dequantize-linear",),
    "E34": ("in-if-own-initializers", "in-if-outer-initializers"),
    "E35": ("in-function",),
    "E36": ("sparse-initializer-beside",),
    "E37": ("conv-relu-bn",),
    "E38": ("epsilon-absent", "epsilon-zero"),
    "E41": ("zero-conv-bias", "zero-gemm-c"),
}
IN_TABLE_C: dict[str, tuple[str, ...]] = {
    "E28": ("max-pool-padded", "average-pool-counted-pads", "pad-constant-0", "resize-tf-crop-and-resize", "relu")
}
