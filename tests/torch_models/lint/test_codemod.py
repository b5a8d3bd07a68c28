# ruff: noqa: E501, ISC004  (a source on one line, as its test reads it)
"""``lint --fix``: the edit, what stays, and what is refused."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from converter.errors import ModelError
from converter.torch_models.lint import examine, lint, recording

pytest.importorskip("libcst", reason="libcst is not installed")

from converter.torch_models.lint.codemod import SourceFix, plan_source_fix

HEAD = "import torch\nfrom torch import nn\n\n\n"


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"case_{abs(hash(path))}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    del sys.modules[spec.name]
    return module


def fixed(tmp_path: Path, source: str, call: str = "make") -> SourceFix:
    path = tmp_path / "net.py"
    path.write_bytes((HEAD + source).encode())
    with recording() as places:
        net = getattr(loaded(path), call)()
    return plan_source_fix(examine(net, torch.randn(2, 3, 9, 9), places=places), net, tmp_path)


SEQUENTIAL = "def make():\n    return nn.Sequential({0}, nn.BatchNorm2d(5))\n"
EDITS = {
    "nn.Conv2d(3, 5, 3)": "nn.Conv2d(3, 5, 3, bias=False)",
    "nn.Conv2d(3, 5, 3, bias=True)": "nn.Conv2d(3, 5, 3, bias=False)",
    "nn.Conv2d(3, 5, 3, bias = True, stride=2)": "nn.Conv2d(3, 5, 3, bias = False, stride=2)",
    "nn.Conv2d(3, 5, 3, 1, 0, 1, 1, True)": "nn.Conv2d(3, 5, 3, 1, 0, 1, 1, False)",
    "nn.Conv2d( 3,5,3 )": "nn.Conv2d( 3,5,3,bias=False )",
    "nn.Conv2d(3, 5, 3,)": "nn.Conv2d(3, 5, 3, bias=False,)",
    "nn.Conv2d(\n        3,\n        5,\n        3,  # taps\n    )": (
        "nn.Conv2d(\n        3,\n        5,\n        3,  # taps\n        bias=False,\n    )"
    ),
    "nn.Conv2d(\n        3,  # in\n        5,\n        3  # taps\n    )": (
        "nn.Conv2d(\n        3,  # in\n        5,\n        3,  # taps\n        bias=False\n    )"
    ),
    "torch.nn.Conv2d(3, 5, 3)": "torch.nn.Conv2d(3, 5, 3, bias=False)",
    "nn.ConvTranspose2d(3, 5, 3)": "nn.ConvTranspose2d(3, 5, 3, bias=False)",
}


@pytest.mark.parametrize("before", EDITS)
def test_edit(before: str, tmp_path: Path) -> None:
    found = fixed(tmp_path, SEQUENTIAL.format(before))
    assert not found.refused
    (edited,) = found.edited
    assert edited.after.decode() == HEAD + SEQUENTIAL.format(EDITS[before])
    found.write()
    net = loaded(tmp_path / "net.py").make()
    assert net[0].bias is None
    assert not lint(net, torch.randn(2, 3, 9, 9)).findings


def test_dry_run_writes_nothing_and_shows_a_diff(tmp_path: Path) -> None:
    found = fixed(tmp_path, SEQUENTIAL.format("nn.Conv2d(3, 5, 3)"))
    assert "bias=False" not in (tmp_path / "net.py").read_text(encoding="utf-8")
    assert found.diff.startswith("--- a/net.py\n+++ b/net.py\n")
    assert "+    return nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5))" in found.diff


def test_rest_of_the_file_stays_byte_for_byte(tmp_path: Path) -> None:
    odd = "# coding: latin-1\r\n# caf\xe9\r\nx = {  'a' :1 }\r\n\t\r\n"
    head = "import torch\r\nfrom torch import nn\r\n"
    body = "def make():\r\n    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))\r\n"
    path = tmp_path / "net.py"
    path.write_bytes((odd + head + body).encode("latin-1"))
    with recording() as places:
        net = loaded(path).make()
    (edited,) = plan_source_fix(examine(net, torch.randn(2, 3, 9, 9), places=places), net, tmp_path).edited
    assert edited.after == edited.before.replace(b"5, 3)", b"5, 3, bias=False)")


def test_file_that_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    found = fixed(tmp_path, SEQUENTIAL.format("nn.Conv2d(3, 5, 3)"))
    (tmp_path / "net.py").write_text("changed\n", encoding="utf-8")
    with pytest.raises(ModelError, match="was changed meanwhile"):
        found.write()
    assert (tmp_path / "net.py").read_text(encoding="utf-8") == "changed\n"


CLASS = """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 5, 3)
        self.n = nn.BatchNorm2d(5)

    def forward(self, x):
        return self.n(self.c(x))


