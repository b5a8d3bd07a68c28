"""What it means that a model folds, or is left alone: every promise that does not depend on the row.

``assert_folds`` and ``assert_declines`` are for one pass and one tiny model; ``tests/cases`` uses
the smaller checks below them as well.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnxruntime as ort

import converter
from tests import oracle
from tests.tiny import all_nodes, graphs

Feeds = dict[str, Any]


def dump(proto: onnx.ModelProto) -> bytes:
    """Return a model's bytes, the same for equal models."""
    return bytes(proto.SerializeToString(deterministic=True))


def run_fold(proto: onnx.ModelProto, **options: Any) -> Any:
    """Fold without the built-in check (the tests have their own), and assert the input is as it was."""
    before = dump(proto)
    options.setdefault("verify", False)
    options.setdefault("allow_growth", math.inf)  # in models this small, a longer name is growth
    result = converter.fold(proto, **options)
    assert dump(proto) == before, "fold changed the caller's model"
    return result


# ---- values -------------------------------------------------------------------------------------


def feeds_of(proto: onnx.ModelProto, scale: float = 1.0) -> list[Feeds]:
    """Seeded inputs for a model: two draws, and both values of every boolean input. Unknown sizes are 3."""
    named = {t.name for t in proto.graph.initializer}
    inputs = [v for v in proto.graph.input if v.name not in named]
    flags = [v.name for v in inputs if v.type.tensor_type.elem_type == onnx.TensorProto.BOOL]
    found = []
    for seed, values in itertools.product((11, 12), itertools.product((False, True), repeat=len(flags))):
        rng = np.random.default_rng(seed)
        feeds: Feeds = {k: np.array(v) for k, v in zip(flags, values, strict=True)}
        feeds |= {v.name: _draw(v, rng, scale) for v in inputs if v.name not in flags}
        found.append(feeds)
    return found


def _draw(value: onnx.ValueInfoProto, rng: np.random.Generator, scale: float) -> Any:
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    shape = tuple(d.dim_value or 3 for d in kind.shape.dim)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(1, 4, shape).astype(dtype)
    return np.asarray(rng.standard_normal(shape) * scale).astype(dtype)


def session(proto: onnx.ModelProto) -> ort.InferenceSession:
    """Open a model with every optimisation off, on one thread, silently."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(dump(proto), options, providers=["CPUExecutionProvider"])


def run_ort(proto: onnx.ModelProto, feeds: Feeds) -> list[Any]:
    """Return what onnxruntime answers, in the order of the graph's outputs."""
    return list(session(proto).run([o.name for o in proto.graph.output], feeds))


def assert_close(ref: Any, got: Any, tol: float, what: str) -> None:
    """``max|ref - got| <= tol * max|ref|``; same dtype and shape; finite."""
    assert ref.dtype == got.dtype, f"{what}: {ref.dtype} became {got.dtype}"
    assert ref.shape == got.shape, f"{what}: shape {ref.shape} became {got.shape}"
    a, b = np.asarray(ref, np.float64), np.asarray(got, np.float64)
    assert a.size, f"{what}: nothing to compare"
    assert np.isfinite(a).all(), f"{what}: the row's own reference is not finite"
    assert np.isfinite(b).all(), f"{what}: not finite after folding"
    scale, error = float(np.abs(a).max()), float(np.abs(a - b).max())
    assert error <= tol * max(scale, 1e-30), f"{what}: error {error:.3g} at scale {scale:.3g}, allowed {tol:g}"


def assert_same_values(
    before: onnx.ModelProto, after: onnx.ModelProto, *, tol: float = 1e-5, use_ort: bool = True, scale: float = 1.0
) -> None:
    """Check equal outputs in the float64 oracle and, with ``use_ort``, in onnxruntime with optimisations off.

    Equal bytes need no run (and a refused model may well answer NaN).
    """
    if dump(after) == dump(before):
        return
    names = [o.name for o in before.graph.output]
    for feeds in feeds_of(before, scale):
        answers = [("float64 oracle", oracle.run)] + ([("onnxruntime", run_ort)] if use_ort else [])
        for engine, run in answers:
            for name, ref, got in zip(names, run(before, feeds), run(after, feeds), strict=True):
                assert_close(ref, got, tol, f"{engine}, output {name}")


# ---- structure ----------------------------------------------------------------------------------


