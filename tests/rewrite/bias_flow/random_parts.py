"""The layers of random models in which biases travel."""

from __future__ import annotations

import math

import numpy as np

from tests.rewrite.bias_flow.random_flow import Drawing, Layer, Refused

# ---- layers with a bias -------------------------------------------------------------------------


def conv(d: Drawing, x: str) -> str:
    """Conv or ConvTranspose with a bias, mostly pointwise or valid."""
    if len(d.shape(x)) not in (3, 4):
        return matmul(d, x)
    _, c, *space = d.shape(x)
    group = d.pick([1, 1, c])
    kernel = [min(d.pick([1, 1, 2, 3]), s) for s in space]
    pads = [d.pick([0, 0, 0, 1])] * (2 * len(space)) if max(kernel) > 1 else [0] * (2 * len(space))
    out = c if group > 1 else d.pick([4, 2, 3, 8])
    bias = [] if d.pick([False, False, False, True]) else [d.random(out)]
    if group == 1 and d.pick([False, False, False, True]):
        stride = d.pick([1, 1, 2])
        weight = d.random(c, out, *kernel)
        return d.add("ConvTranspose", [x, weight, *bias], strides=[stride] * len(space))
    return d.add("Conv", [x, d.random(out, c // group, *kernel), *bias], group=group, pads=pads)


def _spatial(d: Drawing, x: str) -> tuple[int, ...]:
    shape = d.shape(x)
    if len(shape) not in (3, 4):
        raise Refused
    return shape


def matmul(d: Drawing, x: str) -> str:
    """MatMul, and an Add of a bias in either order."""
    k = d.shape(x)[-1]
    if len(d.shape(x)) < 2:
        raise Refused
    out = d.pick([4, 2, 6])
    y = d.add("MatMul", [x, d.random(k, out)])
    terms = [y, d.random(out)]
    return d.add("Add", terms[::-1] if d.flag() else terms)


def gemm(d: Drawing, x: str) -> str:
    """Gemm with a bias."""
    if len(d.shape(x)) != 2:
        return matmul(d, x)
    out, turned = d.pick([4, 3]), d.flag()
    weight = d.random(out, d.shape(x)[1]) if turned else d.random(d.shape(x)[1], out)
    return d.add("Gemm", [x, weight, d.random(out)], transB=int(turned), alpha=d.pick([1.0, 0.5]))


# ---- what a shift may meet ----------------------------------------------------------------------


def pointwise(d: Drawing, x: str) -> str:
    """Element by element."""
    op = d.pick(["Mul", "Add", "Identity", "Neg", "Dropout", "Div", "Sub", "Relu", "Sigmoid"])
    if op in ("Mul", "Add", "Div", "Sub"):
        shape = [s if d.flag() else 1 for s in d.shape(x)][d.pick([0, 0, 1]) :]
        value = d.rng.uniform(0.5, 1.5, shape)
        terms = [x, d.constant(value)]
        return d.add(op, terms[::-1] if op != "Div" and d.flag() else terms)
    return d.add(op, [x])


def together(d: Drawing, x: str) -> str:
    """Two activations of one shape."""
    op = d.pick(["Add", "Sub", "Mul", "Concat", "Max", "Sum", "Mean", "Where", "Min"])
    other = d.partner(x)
    if op == "Concat":
        return d.add(op, [x, other], axis=d.pick(range(len(d.shape(x)))))
    if op == "Where":
        condition = d.rng.random([1] * d.pick([0, 1]) + list(d.shape(x))) < 0.5
        if d.flag():
            condition = np.stack([condition, ~condition])
        return d.add(op, [d.constant(condition), x, other])
    return d.add(op, [x, other])


def pool(d: Drawing, x: str) -> str:
    """Pools of all kinds."""
    space = _spatial(d, x)[2:]
    op = d.pick(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"])
    if op.startswith("Global"):
        return d.add(op, [x])
    kernel = [min(2, s) for s in space]
    more = {"count_include_pad": 1} if op == "AveragePool" and d.flag() else {}
    return d.add(op, [x], kernel_shape=kernel, pads=[d.pick([0, 0, 1]) * (min(kernel) > 1)] * (2 * len(space)), **more)


def resize(d: Drawing, x: str) -> str:
    """Resize, Pad, DepthToSpace, SpaceToDepth."""
    shape = _spatial(d, x)
    op = d.pick(["Resize", "Pad", "DepthToSpace", "SpaceToDepth"])
    if op == "Resize":
        scales = [1, 1, *(d.pick([2, 1, 0.5]) for _ in shape[2:])]
        return d.add(op, [x, "", d.constant(np.float32(scales))], mode=d.pick(["nearest", "linear", "cubic"]))
    if op == "Pad":
        pads = [0, 0, *(d.pick([1, 0]) for _ in shape[2:])]
        return d.add(op, [x, d.constant(np.int64(pads * 2))], mode=d.pick(["reflect", "edge", "constant"]))
    if len(shape) != 4:
        raise Refused
    more = {"mode": d.pick(["DCR", "CRD"])} if op == "DepthToSpace" else {}
    return d.add(op, [x], blocksize=2, **more)


def move(d: Drawing, x: str) -> str:
    """Elements only change places."""
    shape = d.shape(x)
    match d.pick(["Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "by Shape"]):
        case "Transpose":
            return d.add("Transpose", [x], perm=[int(i) for i in d.rng.permutation(len(shape))])
        case "Reshape":
            return d.add("Reshape", [x, d.constant(np.int64(_regrouped(d, shape)))])
        case "Unsqueeze":
            return d.with_axes("Unsqueeze", x, [d.pick([0, 1, len(shape)])], 13)
        case "Squeeze":
            single = [i for i, s in enumerate(shape) if s == 1]
            return d.with_axes("Squeeze", x, [d.pick(single)], 13) if single else x
        case "Flatten":
            return d.add("Flatten", [x], axis=d.pick(range(len(shape) + 1)))
        case _:
            size = d.add("Shape", [x])
            return d.add("Reshape", [x, size])


def _regrouped(d: Drawing, shape: tuple[int, ...]) -> list[int]:
    """Another shape of as many elements: two axes merged, one split, or all in a row."""
    at = d.pick(range(len(shape)))
    ways = [[*shape[:at], 2, shape[at] // 2, *shape[at + 1 :]]] if shape[at] % 2 == 0 else []
    if at:
        ways.append([*shape[: at - 1], shape[at - 1] * shape[at], *shape[at + 1 :]])
    ways += [[shape[0], -1], [-1], list(shape[::-1])]
    return list(d.pick(ways))


def part(d: Drawing, x: str) -> str:
    """Some of the elements, or each several times."""
    shape = d.shape(x)
    axis = d.pick(range(len(shape)))
    match d.pick(["Slice", "Split", "Gather", "Tile", "Expand"]):
        case "Slice":
            ends = [d.constant(np.int64([v])) for v in (d.pick([0, 1, -2]), d.pick([2, -1, 2**40]), axis)]
            return d.add("Slice", [x, *ends])
        case "Split":
            n = shape[axis]
            if n < 2:
                raise Refused
            if d.opset < 13:
                return d.add("Split", [x], 2, axis=axis, split=[1, n - 1])
            return d.add("Split", [x, d.constant(np.int64([1, n - 1]))], 2, axis=axis)
        case "Gather":
            index = d.pick([0, [0], [0, -1], [[0, 0]]])
            return d.add("Gather", [x, d.constant(np.int64(index))], axis=axis)
        case "Tile":
            return d.add("Tile", [x, d.constant(np.int64([1 + (i == axis) for i in range(len(shape))]))])
        case _:
            return d.add("Expand", [x, d.constant(np.int64([d.pick([1, 2]), *(1 for _ in shape)]))])


def reduce(d: Drawing, x: str) -> str:
    """Means, extremes and sums over axes."""
    op = d.pick(["ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"])
    axes = sorted({d.pick(range(len(d.shape(x)))) for _ in range(d.pick([1, 2]))})
    keep = d.pick([1, 0])
    y = d.with_axes(op, x, axes, 13 if op == "ReduceSum" else 18, keepdims=keep)
    return d.add("Sub", [x, y]) if keep and d.flag() else y


def norm(d: Drawing, x: str) -> str:
    """Norms and softmax."""
    shape = d.shape(x)
    rank = len(shape)
    ops = ["Softmax", "LogSoftmax", "InstanceNormalization", "BatchNormalization", "LayerNormalization", "ArgMax"]
    op = d.pick([*ops, "GroupNormalization"])
    if op in ("Softmax", "LogSoftmax"):
        return d.add(op, [x], axis=d.pick([-1, *range(rank)]))
    if op == "ArgMax":
        axis = d.pick([-1, *range(rank)])
        steps = np.diff(np.sort(d.values[x], axis), axis=axis)
        if steps.size == 0 or steps.min() < 1e-6:  # a tie is anyone's
            raise Refused
        d.add(op, [x], axis=axis)
        return x
    if op == "LayerNormalization":
        if d.opset < 17:
            raise Refused
        axis = d.pick(range(rank))
        return d.add(op, [x, d.random(*shape[axis:])], axis=axis)
    if rank < 2 or (rank < 3 and op != "BatchNormalization"):
        raise Refused
    c = shape[1]
    if op == "GroupNormalization":
        if d.opset < 21 or c % 2:
            raise Refused
        return d.add(op, [x, d.random(c), d.random(c)], num_groups=d.pick([c, 2, 1]))
    more = [d.random(c), d.constant(d.rng.uniform(0.5, 2, c))] if op == "BatchNormalization" else []
    return d.add(op, [x, d.random(c), d.random(c), *more])


def attention(d: Drawing, x: str) -> str:
    """Query and key from two activations, softmax (or not), values; by MatMul, Einsum or the operator."""
    if len(d.shape(x)) < 3:
        raise Refused
    q, k, v = (d.pick([matmul, _itself])(d, y) for y in (x, d.partner(x), d.partner(x)))
    if d.opset >= 23 and d.flag() and len(d.shape(x)) == 4:
        return d.add("Attention", [q, k, v], scale=0.3, **d.pick([{}, {"is_causal": 1}, {"softcap": 2.0}]))
    rank = len(d.shape(k))
    turned = d.add("Transpose", [k], perm=[*range(rank - 2), rank - 1, rank - 2])
    s = d.add("MatMul", [q, turned])
    s = d.add("Mul", [s, d.constant(0.3)])
    if d.flag():
        mask = d.rng.random(d.shape(s)[-2:]) < 0.7
        mask[:, 0] = True
        fill = d.constant(d.pick([-np.inf, -5.0]))
        s = d.add("Where", [d.constant(mask), s, fill])
    if d.pick([False, False, False, True]):
        p = d.add("Sigmoid", [s])
    else:
        p = d.add("Softmax", [s], axis=d.pick([rank - 1, rank - 1, rank - 2]))
    if rank == 3 and d.flag():
        y = d.add("Einsum", [p, v], equation=d.pick(["bqk,bkd->bqd", "bqk,bkd->bd", "bqk,bkd->qbd"]))
    else:
        y = d.add("MatMul", [p, v])
    return d.pick([matmul, _itself])(d, y)


def _itself(_: Drawing, x: str) -> str:
    return x


def parallel(d: Drawing, x: str) -> str:
    """Two layers with biases of one input, added."""
    layer = d.pick([conv, matmul])
    one = layer(d, x)
    other = d.partner(one)
    for _ in range(3):
        if other != one:
            break
        other = layer(d, x)
        other = other if d.shape(other) == d.shape(one) else one
    return d.add(d.pick(["Add", "Sub"]), [one, other])


def vector(d: Drawing, x: str) -> str:
    """A product with a vector on either side."""
    shape = d.shape(x)
    if len(shape) < 2 or math.prod(shape) > 300:
        raise Refused
    if d.flag():
        return d.add("MatMul", [x, d.random(shape[-1])])
    return d.add("MatMul", [d.random(shape[-2]), x])


STARTS: tuple[Layer, ...] = (conv, matmul, gemm)
LAYERS: tuple[Layer, ...] = (
    pointwise,
    move,
    together,
    norm,
    pool,
    part,
    reduce,
    resize,
    attention,
    attention,
    parallel,
    vector,
)
ENDS: tuple[Layer, ...] = (conv, gemm, norm, matmul, _itself)