make = Net
"""


def test_layer_and_norm_of_one_class(tmp_path: Path) -> None:
    (edited,) = fixed(tmp_path, CLASS).edited
    assert edited.after == edited.before.replace(b"5, 3)", b"5, 3, bias=False)")


def test_layer_and_norm_under_one_condition(tmp_path: Path) -> None:
    call = "        if x.ndim == 4:\n            x = self.c(x)\n            x = self.n(x)\n        return x\n"
    assert len(fixed(tmp_path, CLASS.replace("        return self.n(self.c(x))\n", call)).edited) == 1
    both = "        if x.ndim == 3:\n            return self.n(self.c(x[None]))\n        return self.n(self.c(x))\n"
    assert len(fixed(tmp_path, CLASS.replace("        return self.n(self.c(x))\n", both)).edited) == 1


def test_readers_of_the_bias_are_named(tmp_path: Path) -> None:
    said = "if self.c.bias is not None:\n            nn.init.zeros_(self.c.bias)"
    source = CLASS.replace("        self.n =", f"        {said}\n        self.n =")
    (edited,) = fixed(tmp_path, source).edited
    lines = (HEAD + source).splitlines()
    assert [lines[line - 1].strip() for line in edited.readers] == [line.strip() for line in said.splitlines()]


LOOP = """        for m in self.modules():
            {}
