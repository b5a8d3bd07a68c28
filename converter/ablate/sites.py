"""The biases that ablation can look at, where they sit, and why the others cannot be looked at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.ablate.im2col import Array, Form
from converter.dataclass import dataclass
from converter.errors import BiasoptError
from converter.model.graph import Graph, Node, Tensor
from converter.records import Fate, FateKind
from converter.records.ablate import Role, Uncovered
from converter.referee.proto.copies import InputSlot, get_elem_type
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import CONV, CONV_TRANSPOSE, GEMM, LINEAR, MATMUL, Linear, linear_into
from converter.rewrite.analysis.recurrent import RECURRENT

_STOPS = (*LINEAR, *RECURRENT, "Einsum", "Attention", "MultiHeadAttention", "QLinearConv", "ConvInteger")


@dataclass(frozen=True, slots=True)
class Site:
    """One bias, with the layer that it belongs to.

    Attributes
    ----------
    x, y : names of the layer's input and of its result, bias included
    shift : what the bias adds to each output channel, shape [O]
    bias, weight : as stored, in float64
    fate : what exact analysis says of the bias; None if it was not asked
    """

    label: str
    op: str
    x: str
    y: str
    role: Role
    form: Form
    shift: Array
    bias: Array
    weight: Array
    dtype: np.dtype[Any]
    bias_opening: InputSlot
    weight_opening: InputSlot
    fate: Fate | None = None


class UnknownBiasError(BiasoptError, ValueError):
    """A name that no bias has was asked for."""


@dataclass(frozen=True, slots=True)
class BiasSites:
    """All biases of a model."""

    sites: tuple[Site, ...]  # in the model's order
    uncovered: tuple[Uncovered, ...]


def find_sites(graph: Graph, fates: Iterable[Fate]) -> BiasSites:
    """Every bias that `fates` knows and that lies in the main graph as a plain constant; the others by reason."""
    facts = Facts(graph)
    told = {fate.node: fate for fate in fates}
    sites: list[Site] = []
    uncovered: list[Uncovered] = []
    for node in graph.nodes():
        if not node.is_op(*LINEAR):
            continue
        linear = linear_into(facts, node, str(node.op))
        if linear is None or linear.bias is None:
            continue
        problem = _find_problem(facts, linear)
        if problem:
            uncovered.append(Uncovered(node.label, str(node.op), problem))
        else:
            sites.append(_make_site(facts, linear, len(sites), told.get(node.label)))
    seen = {s.label for s in sites} | {u.node for u in uncovered}
    uncovered += [Uncovered(f.node, f.op, _explain_uncovered(f.op)) for f in told.values() if f.node not in seen]
    return BiasSites(tuple(sites), tuple(uncovered))


def _explain_uncovered(op: str) -> str:
    if op in RECURRENT:
        return "gate biases set how long a recurrent layer remembers: no weight imitates that"
    if op == "BatchNormalization":
        return "the shift of a batch norm that folds into no layer"
    return "not a bias of Conv, ConvTranspose, Gemm or MatMul"


def _find_problem(facts: Facts, linear: Linear) -> str:
    assert linear.bias is not None
    if linear.node.scope.kind != "main":
        return f"it lies in a {'function' if linear.node.scope.kind == 'function' else 'subgraph'}"
    for tensor, what in ((linear.weight, "weight"), (linear.bias, "bias")):
        problem = facts.constants.problem(tensor)
        if problem is not None:
            return f"its {what} is no plain constant: {problem[1]}"
    if facts.weight(linear.weight).dtype.kind not in "fV":
        return "its weight holds no floating-point numbers"
    rank = len(facts.weight(linear.weight).shape)
    if (linear.op in (CONV, CONV_TRANSPOSE) and rank < 3) or (linear.op in (GEMM, MATMUL) and rank != 2):
        return f"its weight has {rank} axes"
    size, shape = facts.weight(linear.bias).shape, _read_form(facts, linear).n_out
    if any(d != 1 for d in size[:-1]) or (size and size[-1] not in (1, shape)):
        return f"its bias of shape {list(size)} is not one number a channel"
    return ""


def _make_site(facts: Facts, linear: Linear, index: int, fate: Fate | None) -> Site:
    assert linear.bias is not None and linear.bias_node is not None
    form, bias = _read_form(facts, linear), facts.float64(linear.bias)
    beta = float(linear.node.attr("beta", 1.0)) if linear.op == GEMM else 1.0
    role = _find_role(facts.graph, linear, form)
    return Site(
        label=linear.node.label,
        op=linear.op,
        x=str(linear.node.inputs[0].name),
        y=str(linear.result.name),
        role=role,
        form=form,
        shift=np.broadcast_to(beta * bias.reshape(-1), (form.n_out,)).copy(),
        bias=bias,
        weight=facts.float64(linear.weight),
        dtype=facts.weight(linear.weight).dtype,
        bias_opening=_make_slot(facts, linear.bias_node, linear.bias_slot, linear.bias, f"biasopt/bias/{index}"),
        weight_opening=_make_slot(facts, linear.node, 1, linear.weight, f"biasopt/weight/{index}"),
        fate=fate,
    )


def _make_slot(facts: Facts, node: Node, slot: int, tensor: Tensor, name: str) -> InputSlot:
    weight = facts.weight(tensor)
    return InputSlot(str(node.outputs[0].name), slot, name, get_elem_type(weight.dtype), tuple(weight.shape))


def _read_form(facts: Facts, linear: Linear) -> Form:
    node, shape = linear.node, tuple(facts.weight(linear.weight).shape)
    if linear.op == MATMUL:
        return Form("matrix", shape)
    if linear.op == GEMM:
        attr = node.attr
        return Form(
            "matrix",
            shape,
            flip=bool(attr("transA", 0)),
            rows=bool(attr("transB", 0)),
            alpha=float(attr("alpha", 1.0)),
        )
    n_axes = len(shape) - 2
    pads = node.attr("pads")
    stated = node.attr("output_shape") is None
    return Form(
        "conv" if linear.op == CONV else "transpose",
        shape,
        groups=linear.groups,
        strides=tuple(node.attr("strides", [1] * n_axes)),
        dilations=tuple(node.attr("dilations", [1] * n_axes)),
        pads=_pair_pads(list(pads) if pads is not None else [0] * (2 * n_axes)) if stated else None,
        auto_pad=str(node.attr("auto_pad", "NOTSET")),
    )


def _pair_pads(pads: list[int]) -> tuple[tuple[int, int], ...]:
    half = len(pads) // 2
    return tuple(zip(pads[:half], pads[half:], strict=True))


# -- roles -----------------------------------------------------------------------------------


def _find_role(graph: Graph, linear: Linear, form: Form) -> Role:
    if not _meets_layer(graph, linear.result, forward=True):
        return Role.HEAD
    if not _meets_layer(graph, linear.node.inputs[0], forward=False):
        return Role.FIRST
    if form.groups > 1 and form.n_in == int(np.prod(form.kernel)):
        return Role.DEPTHWISE
    return Role.INNER


def _meets_layer(graph: Graph, start: Tensor, *, forward: bool) -> bool:
    """Whether every way on from a tensor, or some way back, meets another layer with weights.

    Forward, a way that reaches an output of the model first makes the layer a head.
    """
    pending, seen, met = [start], {id(start)}, False
    while pending:
        tensor = pending.pop()
        if forward and "output" in tensor.external_uses:
            return False
        producer = None if forward else graph.producer(tensor)
        for node in graph.readers(tensor) if forward else [producer] if producer is not None else []:
            if _has_weights(node, tensor if forward else None):
                met = True
                continue
            for further in node.outputs if forward else node.inputs:
                if further.name and id(further) not in seen:
                    seen.add(id(further))
                    pending.append(further)
    return met


def _has_weights(node: Node, operand: Tensor | None) -> bool:
    """A layer; a MatMul of two activations (attention) is none, unless it is met by its weight's side."""
    if not node.is_op(*_STOPS):
        return False
    if node.is_op(MATMUL):
        return any(t is not operand and not t.inputs and not t.is_input for t in node.inputs)
    return True


def choose_sites(sites: Iterable[Site], names: Iterable[str]) -> list[Site]:
    """The sites called so, by label or result; an unknown name is a `ValueError`."""
    sites, found = list(sites), []
    for name in names:
        hits = [s for s in sites if name in (s.label, s.y)]
        if not hits:
            near = ", ".join(s.label for s in sites[:8]) + (", …" if len(sites) > 8 else "")
            raise UnknownBiasError(f"no bias is called {name!r}; there are {near or 'none'}")
        found += hits
    return found


def proven_fate(site: Site) -> FateKind | None:
    """What exact analysis has shown of the bias, where it has: then no data is needed."""
    if site.fate is None or site.fate.kind is FateKind.KEPT:
        return None
    return site.fate.kind


def flatten_channels(values: NDArray[Any], form: Form) -> Array:
    """[G, O/G] as [O]."""
    return np.asarray(values, np.float64).reshape(form.n_out)
