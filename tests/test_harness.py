"""The tests' own tools: the oracle agrees with onnxruntime, and the harness notices every kind of damage."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests import harness, oracle
from tests.cases.case import Case, Want
from tests.cases.rows import ROWS, SOUND
from tests.tiny import Draw, X, Y, model, sub

ALL = (*ROWS, *SOUND)
# The models of refused rows may divide by zero or hold NaN; those are never compared by value.
RUNNABLE = [c for c in ALL if c.ort and c.want is not Want.REFUSE]


def test_oracle_agrees_with_onnxruntime_on_every_model() -> None:
    for case in RUNNABLE:
        proto = case.build()
        for feeds in harness.feeds_of(proto, case.feed_scale):
            for ref, got in zip(oracle.run(proto, feeds), harness.run_ort(proto, feeds), strict=True):
                assert ref.shape == got.shape, case.id
                error = np.abs(ref - np.asarray(got, np.float64)).max()
                assert error <= 2 * max(case.tol, 1e-5) * np.abs(ref).max(), case.id


@pytest.mark.parametrize("case", [c for c in ALL if c.want is Want.REFUSE and c.twin], ids=str)
def test_twin_differs_and_is_valid(case: Case) -> None:
    assert case.twin
    twin = case.twin()
    assert harness.checker_accepts(twin, full=True)
    assert harness.dump(twin) != harness.dump(case.build()) or case.options


def original() -> onnx.ModelProto:
    draw = Draw()
    proto = model(f"{X} => {Y} {{ h = Conv (x, w, b) y = Relu (h) }}", draw.conv(5, 3, 3, 2, bias=5))
    proto.metadata_props.add(key="a", value="b")
    proto.graph.value_info.append(helper.make_tensor_value_info("h", 1, [2, 5, 9, 12]))
    return proto


def _swap_channels(proto: onnx.ModelProto) -> None:
    bias = numpy_helper.to_array(proto.graph.initializer[1])
    sub(proto, b=bias[[1, 0, 2, 3, 4]])


def _scale_weight(proto: onnx.ModelProto) -> None:
    sub(proto, w=numpy_helper.to_array(proto.graph.initializer[0]) * np.float32(1.0001))


def _rename_output(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].name = proto.graph.node[1].output[0] = "z"


def _leave_unused(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "unused"))


def _leave_stale_info(proto: onnx.ModelProto) -> None:
    proto.graph.value_info.append(helper.make_tensor_value_info("gone", 1, [1]))


def _dead_node(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Neg", ["x"], ["dead"], name="dead"))


def _drop_metadata(proto: onnx.ModelProto) -> None:
    del proto.metadata_props[:]


def _change_info(proto: onnx.ModelProto) -> None:
    proto.graph.value_info[0].type.tensor_type.shape.dim[0].dim_param = "N"


def _opset(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 18


def _make_nan(proto: onnx.ModelProto) -> None:
    sub(proto, b=np.full(5, np.nan, np.float32))


DAMAGE: tuple[Callable[[onnx.ModelProto], None], ...] = (
    _swap_channels,
    _scale_weight,
    _rename_output,
    _leave_unused,
    _leave_stale_info,
    _dead_node,
    _drop_metadata,
    _change_info,
    _opset,
    _make_nan,
)


def judge(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    harness.assert_same_interface(before, after)
    harness.assert_untouched_survives(before, after)
    harness.assert_nothing_dangles(before, after)
    harness.assert_same_values(before, after)


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__.strip("_"))
def test_harness_notices(damage: Callable[[onnx.ModelProto], None]) -> None:
    judge(original(), original())
    after = original()
    damage(after)
    with pytest.raises(AssertionError):
        judge(original(), after)


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_tests_in_the_background_hear_signals() -> None:
    """A shell starts what runs in the background with SIGINT ignored, nohup with SIGHUP; children inherit that."""
    code = "import signal; from tests import conftest; conftest.pytest_configure(); "
    code += "print([signal.getsignal(n) is not signal.SIG_IGN for n in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)])"
    ran = subprocess.run(
        ["/bin/sh", "-c", 'trap "" HUP INT TERM; exec "$0" -c "$1"', sys.executable, code],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ran.stdout == "[True, True, True]\n"


_SCRIPTS = [
    path for path in sorted(Path(__file__).parent.rglob("*.py")) if "\nif __name__ ==" in path.read_text("utf-8")
]


@pytest.mark.parametrize("path", _SCRIPTS, ids=lambda path: path.stem)
def test_a_script_that_no_test_reads_still_loads(path: Path) -> None:
    """`python -m tests....` is run by hand and by make; a name that moved away would be found by nobody else."""
    name = ".".join(path.relative_to(Path(__file__).parents[1]).with_suffix("").parts)
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] in ("tests", "converter", "cli"):
            raise
        pytest.skip(f"{exc.name} is not installed")
