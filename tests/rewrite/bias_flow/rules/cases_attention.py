"""Einsum and Attention, and which shifts they carry, drop or depend on."""

from __future__ import annotations

import numpy as np

from tests.rewrite.bias_flow.rules.one_node import Case
from tests.rewrite.bias_flow.rules.values import ALL3, ALL4, X2, X3, some


def einsum(equation: str, *shapes: object, **more: object) -> Case:
    """Einsum of x or r and another."""
    slot = int(more.pop("slot", 0))  # type: ignore[call-overload]
    names = ("x", "r") if slot == 0 else ("r", "x")
    given = dict(zip(names, shapes, strict=True))
    return Case(
        f'y = Einsum<equation = "{equation}">({"w" if "before" in more else names[0]}, {names[1]})',
        given,
        slots=(slot,),
        name=f"{equation}, slot {slot} {'const' if any(isinstance(s, np.ndarray) for s in shapes) else ''}",
        **more,  # type: ignore[arg-type]
    )


SUM_ONE = {"before": "w = Softmax<axis = -1>(r)", "slot": 1}
EINSUM = [
    einsum("nid,dj->nij", (2, 3, 4), some(4, 5), carry="- 2"),
    einsum("nid,nd->ni", (2, 3, 4), (2, 4), carry=ALL3),
    einsum("bqhd,bkhd->bhqk", (2, 3, 2, 4), (2, 5, 2, 4), carry=ALL4),
    einsum("bqhd,bkhd->bhqk", (2, 5, 2, 4), (2, 3, 2, 4), carry=ALL4, slot=1),
    einsum("bqk,bkd->bqd", (2, 5, 3), (2, 3, 4), **SUM_ONE, carry=ALL3),
    einsum("bhqk,bkhd->bqhd", (2, 3, 5, 4), (2, 4, 3, 2), **SUM_ONE, carry=ALL4),
    einsum("bqk,bkd->dqb", (2, 5, 3), (2, 3, 4), **SUM_ONE, carry=ALL3),
    Case('y = Einsum<equation = "ij->ji">(x)', X2),
    Case('y = Einsum<equation = "...ij,jk->...ik">(x, W)', {**X3, "W": some(4, 5)}, "- 2"),
]

_M3 = {"q": (2, 5, 6), "k": (2, 5, 6), "v": (2, 5, 6)}
_M4 = {"q": (2, 3, 5, 2), "k": (2, 3, 5, 2), "v": (2, 3, 5, 2)}
_H = "q_num_heads = 3, kv_num_heads = 3"
NOT_ALONG_KEYS = "- 0 2 02"
_MASK = {"m": np.tril(np.ones((5, 5), bool))}


def attention(arguments: str, slot: int, attributes: str = "scale = 0.4", **more: object) -> Case:
    """Attention on four axes, or on three if heads are given."""
    given = more.pop("given", _M4 if "heads" not in attributes else _M3)
    return Case(
        f"y = Attention<{attributes}>({arguments})",
        given,  # type: ignore[arg-type]
        slots=(slot,),
        opset=int(more.pop("opset", 23)),  # type: ignore[call-overload]
        name=f"Attention {attributes} {arguments} of {'qkv'[slot]}",
        **more,  # type: ignore[arg-type]
    )


FOUR = "- 0 1 3 01 03 13 013"
ATTENTION = [
    attention("q, k, v", 0, felt="- 1 3"),
    attention("q, k, v", 1, gone=FOUR),
    attention("q, k, v", 2, carry=FOUR),
    attention("q, k, v", 0, _H),
    attention("q, k, v", 1, _H, gone=NOT_ALONG_KEYS),
    attention("q, k, v", 2, _H, carry=NOT_ALONG_KEYS),
    attention("q, k, v", 1, f"{_H}, is_causal = 1", gone=NOT_ALONG_KEYS),
    attention("q, k, v", 2, f"{_H}, is_causal = 1", carry=NOT_ALONG_KEYS),
    attention("q, k, v", 1, f"{_H}, softcap = 1.5", felt="- 2"),
    attention("q, k, v", 2, f"{_H}, softcap = 1.5", carry=NOT_ALONG_KEYS),
    attention("q, k, v, m", 1, _H, given={**_M3, "m": (2, 1, 5, 5)}, gone=NOT_ALONG_KEYS),
    attention("q, k, v, m", 2, _H, given={**_M3, "m": (2, 1, 5, 5)}),
    attention("q, k, v, m", 1, given={**_M4, "m": (5, 5)}, gone=FOUR, feeds=_MASK),
    attention("q, k, v, m", 2, given={**_M4, "m": (5, 5)}, feeds=_MASK),
    attention("q, k, v, m", 1, given={**_M4, "m": (5, 5)}, gone=FOUR, feeds=_MASK, opset=24),
    attention(
        "q, k, v",
        1,
        "q_num_heads = 4, kv_num_heads = 2",
        given={"q": (2, 5, 8), "k": (2, 5, 4), "v": (2, 5, 4)},
        gone=NOT_ALONG_KEYS,
    ),
    attention(
        "q, k, v",
        2,
        "q_num_heads = 4, kv_num_heads = 2",
        given={"q": (2, 5, 8), "k": (2, 5, 4), "v": (2, 5, 4)},
        carry=NOT_ALONG_KEYS,
    ),
    attention("q, k, v", 2, given={"q": (2, 4, 5, 2), "k": (2, 2, 5, 2), "v": (2, 2, 5, 2)}, carry=FOUR),
    attention("q, k, v, , p, s", 1, given={**_M4, "p": (2, 3, 4, 2), "s": (2, 3, 4, 2)}),
    attention("q, k, v, , p, s", 2, given={**_M4, "p": (2, 3, 4, 2), "s": (2, 3, 4, 2)}),
    Case(
        "y, , , z = Attention<scale = 0.4>(q, k, v)",
        _M4,
        slots=(1,),
        opset=23,
        types=(11, 11, 11, 11),
        name="Attention with scores",
        felt="-",
    ),
]