"""


@pytest.mark.parametrize(
    ("line", "crashes"),
    [
        ("nn.init.zeros_(self.c.bias)", True),
        ("self.c.bias.data.zero_()", True),
        ("self.c.bias.data[:2] = 0", True),
        ("self.c.bias is None or nn.init.zeros_(self.c.bias)", False),
        ("self.n.bias.data.zero_()", False),  # another's
        ("nn.init.zeros_(self.n.bias)", False),
        (LOOP.format("if isinstance(m, nn.Conv2d): nn.init.zeros_(m.bias)").strip(), True),
        (LOOP.format("if isinstance(m, nn.Conv2d) and m.bias is not None: nn.init.zeros_(m.bias)").strip(), False),
        (LOOP.format("if isinstance(m, (nn.Linear, nn.BatchNorm2d)): nn.init.zeros_(m.bias)").strip(), False),
        (LOOP.format("if isinstance(m, (nn.Linear, nn.Conv2d)): m.bias.data.fill_(0)").strip(), True),
    ],
)
def test_a_file_in_which_something_works_on_the_bias_is_left(line: str, crashes: bool, tmp_path: Path) -> None:
    source = CLASS.replace(
        "        self.n = nn.BatchNorm2d(5)\n", f"        self.n = nn.BatchNorm2d(5)\n        {line}\n"
    )
    found = fixed(tmp_path, source)
    assert bool(found.edited) != crashes
    assert any("works on .bias, which would be None" in r.why for r in found.refused) == crashes
    if not crashes:  # and it does run
        (tmp_path / "net.py").write_bytes(found.edited[0].after)
        assert loaded(tmp_path / "net.py").make().c.bias is None


SWITCH = CLASS.replace("def __init__(self):", "def __init__(self, norm=True):").replace(
    "        self.c =", "        self.norm = norm\n        self.c ="
)
CALL = "        return self.n(self.c(x))\n"
REFUSED = {
    "a norm that is called under a condition": (
        SWITCH.replace(
            CALL, "        x = self.c(x)\n        if self.norm:\n            x = self.n(x)\n        return x\n"
        ),
        "n is not surely called behind it (line 13)",
    ),
    "a module that is not called self": (
        SWITCH.replace(CALL, "        return self.n(self.c(x)) if self.norm else self.c(x)\n").replace("self", "m"),
        "n is not surely called behind it (line 13)",
    ),
    "one of two ways": (
        SWITCH.replace(CALL, "        return self.n(self.c(x)) if self.norm else self.c(x)\n"),
        "n is not surely called behind it (line 13)",
    ),
    "a return before the norm": (
        SWITCH.replace(
            CALL, "        x = self.c(x)\n        if not self.norm:\n            return x\n        return self.n(x)\n"
        ),
        "n is not surely called behind it: a return stands between (line 15)",
    ),
    "another method": (
        CLASS.replace("    def forward", "    def encode(self, x):\n        return self.c(x)\n\n    def forward"),
        "n is not surely called behind it (line 12)",
    ),
    "a norm of training alone": (
        CLASS.replace(
            CALL, "        x = self.c(x)\n        step = [lambda x: x, self.n][self.training]\n        return step(x)\n"
        ),
        "eval mode reads it elsewhere, or it is shared",
    ),
    "one call, two fates": (
        "def conv():\n    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))\n\n\n"
        "class Odd(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.a, self.b = conv(), conv()\n\n"
        "    def forward(self, x):\n        return self.a(x) + self.b[0](x)\n\n\nmake = Odd\n",
        "the same call makes b.0, whose bias lives",
    ),
    "an expression": (
        "def make(bias=True):\n    return nn.Sequential(nn.Conv2d(3, 5, 3, bias=bias), nn.BatchNorm2d(5))\n",
        "its bias is given by an expression",
    ),
    "unpacked arguments": (
        "def make(**more):\n    return nn.Sequential(nn.Conv2d(3, 5, 3, **more), nn.BatchNorm2d(5))\n",
        "its arguments are unpacked from elsewhere",
    ),
    "a name for the class": (
        "def make(layer=nn.Conv2d):\n    return nn.Sequential(layer(3, 5, 3), nn.BatchNorm2d(5))\n",
        "it is no plain call of Conv2d",
    ),
    "a norm that is chosen": (
        "def make(norm=nn.BatchNorm2d):\n    return nn.Sequential(nn.Conv2d(3, 5, 3), norm(5))\n",
        "1 is not made by a plain call of BatchNorm2d",
    ),
    "a norm under a condition": (
        CLASS.replace("        self.n = nn", "        if self.c:\n            self.n = nn"),
        "n is made under a condition (line 9) that the layer is not under",
    ),
    "the other side of a condition": (
        CLASS.replace("self.n = nn.BatchNorm2d(5)", "self.n = None if not self.c else nn.BatchNorm2d(5)"),
        "n is made under a condition (line 9) that the layer is not under",
    ),
    "a norm elsewhere": (
        "def first():\n    return nn.Conv2d(3, 5, 3)\n\n\ndef make():\n    return nn.Sequential(first(), nn.BatchNorm2d(5))\n",
        "1 is not in the same Sequential or class",
    ),
    "a class of one's own": (
        "class Conv(nn.Conv2d):\n    pass\n\n\ndef make():\n    return nn.Sequential(Conv(3, 5, 3), nn.BatchNorm2d(5))\n",
        "Conv is no convolution or linear layer of torch's own",
    ),
    "no norm": (
        "class Own(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.c = nn.Conv2d(3, 5, 3)\n\n"
        "    def forward(self, x):\n        y = self.c(x)\n        return y - y.mean((2, 3), keepdim=True)\n\n\nmake = Own\n",
        "no norm of torch's own stands behind it",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    source, why = REFUSED[name]
    found = fixed(tmp_path, source)
    assert not found.edited
    assert [refused.why for refused in found.refused] == [why]


def test_files_outside_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    path = tmp_path / "net.py"
    path.write_text(HEAD + CLASS, encoding="utf-8")
    with recording() as places:
        net = loaded(path).make()
    linted = examine(net, torch.randn(2, 3, 9, 9), places=places)
    assert [r.why for r in plan_source_fix(linted, net, tmp_path / "a").refused] == ["it lies outside this folder"]


def test_unwatched_modules_are_refused() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.BatchNorm2d(5))
    found = plan_source_fix(examine(net, torch.randn(2, 3, 9, 9)), net, Path.cwd())
    assert [refused.why for refused in found.refused] == ["where it was made was not noted"]
