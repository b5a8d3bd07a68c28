"""A torch model as the user names it becomes a module with an example of its inputs."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from converter.errors import DataError, ModelError, RuntimeUnavailable
from converter.torch_models import spec as torchspec
from converter.torch_models.spec import InputSpec, libraries, parse_input
from converter.torch_models.spec.libraries import need

X = (InputSpec((1, 3, 7, 9)),)


@pytest.mark.parametrize("spec", ["nets.py:block", "./nets.py:block", "nets:block"])
def test_factory_of_a_file_or_module(spec: str) -> None:
    loaded = torchspec.load(spec, inputs=X)
    assert type(loaded.module).__name__ == "Block"
    assert loaded.label == spec
    assert loaded.input_names == ("x",)
    assert loaded.example_inputs[0].shape == (1, 3, 7, 9)
    sys.modules.pop("nets", None)


def test_keyword_arguments_follow_a_factory() -> None:
    assert torchspec.load("nets.py:block(width=7)", inputs=X).module.body[1].out_channels == 7
    with pytest.raises(ModelError, match="not literals by keyword"):
        torchspec.load("nets.py:block(7)", inputs=X)
    with pytest.raises(ModelError, match="not literals by keyword"):
        torchspec.load("nets.py:block(width=open('x'))", inputs=X)


def test_spec_in_the_provenance_has_no_folder(folder: Path) -> None:
    loaded = torchspec.load(f"{folder}/nets.py:block", inputs=X)
    assert loaded.provenance.spec == "nets.py:block"


def test_a_file_finds_what_lies_beside_it(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "helper_of_nets.py").write_text("WIDTH = 2\n")
    (folder / "deep" / "net.py").write_text(
        "from helper_of_nets import WIDTH\nfrom torch import nn\nmake = lambda: nn.Linear(WIDTH, WIDTH)\n"
    )
    before = list(sys.path)
    assert torchspec.load("deep/net.py:make", inputs=[InputSpec((1, 2))]).module.in_features == 2
    assert sys.path == before


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nets.py:blok", "has no 'blok'; did you mean 'block'?"),
        ("nothing.py:block", "there is no file nothing.py"),
        ("no_such_module:block", "there is no module 'no_such_module'"),
        ("resnet50", "names no model"),
        ("nets.py:fails", r"the factory failed at nets.py:\d+: KeyError: 'backbone'"),
        ("nets.py:number", "returned no torch.nn.Module but int"),
        ("nets.py:Thing", "returned no torch.nn.Module but Thing"),
        ("nothing.pt2", "there is no such file"),
    ],
)
def test_what_names_no_module(spec: str, says: str) -> None:
    with pytest.raises(ModelError, match=says) as error:
        torchspec.load(spec, inputs=X)
    assert "\n" not in str(error.value)


def test_a_file_that_does_not_import(folder: Path) -> None:
    (folder / "bad.py").write_text("import torch\nraise RuntimeError('not today')\n")
    with pytest.raises(ModelError, match=r"bad.py:f: importing it failed at bad.py:2: RuntimeError: not today"):
        torchspec.load("bad.py:f", inputs=X)


def test_torchvision_net(torchvision: None) -> None:
    loaded = torchspec.load("torchvision:squeezenet1_1(num_classes=3)")
    assert loaded.example_inputs[0].shape == (1, 3, 224, 224)
    assert loaded.provenance.random_weights
    assert not loaded.module.training
    assert loaded.notes == ("the weights are random: no file of weights was given",)
    with pytest.raises(ModelError, match=r"has no model 'resnet5'; did you mean .*resnet50"):
        torchspec.load("torchvision:resnet5")


def test_random_weights_are_the_same_on_every_run(torchvision: None) -> None:
    import torch

    state = torch.random.get_rng_state()
    one, two = (torchspec.load("torchvision:squeezenet1_1").module for _ in range(2))
    other = torchspec.load("torchvision:squeezenet1_1", seed=1).module
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_timm_net() -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    assert torchspec.load("timm:resnet18").provenance.random_weights


def test_timm_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RuntimeUnavailable, match=r"timm is not installed .*pip install timm"):
        torchspec.load("timm:resnet18")


def test_torchvision_that_does_not_import(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "torchvision.py").write_text("raise RuntimeError('undefined symbol: nms')\n")
    monkeypatch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(RuntimeUnavailable, match=r"torchvision cannot be imported \(undefined symbol: nms"):
        torchspec.load("torchvision:resnet50")


def test_torchvision_beside_another_torch_does_without_its_operators(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    nets = ModuleType("torchvision.models")

    def declared() -> None:
        monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
        monkeypatch.setitem(sys.modules, "torchvision.models", nets)

    monkeypatch.setattr(libraries, "load_without_operators", declared)
    assert need("torchvision.models") is nets


def test_nothing_says_what_the_inputs_are() -> None:
    with pytest.raises(DataError, match="give --shape x=1,3,224,224"):
        torchspec.load("nets.py:block")


@pytest.mark.parametrize(
    ("value", "spec"),
    [
        ("x=1,3,224,224", InputSpec((1, 3, 224, 224), "x")),
        ("1,3", InputSpec((1, 3))),
        ("ids=2,128:int64", InputSpec((2, 128), "ids", "int64")),
        ("n=:long", InputSpec((), "n", "int64")),
        (" y = 4 :half", InputSpec((4,), "y", "float16")),
    ],
)
def test_reads_inputs(value: str, spec: InputSpec) -> None:
    assert parse_input(value) == spec


@pytest.mark.parametrize("value", ["", "x=1,,3", "x=1;3", "x=a", "x=1:float31", "x=-1"])
def test_what_is_no_input(value: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        parse_input(value)


def test_inputs_bind_to_parameters_by_name() -> None:
    inputs = [parse_input("scale="), parse_input("ids=2,5:int64"), parse_input("mask=2,5:bool")]
    loaded = torchspec.load("nets.py:many", inputs=inputs)
    ids, mask = loaded.example_inputs
    assert (ids.shape, str(ids.dtype), str(mask.dtype)) == ((2, 5), "torch.int64", "torch.bool")
    assert int(ids.max()) < 11
    assert list(loaded.example_kwargs) == ["scale"]
    assert loaded.input_names == ("ids", "mask", "scale")
    loaded.module(*loaded.example_inputs, **loaded.example_kwargs)


def test_names_that_no_parameter_has_name_the_inputs_in_order() -> None:
    loaded = torchspec.load("nets.py:Sum", inputs=[parse_input("a=2,3"), parse_input("b=2,3")])
    assert loaded.input_names == ("a", "b")


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(DataError, match=r"'z' is no parameter .*it takes left, right"):
        torchspec.load("nets.py:Sum", inputs=[parse_input("left=2"), parse_input("z=2")])
    with pytest.raises(DataError, match="'left' is given twice"):
        torchspec.load("nets.py:Sum", inputs=[parse_input("left=2"), parse_input("left=2")])


def test_floats_are_of_the_module_s_own_type() -> None:
    assert str(torchspec.load("nets.py:half", inputs=X).example_inputs[0].dtype) == "torch.float16"


def test_example_function() -> None:
    loaded = torchspec.load("nets.py:many", example="nets.py:many_inputs")
    assert loaded.input_names == ("ids", "scale")
    assert torchspec.load("nets.py:Sum", example="nets.py:pair_inputs").input_names == ("left", "right")
    with pytest.raises(ModelError, match=r"the function failed at nets.py"):
        torchspec.load("nets.py:many", example="nets.py:fails")
    with pytest.raises(ModelError, match="names no function"):
        torchspec.load("nets.py:many", example="many_inputs")


def test_a_module_that_is_there_already() -> None:
    import torch

    net = torch.nn.Linear(2, 3)
    loaded = torchspec.wrap_module(net, example=torch.ones(1, 2))
    assert loaded.module is net
    assert loaded.input_names == ("input",)
    with pytest.raises(ModelError, match=r"is no torch.nn.Module"):
        torchspec.wrap_module(3, example=torch.ones(1, 2))