def ops_of(proto: onnx.ModelProto) -> Counter[str]:
    """Count operators over graphs and functions; a function's Constant nodes are its initializers, not counted."""
    found = Counter(n.op_type for n in all_nodes(proto))
    inside = sum(n.op_type == "Constant" for f in proto.functions for n in f.node)
    found["Constant"] -= inside
    return +found


def assert_ops(proto: onnx.ModelProto, ops: str) -> None:
    """``ops`` names the operators that are left, in any order; ``|`` separates alternatives."""
    got = ops_of(proto)
    wanted = [Counter(option.split()) for option in ops.split("|")]
    assert got in wanted, f"operators left: {' '.join(sorted(got.elements()))}; wanted: {ops}"


def checker_accepts(proto: onnx.ModelProto, *, full: bool) -> bool:
    """Ask whether onnx.checker takes the model, with shape inference where ``full``."""
    try:
        onnx.checker.check_model(proto, full_check=full)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def assert_checker_no_worse(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """What the checker took before it takes after."""
    for full in (False, True):
        if checker_accepts(before, full=full):
            onnx.checker.check_model(after, full_check=full)


def assert_same_interface(before: onnx.ModelProto, after: onnx.ModelProto, frozen: Iterable[str] = ()) -> None:
    """Inputs without an initializer and all outputs: same names, types, shapes, documentation and order."""
    held = {t.name for t in before.graph.initializer}
    ours = [v for v in before.graph.input if v.name not in held]
    theirs = [v for v in after.graph.input if v.name in {o.name for o in ours}]
    assert theirs == ours, "graph inputs changed"
    assert list(after.graph.output) == list(before.graph.output), "graph outputs changed"
    if before.ir_version >= 4:
        kept = [v.name for v in before.graph.input if v.name not in set(frozen)]
        assert [v.name for v in after.graph.input] == kept, "the list of graph inputs changed"


def assert_untouched_survives(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Everything that no rewrite needed to change is as it was."""
    for name in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(after, name) == getattr(before, name), f"model {name} changed"
    assert list(after.opset_import) == list(before.opset_import), "opset_import changed"
    ours = {p.key: p.value for p in before.metadata_props}
    theirs = {p.key: p.value for p in after.metadata_props}
    assert ours.items() <= theirs.items(), "model metadata_props lost"
    assert [f.name for f in after.functions] == [f.name for f in before.functions], "functions changed"
    old, new = (list(graphs(p.graph)) for p in (before, after))
    assert [g.name for g in old] == [g.name for g in new], "graphs came or went"
    for a, b in zip(old, new, strict=True):
        _assert_graph_survives(a, b)


def _assert_graph_survives(before: onnx.GraphProto, after: onnx.GraphProto) -> None:
    assert after.doc_string == before.doc_string
    assert {p.key: p.value for p in after.metadata_props} == {p.key: p.value for p in before.metadata_props}
    assert list(after.sparse_initializer) == list(before.sparse_initializer), "sparse initializers changed"
    for kind in ("initializer", "value_info"):
        old = {t.name: t for t in getattr(before, kind)}
        for thing in getattr(after, kind):
            if thing.name in old:
                assert thing == old[thing.name], f"{kind} {thing.name} was changed in place"
    nodes = {n.name: n for n in before.node}
    for node in after.node:
        if node.name in nodes:
            was = nodes[node.name]
            assert (node.doc_string, list(node.metadata_props)) == (was.doc_string, list(was.metadata_props)), node.name
    assert len({t.name for t in after.initializer}) == len(after.initializer), "an initializer name twice"


def assert_nothing_dangles(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """No constant is left that only the rewrite made useless, and none went that was useless before."""
    was, now = set(_unread(before)), set(_unread(after))
    assert now == was, f"left without a reader: {sorted(now - was)}; removed though not ours: {sorted(was - now)}"
    dead = {o for n in all_nodes(after) for o in n.output if o} - _read(after)
    assert dead <= {o for n in all_nodes(before) for o in n.output if o} - _read(before), f"dead outputs: {dead}"
    known = {o for n in all_nodes(after) for o in n.output} | _read(after) | set(_unread(after))
    stale = {v.name for g in graphs(after.graph) for v in g.value_info} - known
    assert not stale, f"value_info of tensors that are gone: {sorted(stale)}"


def _read(proto: onnx.ModelProto) -> set[str]:
    outputs = {o.name for g in graphs(proto.graph) for o in g.output} | {o for f in proto.functions for o in f.output}
    return outputs | {i for n in all_nodes(proto) for i in n.input}


def _unread(proto: onnx.ModelProto) -> Iterator[str]:
    read = _read(proto)
    for graph in graphs(proto.graph):
        yield from (t.name for t in graph.initializer if t.name not in read)


def assert_idempotent(result: Any, **options: Any) -> None:
    """Fold the result again: nothing is left to do, and not one byte changes."""
    again = run_fold(result.model, **options)
    assert not again.rewrites, f"a second fold rewrites {[r.id for r in again.rewrites]}"
    assert dump(again.model) == dump(result.model), "a second fold changes bytes"


# ---- the two sentences --------------------------------------------------------------------------


def describe(result: Any) -> str:
    """Return findings and rewrites, one a line, for a failure's message."""
    lines = [f"rewrote {r.id}" for r in result.rewrites]
    lines += [f"{f.status} {f.id} {f.code}: {f.why}" for f in result.findings]
    return "\n".join(lines) or "no findings"


def assert_sound(
    proto: onnx.ModelProto, result: Any, *, tol: float = 1e-5, use_ort: bool = True, scale: float = 1.0, **options: Any
) -> None:
    """Check all that must hold after any fold of any model, whatever it did."""
    frozen = {t.name for t in proto.graph.initializer} if options.get("freeze_overridable") else ()
    if not result.rewrites:
        assert dump(result.model) == dump(proto), "no rewrite, but other bytes"
    if not frozen:
        assert_same_interface(proto, result.model)
        assert_untouched_survives(proto, result.model)
    assert_nothing_dangles(proto, result.model)
    assert_checker_no_worse(proto, result.model)
    assert_same_values(proto, result.model, tol=tol, use_ort=use_ort, scale=scale)
    assert_idempotent(result, **options)


def assert_folds(
    proto: onnx.ModelProto,
    passes: str | Iterable[str],
    *,
    ops: str = "",
    tol: float = 1e-5,
    use_ort: bool = True,
    scale: float = 1.0,
    **options: Any,
) -> Any:
    """One of ``passes`` rewrites, ``ops`` are left, and all of ``assert_sound`` holds; return the FoldResult."""
    wanted = {passes} if isinstance(passes, str) else set(passes)
    result = run_fold(proto, **options)
    assert wanted & {r.pass_name for r in result.rewrites}, f"none of {sorted(wanted)} acted\n{describe(result)}"
    if ops:
        assert_ops(result.model, ops)
    assert_sound(proto, result, tol=tol, use_ort=use_ort, scale=scale, **options)
    return result


def assert_declines(proto: onnx.ModelProto, name: str, code: str = "", *, says: str = "", **options: Any) -> Any:
    """The pass alone declines for ``code`` with a reason, and the model is bit-identical; return the FoldResult."""
    result = run_fold(proto, only=[name], **options)
    assert not result.rewrites, f"{name} rewrote\n{describe(result)}"
    assert dump(result.model) == dump(proto), "declined, but other bytes"
    declined = [f for f in result.findings if f.status == "declined" and speaks_for(f, name)]
    assert declined, f"{name} says nothing\n{describe(result)}"
    for finding in declined:
        assert finding.code, f"{finding.id} has no code"
        assert finding.why, f"{finding.id} has no reason"
        assert finding.id == f"{finding.pass_name}@{finding.node}"
    if code:
        assert code in {f.code for f in declined}, f"wanted {code}\n{describe(result)}"
    if says:
        assert any(says in f.why for f in declined), f"no reason names {says!r}\n{describe(result)}"
    return result


def speaks_for(finding: Any, name: str) -> bool:
    """A BatchNormalization with no linear operator beside it belongs to no one pass: ``fold-bn`` speaks for all."""
    return finding.pass_name == name or (finding.pass_name == "fold-bn" and name.startswith("fold-bn-into-"))


def assert_left_alone(proto: onnx.ModelProto, keep: str, **options: Any) -> Any:
    """Fold with all passes: the operators ``keep`` survive and all of ``assert_sound`` holds; return the FoldResult."""
    sound = {k: options.pop(k) for k in ("tol", "use_ort", "scale") if k in options}
    result = run_fold(proto, **options)
    lost = Counter(keep.split()) - ops_of(result.model)
    assert not lost, f"lost {sorted(lost.elements())}\n{describe(result)}"
    assert_sound(proto, result, **sound, **options)
    return result
