"""What does not export says where and why in one line; what is not proved is not written."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.torch_models.export.conftest import Run

pytestmark = pytest.mark.slow

X = ("--input", "x=2,3,7,9")
ONE_LINE = 1


def error_of(run: Run, *argv: str) -> str:
    done = run("export", *argv, "-o", "net.onnx")
    assert done.code == 3, done.out + done.err
    assert done.err.count("\n") == ONE_LINE
    assert "Traceback" not in done.err
    assert not list(Path().glob("*.onnx*"))
    assert not list(Path().glob(".biasopt*"))
    return str(done.err)


@pytest.mark.parametrize(
    ("exporter", "operator"), [("dynamo", "prims.bessel_j0"), ("torchscript", "aten::special_bessel_j0")]
)
def test_names_module_and_operator(run: Run, folder: Path, exporter: str, operator: str) -> None:
    with (folder / "nets.py").open("a") as file:
        file.write("\nbessel = lambda: block(Bessel())\n")
    said = error_of(run, "nets.py:bessel", *X, "--exporter", exporter)
    assert f"the {exporter} exporter failed in body.1 (Bessel) at operator {operator}: " in said


def test_names_the_module_that_asks_what_only_data_tell(run: Run, folder: Path) -> None:
    with (folder / "nets.py").open("a") as file:
        file.write("\nbranch = lambda: block(Branch())\n")
    assert "failed in body.1 (Branch): GuardOnDataDependent" in error_of(run, "nets.py:branch", *X)
    done = run("export", "nets.py:branch", "-o", "net.onnx", *X, "--exporter", "torchscript")
    assert done.code == 0
    assert "note: tracing took values of the example for constants at nets.py:" in done.out


def test_a_module_that_fails_by_itself(run: Run, folder: Path) -> None:
    with (folder / "nets.py").open("a") as file:
        file.write("\nbroken = lambda: block(Broken())\n")
    said = error_of(run, "nets.py:broken", *X)
    assert "the module itself fails on its example (x [2, 3, 7, 9]) in body.1 (Broken): ValueError: no good" in said


def test_what_is_returned_must_be_tensors(run: Run) -> None:
    assert "returns a Thing; return a tensor" in error_of(run, "nets.py:Strange", *X)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("without_statistics", "no running statistics in batch norm 1 (track_running_stats=False)"),
        ("with_nan", "NaN or Inf in conv.weight"),
        ("lazy", "no shape yet for 0.weight, 0.bias"),
        ("on_meta", "no values for conv.weight"),
    ],
)
def test_what_must_hold_before(run: Run, spec: str, says: str) -> None:
    assert says in error_of(run, f"nets.py:{spec}", *X)


def test_odd_modules_export_on_request(run: Run) -> None:
    done = run("export", "nets.py:without_statistics", "-o", "net.onnx", *X, "--no-strict")
    assert done.code == 0, done.out + done.err
    assert "note: no running statistics in batch norm 1" in done.out


def test_a_negative_variance(run: Run, folder: Path) -> None:
    with (folder / "nets.py").open("a") as file:
        file.write("\ndef negative():\n    net = block()\n    net.norm.running_var[2] = -1\n    return net\n")
    assert "a variance below zero in norm.running_var" in error_of(run, "nets.py:negative", *X)


def test_a_module_that_stays_in_training_mode(run: Run, folder: Path) -> None:
    with (folder / "nets.py").open("a") as file:
        file.write("\nstubborn = lambda: nn.Sequential(Stubborn(3))\n")
    assert "0 stays in training mode after eval()" in error_of(run, "nets.py:stubborn", *X)


def test_training_mode_is_told(run: Run) -> None:
    done = run("export", "nets.py:in_training", "-o", "a.onnx", *X)
    assert "note: the module came in training mode; it was set to eval mode" in done.out
    assert "training mode" not in run("export", "nets.py:block", "-o", "b.onnx", *X).out
    nodes = [onnx.load(f"{name}.onnx").graph.node for name in "ab"]
    assert [n.op_type for n in nodes[0]] == [n.op_type for n in nodes[1]]


def test_statistics_that_never_saw_a_batch(run: Run) -> None:
    done = run("export", "nets.py:unseen", "-o", "a.onnx", *X)
    assert "note: no batch norm has seen a batch" in done.out
    assert "note: batch norm 1: momentum None" in done.out


def test_a_constant_in_place_of_the_input_fails(run: Run) -> None:
    done = run("export", "nets.py:Baked", "-o", "net.onnx", *X, "--exporter", "torchscript")
    assert done.code == 1
    assert "FAIL" in done.out
    assert "note: the model does not read input 'x'" in done.out
    assert not Path("net.onnx").exists()
    assert run("export", "nets.py:Baked", "-o", "a.onnx", *X, "--exporter", "torchscript", "--no-verify").code == 0


def test_noise_cannot_be_compared(run: Run) -> None:
    done = run("export", "nets.py:Noise", "-o", "net.onnx", *X)
    assert done.code == 4
    assert "the module draws random numbers in eval mode" in done.out
    assert not Path("net.onnx").exists()
    assert run("export", "nets.py:Noise", "-o", "net.onnx", *X, "--on-inconclusive", "pass").code == 0


def test_json_of_a_failure_says_why_on_stderr(run: Run) -> None:
    done = run("export", "nets.py:Baked", "-o", "net.onnx", *X, "--exporter", "torchscript", "--json")
    assert done.code == 1
    assert "nothing was written: FAIL: output 'output'" in done.err


def test_an_output_that_is_there(run: Run, folder: Path) -> None:
    (folder / "net.onnx").write_bytes(b"mine")
    done = run("export", "nets.py:block", "-o", "net.onnx", *X)
    assert (done.code, (folder / "net.onnx").read_bytes()) == (3, b"mine")
    assert "exists already" in done.err
    assert run("export", "nets.py:block", "-o", "net.onnx", *X, "--force").code == 0
    assert onnx.load("net.onnx").graph.node


def test_the_code_of_the_net_is_no_output(run: Run, folder: Path) -> None:
    before = (folder / "nets.py").read_bytes()
    done = run("export", "nets.py:block", "-o", "nets.py", *X, "--force")
    assert (done.code, (folder / "nets.py").read_bytes()) == (3, before)
    assert "is the input itself" in done.err


def test_an_output_that_cannot_be(run: Run, folder: Path) -> None:
    assert "its directory does not exist" in run("export", "nets.py:block", "-o", "no/net.onnx", *X).err
    assert "is a directory" in run("export", "nets.py:block", "-o", str(folder), *X).err


@pytest.mark.parametrize("asked", [("--input", "x=1;2"), ("--dynamic", "x=0"), ("--opset", "0"), ()])
def test_usage(run: Run, asked: tuple[str, ...]) -> None:
    assert run("export", "nets.py:block", *(("-o", "net.onnx") if asked else ()), *asked).code == 2


def test_an_interrupt_leaves_nothing(folder: Path) -> None:
    import converter

    def progress(stage: str) -> None:
        if stage.startswith("comparing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converter.export_model("nets.py:block", "net.onnx", inputs=["2,3,7,9"], progress=progress)
    assert sorted(p.name for p in folder.iterdir() if p.name != "__pycache__") == ["nets.py"]
