"""Operators that onnxruntime's own optimiser writes (com.microsoft), in float64.

Source: onnxruntime's ContribOperators, found by running them: attention masks are added as 0 or mask_filter_value.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from converter.referee.reference.call import KernelCall, Op, Outputs, Unsupported, activate, gelu, softmax
from converter.referee.reference.conv import Array, conv

_MICROSOFT = "com.microsoft"


def _fused_conv(call: KernelCall) -> Outputs:
    sliding: dict[str, Any] = {k: call.get(k) for k in ("auto_pad", "strides", "dilations", "pads")}
    y = conv(*(call.input(i) for i in range(3)), group=call.get("group", 1), **sliding)
    if call.input(3) is not None:
        y = y + call.input(3)
    return (activate(y, call.get("activation", ""), call.get("activation_params", [])),)


def _turn(x: Array, matrix: int, batch: int) -> Array:
    if batch:  # the first axis goes to where the rows were
        x = np.moveaxis(x, 0, -2)
    return np.swapaxes(x, -1, -2) if matrix and x.ndim > 1 else x


def _fused_matmul(call: KernelCall) -> Outputs:
    a = _turn(call.input(0), call.get("transA", 0), call.get("transBatchA", 0))
    b = _turn(call.input(1), call.get("transB", 0), call.get("transBatchB", 0))
    return (call.get("alpha", 1.0) * (a @ b),)


def _fused_gemm(call: KernelCall) -> Outputs:
    a, b, c = (call.input(k) for k in range(3))
    y = call.get("alpha", 1.0) * ((a.T if call.get("transA", 0) else a) @ (b.T if call.get("transB", 0) else b))
    y = y if c is None else y + call.get("beta", 1.0) * c
    params = [call.get(k) for k in ("activation_alpha", "activation_beta") if call.get(k) is not None]
    return (activate(y, call.get("activation", ""), params),)


def _skip_norm(call: KernelCall, *, centered: bool) -> Outputs:
    x, skip, gamma = (call.input(k) for k in range(3))
    beta, bias = (call.input(3), call.input(4)) if centered else (None, call.input(3))
    total = x + skip if bias is None else x + skip + bias
    mean = total.mean(axis=-1, keepdims=True)
    center = total - mean if centered else total
    inverse = 1 / np.sqrt(
        (center * center).mean(axis=-1, keepdims=True) + call.get("epsilon", float(np.float32(1e-12)))
    )
    y = center * inverse * gamma
    return (y if beta is None else y + beta, mean, inverse, total)[: call.n_outputs]


def _embed_norm(call: KernelCall) -> Outputs:
    """Sums of embeddings, normalised; the mask's lengths as onnxruntime gives them."""
    ids, segments, words, places, parts, gamma, beta, mask, at = (call.input(k) for k in range(9))
    n, length = ids.shape
    if mask is not None and call.n_outputs > 1 and call.get("mask_index_type", 1) != 1:
        raise Unsupported("EmbedLayerNormalization with a mask of another kind")
    total = words[ids] + (places[:length][None] if at is None else places[at])
    if parts is not None:
        total = total + (parts[segments] if segments is not None else parts[0])
    center = total - total.mean(axis=-1, keepdims=True)
    variance = (center * center).mean(axis=-1, keepdims=True)
    y = center / np.sqrt(variance + call.get("epsilon", float(np.float32(1e-12)))) * gamma + beta
    lengths = np.zeros(n, np.int32) if mask is None else (mask != 0).sum(axis=1).astype(np.int32)
    return (y, lengths, total)[: call.n_outputs]


def _bias_gelu(call: KernelCall) -> Outputs:
    return (gelu(call.input(0) + call.input(1)),)


def _fast_gelu(call: KernelCall) -> Outputs:
    x = call.input(0) if call.input(1) is None else call.input(0) + call.input(1)
    return (gelu(x, approximate=True),)


def _quick_gelu(call: KernelCall) -> Outputs:
    x = call.input(0)
    return (x / (1 + np.exp(-call.get("alpha", float(np.float32(1.702))) * x)),)


