"""Gemm or MatMul, then BatchNormalization."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from tests.cases.case import Case, fold, refuse
from tests.tiny import Draw, model

GEMM = "fold-bn-into-gemm"
MATMUL = "fold-bn-into-matmul"
BN = "y = BatchNormalization <epsilon = 1e-3> (t, g, be, m, v)"


def gemm(call: str = "x, w, c", attrs: str = "", c: tuple[int, ...] = (5,)) -> Callable[[], onnx.ModelProto]:
    """Return the builder of Gemm (x [7,3], w [3,5] or, with transB, [5,3], C of shape ``c``), then BN."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        w = draw.normal(5, 3) if "transB" in attrs else draw.normal(3, 5)
        x = "(float[3,7] x)" if "transA" in attrs else "(float[7,3] x)"
        consts = {"w": w} | ({"c": draw.normal(*c)} if "c" in call.split(", ") else {}) | draw.bn(5)
        return model(f"{x} => (float[7,5] y) {{ t = Gemm <{attrs}> ({call}) {BN} }}".replace("<>", ""), consts)

    return build


def matmul(graph: str, opset: int = 17, **consts: tuple[int, ...]) -> Callable[[], onnx.ModelProto]:
    """Return the builder of MatMul(x, w [3,5]), what ``graph`` puts between, then BN of 5 channels on ``t``."""

    def build() -> onnx.ModelProto:
        draw = Draw()
        arrays = {"w": draw.normal(3, 5)} | {k: draw.normal(*v) for k, v in consts.items()} | draw.bn(5)
        return model(f"{graph[:-1]} {BN} }}", arrays, opset=opset)

    return build


def reshaped(*shape: int) -> Callable[[], onnx.ModelProto]:
    """Return the builder of MatMul [10,5], Reshape to ``shape``, then BN on axis 1."""

    def build() -> onnx.ModelProto:
        io = f"(float[10,3] x) => (float[{','.join(map(str, shape))}] y)"
        proto = matmul(f"{io} {{ h = MatMul(x, w) t = Reshape(h, s) }}")()
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape, np.int64), "s"))
        return proto

    return build


TIME = "(float[2,5,3] x) => (float[2,5,5] y)"
SWAP = matmul(f"{TIME} {{ h = MatMul(x, w) t = Transpose <perm = [0,2,1]> (h) }}")

ROWS: tuple[Case, ...] = (
    fold("matmul-2d-bn", matmul("(float[7,3] x) => (float[7,5] y) { t = MatMul(x, w) }"), MATMUL, "Gemm | MatMul Add"),
    fold(
        "matmul-add-bn",
        matmul("(float[7,3] x) => (float[7,5] y) { h = MatMul(x, w) t = Add(h, b) }", b=(5,)),
        f"{MATMUL} fold-affine-into-matmul {GEMM}",
        "Gemm | MatMul Add",
    ),
    fold("gemm-bn", gemm(), GEMM, "Gemm"),
    fold("gemm-alpha-beta-trans-b-bn", gemm(attrs="alpha = 2.0, beta = 0.5, transB = 1"), GEMM, "Gemm"),
    fold("gemm-c-m-n-bn", gemm(c=(7, 5)), GEMM, "Gemm"),
    fold("gemm-c-m-1-bn", gemm(c=(7, 1)), GEMM, "Gemm"),
    fold(
        "matmul-3d-transpose-bn",
        matmul("(float[2,7,3] x) => (float[2,5,7] y) { h = MatMul(x, w) t = Transpose <perm = [0,2,1]> (h) }"),
        MATMUL,
        "MatMul Add Transpose",
    ),
    refuse(
        "matmul-3d-bn-on-time",
        matmul(f"{TIME} {{ t = MatMul(x, w) }}"),
        MATMUL,
        "channel-axis",
        "MatMul BatchNormalization",
        SWAP,
    ),
    refuse(
        "matmul-transpose-bn-square",
        matmul("(float[5,3] x) => (float[5,5] y) { h = MatMul(x, w) t = Transpose <perm = [1,0]> (h) }"),
        MATMUL,
        "channel-axis",
        "MatMul Transpose BatchNormalization",
        matmul("(float[5,3] x) => (float[5,5] y) { h = MatMul(x, w) t = Transpose <perm = [0,1]> (h) }"),
    ),
    refuse(
        "matmul-reshape-bn-sizes-coincide",
        reshaped(2, 5, 5),
        MATMUL,
        "channel-axis",
        "MatMul Reshape BatchNormalization",
        reshaped(10, 5, 1),
    ),
)
