"""Weights from files: read without running code, every key accounted for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from converter.errors import DataError, ModelError, RuntimeUnavailable
from converter.torch_models import spec as torchspec
from converter.torch_models.spec import InputSpec, Loaded
from converter.torch_models.spec.files import load_weights

State = dict[str, Any]


def load(file: str, **options: Any) -> Loaded:
    return torchspec.load("nets.py:block", weights=Path(file), inputs=[InputSpec((1, 3, 7, 9))], **options)


@pytest.fixture
def trained(folder: Path) -> State:

    net = torchspec.load("nets.py:block", inputs=[InputSpec((1, 3, 7, 9))]).module
    return {key: value + 1 if value.is_floating_point() else value for key, value in net.state_dict().items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": {f"module.{k}": v for k, v in s.items()}, "args": {"lr": 0.1}},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()},
        lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
    ],
)
def test_state_dicts_of_all_sorts(trained: State, wrap: Callable[[State], Any]) -> None:

    torch.save(wrap(trained), "w.pt")
    loaded = load("w.pt")
    assert all(torch.equal(v, trained[k]) for k, v in loaded.module.state_dict().items())
    assert len(loaded.provenance.weights_sha256) == 64
    assert not loaded.notes


def test_safetensors(trained: State, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    save = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    save.save_file(trained, "w.safetensors")
    assert torch.equal(load("w.safetensors").module.conv.weight, trained["conv.weight"])
    monkeypatch.delitem(sys.modules, "safetensors.torch")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(RuntimeUnavailable, match="safetensors is not installed"):
        load("w.safetensors")


def test_a_module_whose_own_keys_begin_so_keeps_them(folder: Path) -> None:

    (folder / "wrapped.py").write_text(
        "from torch import nn\nmake = lambda: nn.ModuleDict({'module': nn.Linear(2, 2)})\n"
    )
    torch.save({"module.weight": torch.ones(2, 2), "module.bias": torch.ones(2)}, "w.pt")
    made = torchspec.load("wrapped.py:make", weights=Path("w.pt"), inputs=[InputSpec((1, 2))])
    assert made.module["module"].bias.tolist() == [1, 1]


def test_keys_that_do_not_fit_are_named_in_one_line(trained: State) -> None:

    trained.pop("norm.bias")
    torch.save(trained | {"head.weight": torch.ones(1)}, "w.pt")
    with pytest.raises(ModelError, match=r"^w.pt: lacks norm.bias and has unexpected head.weight; .*--no-strict$"):
        load("w.pt")
    assert load("w.pt", strict=False).notes == ("w.pt lacks norm.bias and has unexpected head.weight: taken as it is",)


def test_many_keys_are_counted(trained: State) -> None:

    torch.save(trained | {f"head.{i}": torch.ones(1) for i in range(9)}, "w.pt")
    with pytest.raises(ModelError, match=r"head.0, head.1, head.2 and 6 more;"):
        load("w.pt")


@pytest.mark.parametrize("strict", [True, False])
def test_shapes_must_fit_and_some_key_too(trained: State, strict: bool) -> None:

    torch.save(trained | {"conv.weight": torch.ones(2, 3, 3, 3)}, "w.pt")
    with pytest.raises(ModelError, match=r"conv.weight is \[2, 3, 3, 3\], not \[5, 3, 3, 3\]"):
        load("w.pt", strict=strict)
    torch.save({f"x.{k}": v for k, v in trained.items()}, "w.pt")
    with pytest.raises(ModelError, match="shares no key"):
        load("w.pt", strict=strict)


def test_no_code_of_a_file_runs(trained: State, folder: Path) -> None:

    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (folder / "boom",)

    torch.save({"state_dict": trained, "hook": Bomb()}, "w.pt")
    with pytest.raises(ModelError, match=r"holds Python objects beside tensors \(.*\), which are not read"):
        load("w.pt")
    assert not (folder / "boom").exists()


@pytest.mark.parametrize(("content", "says"), [(b"hello", "no file of weights"), (None, "no such file of weights")])
def test_what_is_no_file_of_weights(folder: Path, content: bytes | None, says: str) -> None:
    if content is not None:
        (folder / "w.pt").write_bytes(content)
    with pytest.raises(ModelError, match=says):
        load("w.pt")


def test_a_list_is_no_state_dict() -> None:

    torch.save([torch.ones(1)], "w.pt")
    with pytest.raises(ModelError, match="holds a list, no state dict"):
        load("w.pt")


def test_weights_fill_a_module_on_the_meta_device(trained: State) -> None:

    kept = {k: v for k, v in trained.items() if not k.startswith("body")}
    torch.save(kept, "w.pt")
    loaded = torchspec.load("nets.py:on_meta", weights=Path("w.pt"), inputs=[InputSpec((1, 3, 7, 9))])
    assert not any(p.is_meta for p in loaded.module.parameters())


def test_a_file_of_weights_is_no_model(trained: State) -> None:

    torch.save(trained, "w.pt")
    with pytest.raises(ModelError, match="give the code that makes the model as SPEC and this file as --weights"):
        torchspec.load("w.pt")


def test_shapes_and_a_function_exclude_each_other() -> None:
    with pytest.raises(DataError, match="not both"):
        torchspec.load("nets.py:many", inputs=[InputSpec((1,))], example="nets.py:many_inputs")


class Versioned(torch.nn.Module):
    """As torchvision's MNASNet: what it loads hangs on the version that the state dict has of it."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 5, 1)

    def _load_from_state_dict(self, state: State, prefix: str, local: dict[str, Any], *rest: Any) -> None:
        if local.get("version") not in (1, 2):
            raise ValueError(f"version should be set to 1 or 2 instead of {local.get('version')}")
        self.loaded = local["version"]
        super()._load_from_state_dict(state, prefix, local, *rest)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("version", [1, None])
def test_versions_of_modules_go_along(prefix: str, version: int | None, tmp_path: Path) -> None:
    net = Versioned()
    state = net.state_dict()
    if version is not None:
        state._metadata[""]["version"] = version
    if prefix:
        wrapped = type(state)((prefix + key, value) for key, value in state.items())
        wrapped._metadata = {"": {}} | {f"{prefix}{key}".removesuffix("."): v for key, v in state._metadata.items()}
        state = wrapped
    torch.save(state if version is not None else dict(state), tmp_path / "w.pt")
    twin = Versioned()
    load_weights(twin, tmp_path / "w.pt", strict=True, label="net")
    assert twin.loaded == (version or 2)
    assert torch.equal(twin.conv.weight, net.conv.weight)


def test_what_a_module_refuses_is_a_line(tmp_path: Path) -> None:
    class Fussy(Versioned):
        def _load_from_state_dict(self, *rest: Any) -> None:
            raise ValueError("not today")

    torch.save(Fussy().state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"w\.pt: does not fit net .not today"):
        load_weights(Fussy(), tmp_path / "w.pt", strict=True, label="net")


def test_a_checkpoint_from_before_the_fix_is_told_how_to_fit(tmp_path: Path) -> None:
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 5, 1)).state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match="by --fix-checkpoint"):
        load_weights(
            torch.nn.Sequential(torch.nn.Conv2d(3, 5, 1, bias=False)), tmp_path / "w.pt", strict=True, label="net"
        )