def _split_heads(x: Array, heads: int) -> Array:
    """[N, L, heads * d] as [N, heads, L, d]."""
    n, length, width = x.shape
    return x.reshape(n, length, heads, width // heads).transpose(0, 2, 1, 3)


def _attend(call: KernelCall, q: Array, k: Array, v: Array, mask: Any, bias: Any) -> Array:
    """softmax (scale q k^T + masks) v, heads joined: [N, L, heads * d]."""
    scale = call.get("scale") or 1 / math.sqrt(q.shape[-1])
    scores = scale * (q @ k.transpose(0, 1, 3, 2))
    if mask is not None:
        scores = scores + _read_mask(mask, scores.shape, call.get("mask_filter_value", -10000.0))
    if bias is not None:
        scores = scores + bias
    if call.get("unidirectional", 0):
        rows, columns = scores.shape[-2:]
        scores = np.where(np.tri(rows, columns, columns - rows, dtype=bool), scores, -np.inf)
    y = (softmax(scores, -1) @ v).transpose(0, 2, 1, 3)
    return np.asarray(y.reshape(*y.shape[:2], -1))


def _read_mask(mask: Array, shape: tuple[int, ...], fill: float) -> Array:
    """A mask of ones and zeros as what is added to the scores [N, heads, rows, columns]."""
    n, _, rows, columns = shape
    if mask.shape == (n,):  # lengths
        keep = (np.arange(columns) < mask[:, None]).reshape(n, 1, 1, columns)
    elif mask.shape == (n, columns):
        keep = (mask != 0).reshape(n, 1, 1, columns)
    elif mask.shape == (n, rows, columns):
        keep = (mask != 0).reshape(n, 1, rows, columns)
    else:
        raise Unsupported(f"an attention mask of shape {list(mask.shape)}")
    return np.where(keep, 0.0, fill)


def _attention(call: KernelCall) -> Outputs:
    """com.microsoft Attention: one product for q, k and v."""
    x, weight, bias, mask, past, more = (call.input(k) for k in range(6))
    if past is not None or call.get("do_rotary", 0) or call.n_outputs > 1:
        raise Unsupported("Attention with a cache or rotary embeddings")
    heads = call.get("num_heads")
    packed = x @ weight if bias is None else x @ weight + bias
    sizes = call.get("qkv_hidden_sizes") or [packed.shape[-1] // 3] * 3
    q, k, v = (_split_heads(p, heads) for p in np.split(packed, np.cumsum(sizes)[:2], axis=-1))
    return (_attend(call, q, k, v, mask, more),)


def _multi_head_attention(call: KernelCall) -> Outputs:
    """com.microsoft MultiHeadAttention of three separate factors."""
    q, k, v, bias, mask, more = (call.input(i) for i in range(6))
    if k is None or v is None or k.ndim != 3 or v.ndim != 3 or any(call.input(i) is not None for i in (6, 7, 8, 9)):
        raise Unsupported("MultiHeadAttention with packed factors or a cache")
    if call.n_outputs > 1:
        raise Unsupported("MultiHeadAttention with a cache")
    heads = call.get("num_heads")
    if bias is not None:
        parts = np.split(bias, np.cumsum([q.shape[-1], k.shape[-1]]))
        q, k, v = q + parts[0], k + parts[1], v + parts[2]
    q, k, v = (_split_heads(x, heads) for x in (q, k, v))
    return (_attend(call, q, k, v, mask, more),)


FUSED: dict[tuple[str, str], Op] = {
    (_MICROSOFT, "FusedConv"): _fused_conv,
    (_MICROSOFT, "FusedMatMul"): _fused_matmul,
    (_MICROSOFT, "TransposeMatMul"): _fused_matmul,
    (_MICROSOFT, "FusedGemm"): _fused_gemm,
    (_MICROSOFT, "SkipLayerNormalization"): lambda c: _skip_norm(c, centered=True),
    (_MICROSOFT, "SkipSimplifiedLayerNormalization"): lambda c: _skip_norm(c, centered=False),
    (_MICROSOFT, "EmbedLayerNormalization"): _embed_norm,
    (_MICROSOFT, "Gelu"): lambda c: (gelu(c.input(0)),),
    (_MICROSOFT, "BiasGelu"): _bias_gelu,
    (_MICROSOFT, "FastGelu"): _fast_gelu,
    (_MICROSOFT, "QuickGelu"): _quick_gelu,
    (_MICROSOFT, "Attention"): _attention,
    (_MICROSOFT, "MultiHeadAttention"): _multi_head_attention,
}
