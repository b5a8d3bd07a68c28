"""A stranger's .pt2 or TorchScript file runs nothing: it is looked at before torch is given it."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from converter.commands.export import export_model  # noqa: E402
from converter.commands.lint import lint_model  # noqa: E402
from converter.errors import ModelError  # noqa: E402
from converter.torch_models.spec import Kind, files  # noqa: E402
from converter.torch_models.spec.archive import NotValidated, is_harmless, is_harmless_target  # noqa: E402
from converter.torch_models.spec.program_archive import expression  # noqa: E402
from converter.torch_models.spec.script_archive import check_code, check_pickle  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:`?torch.jit:DeprecationWarning", "ignore::UserWarning:torch.*")


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.heads = torch.nn.ModuleDict({"a-b": torch.nn.Linear(4, 5)})
        self.register_buffer("scale", torch.ones(5))

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        y = torch.relu(self.norm(self.conv(x)))
        y = torch.nn.functional.interpolate(y, scale_factor=2.0, mode="bilinear")
        y = y[:, :, : y.shape[2] // 3].reshape(y.shape[0], 4, -1).mean(-1)
        with torch.no_grad():
            z = y + 1
        return {"out": self.heads["a-b"](z) * self.scale, "mean": (y,)}


class Scripted(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
        self.lstm = torch.nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: torch.Tensor, twice: bool = False) -> torch.Tensor:
        y = self.body(x).flatten(2).transpose(1, 2)
        if twice:
            y = y * 2
        return self.lstm(y)[0]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("program") / "net.pt2"
    auto = torch.export.Dim.AUTO
    shapes = ({0: torch.export.Dim("b", min=2, max=64), 2: auto, 3: auto},)
    torch.export.save(torch.export.export(Net().eval(), (torch.randn(4, 3, 16, 16),), dynamic_shapes=shapes), file)
    return file


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("script") / "net.pt"
    torch.jit.save(torch.jit.script(Scripted().eval()), file)
    return file


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that the attacks write; none may."""
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "PWNED"
    yield made
    assert not made.exists()


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes], **more: bytes) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, change(info.filename, old.read(info)))
        root = old.infolist()[0].filename.partition("/")[0]
        for name, data in more.items():
            new.writestr(f"{root}/{name}", data)
    return target


EVIL = "__import__('os').system('echo > PWNED')"


def _edit(model: dict[str, Any], where: str) -> None:
    """Put code, or what leads to code, into one of the places that torch evaluates."""
    graph = model["graph_module"]["graph"]
    meta = graph["tensor_values"]["x"]
    call = model["graph_module"]["module_call_graph"][0]["signature"]
    node = graph["nodes"][2]
    match where:
        case "size":
            meta["sizes"][0]["as_expr"]["expr_str"] = f"{EVIL}*0+2"
        case "stride":
            meta["strides"][0] = {"as_expr": {"expr_str": f"Add({EVIL}, Integer(2))", "hint": {"as_int": 2}}}
        case "symbol":
            meta["sizes"][0]["as_expr"]["expr_str"] = f"Symbol('s77' if {EVIL} else 's77', positive=True)"
        case "range":
            model["range_constraints"][f"Max({EVIL}, 2)"] = {"min_val": 2, "max_val": 4}
        case "bomb":
            meta["sizes"][0]["as_expr"]["expr_str"] = "Pow(Pow(Integer(9), Integer(60)), Integer(60))"
        case "operator":
            node["target"] = "torch.save"
        case "module":
            node["target"] = "torch.utils.cpp_extension.subprocess.run"
        case "namespace":
            node["target"] = "torch.ops.load_library"
        case "file":
            node["target"] = "torch.ops.aten.from_file.default"
        case "method":
            node["target"] = "_operator.methodcaller"
        case "name":
            graph["inputs"][-1]["as_tensor"]["name"] = "x):\n  PWNED"
        case "parameter":
            model["graph_module"]["signature"]["input_specs"][0]["parameter"]["parameter_name"] = f'a", {EVIL}, "b'
        case "argument":
            call["forward_arg_names"] = [f"x={EVIL}"]
        case "import":
            tree = json.loads(call["out_spec"])
            tree[1]["context"] = json.dumps([{"__enum__": True, "fqn": "antigravity:x", "name": "y"}])
            call["out_spec"] = json.dumps(tree)
        case "factory":
            tree = json.loads(call["in_spec"])
            tree[1] = {
                "type": "collections.defaultdict",
                "context": {"default_factory_module": "this"},
                "children_spec": [],
            }
            call["in_spec"] = json.dumps(tree)
        case "object":
            node["inputs"][0]["arg"] = {"as_custom_obj": {"name": "o", "class_fqn": "__torch__.torch.classes.x.Y"}}
        case _:
            raise AssertionError(where)


PLACES = [
    "size", "stride", "symbol", "range", "bomb", "operator", "module", "namespace", "file", "method", "name",
    "parameter", "argument", "import", "factory", "object",
]  # fmt: skip


@pytest.mark.parametrize("where", PLACES)
def test_a_program_that_would_run_code_is_refused_before_torch_sees_it(
    where: str, program: Path, marker: Path, tmp_path: Path
) -> None:
    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        model = json.loads(data)
        _edit(model, where)
        return json.dumps(model).encode()

    evil = rewritten(program, tmp_path / "evil.pt2", change)
    with pytest.raises(ModelError, match=r"not known to be harmless .*--trust") as caught:
        export_model(str(evil), tmp_path / "out.onnx", verify=False)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="trains no longer"):
        lint_model(str(evil))
    assert not (tmp_path / "out.onnx").exists()


def test_guards_are_python_and_are_left_out(program: Path, marker: Path, tmp_path: Path) -> None:
    def change(name: str, data: bytes) -> bytes:
        return (
            data.replace(b'"guards_code": [', f'"guards_code": ["{EVIL} == 0", '.encode()) if "json" in name else data
        )

    assert files.load_file(rewritten(program, tmp_path / "evil.pt2", change)).kind is Kind.PROGRAM


@pytest.mark.parametrize(
    "entry", ["data/aotinductor/model/x.so", "data/constants/custom_obj_0", "data/constants/opaque_obj_0", "../x"]
)
def test_libraries_and_objects_in_a_program_are_refused(entry: str, program: Path, tmp_path: Path) -> None:
    evil = rewritten(program, tmp_path / "evil.pt2", lambda name, data: data, **{entry: b"x"})
    with pytest.raises(ModelError, match="--trust"):
        files.load_file(evil)


def test_two_entries_of_one_name_are_refused(program: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        evil = rewritten(program, tmp_path / "evil.pt2", lambda name, data: data, **{"models/model.json": b"{}"})
    with pytest.raises(ModelError, match="two entries of one name"):
        files.load_file(evil)


def test_weights_as_pickles_are_read_as_weights_only(program: Path, marker: Path, tmp_path: Path) -> None:
    pickled = b"cos\nsystem\n(S'echo > PWNED'\ntR."
    for entry in ("data/sample_inputs/model.pt", "data/weights/weight_0"):

        def change(name: str, data: bytes, entry: str = entry) -> bytes:
            if name.endswith("weights_config.json"):
                return data.replace(b'"use_pickle": false', b'"use_pickle": true')
            return pickled if name.endswith(entry) else data

        with pytest.raises(ModelError, match="cannot read it"):
            files.load_file(rewritten(program, tmp_path / "evil.pt2", change))


def test_an_empty_payload_does_not_make_torch_allocate_what_it_says(program: Path, tmp_path: Path) -> None:
    def change(name: str, data: bytes) -> bytes:
        if name.endswith("weights_config.json"):
            return data.replace(b'"sizes": [{"as_int": 4}', b'"sizes": [{"as_int": 4000000000000}', 1)
        return b"" if "weights/weight_" in name else data

    with pytest.raises(ModelError, match="of which nothing is stored"):
        files.load_file(rewritten(program, tmp_path / "evil.pt2", change))


HEAD = "def forward(self: __torch__.M, x: Tensor) -> Tensor:\n  "
EVIL_SCRIPTS = {
    "setstate": "def __setstate__(self: __torch__.M, s: Tuple[Tensor]) -> NoneType:\n  torch.relu((s)[0])",
    "save": HEAD + 'torch.save(x, "PWNED")',
    "method": HEAD + 'x.save("PWNED")',
    "getattr": HEAD + 'getattr(x, "save")("PWNED")',
    "from_file": HEAD + 'return torch.from_file("/etc/passwd", False, 9)',
    "ops": HEAD + 'return ops.image.write_file("PWNED", x)',
    "aten": HEAD + 'ops.aten.save(x, "PWNED")',
    "rpc": HEAD + 'return ops.prim.rpc_sync("w", x)',
    "builtin": HEAD + 'rpc_async("w", x)',
    "alias": HEAD + 't = torch\n  t.save(x, "PWNED")',
    "classes": HEAD + "return __torch__.torch.classes.a.B(x).run()",
    "print": HEAD + 'print("::error::")',
    "escape": HEAD + 'torch.warn("\\033[2J")',
    "comment": HEAD + "return x  # type: ignore",
    "quotes": HEAD + 'y = """a"""',
    "lambda": HEAD + "return (lambda y: y)(x)",
    "import": "import os",
    "broken": "def forward(self:\n",
    "deep": "x = " + "-" * 5000 + "1",
}


@pytest.mark.parametrize("which", EVIL_SCRIPTS)
def test_torchscript_that_does_more_than_mathematics_is_refused(
    which: str, script: Path, marker: Path, tmp_path: Path
) -> None:
    code = EVIL_SCRIPTS[which]
    with pytest.raises(NotValidated):
        check_code("code/x.py", code.encode())
    evil = rewritten(script, tmp_path / "evil.pt", lambda name, data: data, **{"code/evil.py": code.encode()})
    with pytest.raises(ModelError, match=r"code/evil\.py.*--trust"):
        export_model(str(evil), tmp_path / "out.onnx")
    with pytest.raises(ModelError, match="trains no longer"):
        lint_model(str(evil))


def test_a_script_that_saves_in_setstate_writes_nothing(script: Path, marker: Path, tmp_path: Path) -> None:
    """As `torch.jit.load` would run it, in the class of the net itself."""
    text = (
        "  def __getstate__(self: C) -> Tuple[Tensor, bool]:\n    return (self.weight, self.training)\n"
        "  def __setstate__(self: C, s: Tuple[Tensor, bool]) -> NoneType:\n"
        '    torch.save((s)[0], "PWNED")\n    self.weight = (s)[0]\n    self.training = (s)[1]\n    return None\n'
    ).replace("C)", "__torch__.torch.nn.modules.conv.Conv2d)")
    text = text.replace("C,", "__torch__.torch.nn.modules.conv.Conv2d,")

    def change(name: str, data: bytes) -> bytes:
        return data + text.encode() if name.endswith("modules/conv.py") else data

    with pytest.raises(ModelError, match="__setstate__, which does more than set attributes"):
        files.load_file(rewritten(script, tmp_path / "evil.pt", change))


def test_a_plain_setstate_is_no_reason_to_refuse() -> None:
    check_code(
        "code/x.py",
        b"class M(Module):\n  w : Tensor\n"
        b"  def __setstate__(self: __torch__.M,\n    s: Tuple[Tensor, bool]) -> NoneType:\n"
        b"    self.w = (s)[0]\n    self.training = (s)[1]\n    return None\n",
    )


@pytest.mark.parametrize(
    "data", [b"cos\nsystem\n(S'x'\ntR.", b"\x80\x02c__torch__.torch.classes.a\nB\n.", b"nonsense", b""]
)
def test_pickles_of_a_script_name_only_its_own_classes_and_tensors(data: bytes) -> None:
    with pytest.raises(NotValidated):
        check_pickle("data.pkl", data)


def test_weights_that_unpack_to_gigabytes_are_not_unpacked(tmp_path: Path) -> None:
    saved, bomb = tmp_path / "ok.pt", tmp_path / "bomb.pt"
    torch.save({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, saved)
    with zipfile.ZipFile(saved) as given, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as made:
        for name in given.namelist():
            made.writestr(name, bytes(300 << 20) if name.endswith("data/0") else given.read(name))
    with pytest.raises(ModelError, match=r"bomb\.pt: unpacks to .* so it is not read"):
        files.load_weights(torch.nn.Linear(2, 2), bomb, strict=True, label="net")
    files.load_weights(torch.nn.Linear(2, 2), saved, strict=True, label="net")


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(9):
            archive.writestr(f"b/data/{index}", bytes(32 << 20))
        archive.writestr("b/constants.pkl", b"x")
    with pytest.raises(ModelError, match="unpacks to"):
        files.load_file(bomb)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_entry_is_an_error_of_the_file(script: Path, tmp_path: Path, method: int) -> None:
    path = tmp_path / "damaged.pt"
    with zipfile.ZipFile(script) as source, zipfile.ZipFile(path, "w", method) as made:
        for info in source.infolist():
            made.writestr(info.filename, source.read(info))
        first = made.infolist()[0]
    data = bytearray(path.read_bytes())
    begin = first.header_offset + 30 + len(first.filename)
    data[begin + 10 : begin + first.compress_size] = bytes(first.compress_size - 10)
    path.write_bytes(data)
    with pytest.raises(ModelError):
        files.load_file(path)


def test_real_programs_and_scripts_load_without_trust(program: Path, script: Path, tmp_path: Path) -> None:
    assert files.load_file(program).kind is Kind.PROGRAM
    assert files.load_file(script).kind is Kind.TORCHSCRIPT
    net, x = Scripted().eval(), torch.randn(4, 3, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a tracer's warnings, raised in its C++, are errors of another kind
        torch.jit.save(torch.jit.trace(net, x, check_trace=False), tmp_path / "traced.pt")
    traced = files.load_file(tmp_path / "traced.pt").module
    assert torch.equal(traced(x), net(x))


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5"])
def test_nets_of_torchvision_load_without_trust(name: str, tmp_path: Path) -> None:
    from converter.torch_models.spec.factory import load_factory

    net, x = load_factory(f"torchvision:{name}").module.eval(), torch.randn(2, 3, 64, 64)
    torch.jit.save(torch.jit.script(net), tmp_path / "net.pt")
    assert torch.equal(files.load_file(tmp_path / "net.pt").module(x), net(x))
    batch = torch.export.Dim("b", min=2)
    torch.export.save(torch.export.export(net, (x,), dynamic_shapes=({0: batch},)), tmp_path / "net.pt2")
    assert torch.allclose(files.load_file(tmp_path / "net.pt2").module(x), net(x))


def test_trust_loads_a_file_as_it_is(script: Path, tmp_path: Path) -> None:
    noisy = rewritten(script, tmp_path / "n.pt", lambda name, data: data, **{"code/more.py": b"# a comment\n"})
    with pytest.raises(ModelError, match="--trust loads it as it is: then what it holds may run as code"):
        files.load_file(noisy)
    assert files.load_file(noisy, trust=True).kind is Kind.TORCHSCRIPT


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s77', positive=True, integer=True)",
        "Mul(Integer(28), FloorDiv(Add(Mul(Integer(2), Symbol('s53', integer=True)), Integer(-4)), Integer(3)))",
        "s0*2 + 1", "Pow(Symbol('s0', integer=True), Integer(2))", "Max(1, s0//2)", "Float('1.5', precision=53)",
        "Mod(s0, 2)", "StrictGreaterThan(Symbol('u0', integer=True), Integer(1))", "-3",
    ],
)  # fmt: skip
def test_what_torch_writes_as_a_size_is_read(text: str) -> None:
    sympy = pytest.importorskip("sympy", reason="sympy is not installed")
    known = {name: sympy.Function(name) for name in ("FloorDiv",)}
    assert sympy.sympify(expression(text), locals=known) == sympy.sympify(text, locals=known)


@pytest.mark.parametrize(
    "text",
    [
        "lambda: 1", "s0.__class__", "s0[0]", "f'{s0}'", "(yield)", "Function('x')", "Symbol('a b')", "preview(s0)",
        "sympify('s0')", "9**9**9", "Pow(s0, s1)", "Pow(2, 1000)", "Lambda(s0, 1)", "N('1')", "eval('1')",
        "s0 if s0 else s1", "[s0]", "Symbol(name='s0')", "Add(*s0)", "s0\n+1", "\u0455\u04300", "", "(" * 300,
        "1" * 400, "Symbol('u99999999')", "Float('1e99999')", "open",
    ],
)  # fmt: skip
def test_anything_else_as_a_size_is_refused(text: str) -> None:
    with pytest.raises(NotValidated):
        expression(text)


def test_operators_that_touch_files_are_none_of_the_harmless() -> None:
    for name in ("save", "from_file", "_print", "no_such_operator"):
        assert not is_harmless("aten", name)
    trusting = "_sparse_csr_tensor_unsafe _sparse_coo_tensor_unsafe _reshape_alias _index_put_impl_ set_ sparse_mask"
    trusting += " max_pool2d_with_indices_backward _embedding_bag_backward linalg_lu_solve _nested_view_from_buffer"
    for name in trusting.split():  # kernels that read and write where they are told
        assert not is_harmless("aten", name), name
    for (
        name
    ) in "conv2d _convolution _weight_norm scaled_dot_product_attention __getitem__ unsafe_chunk as_strided".split():
        assert is_harmless("aten", name), name
    for target in (
        "torch.ops.aten.conv2d.default",
        "torch.ops.aten.einsum.default",
        "_operator.getitem",
        "torch.sym_max",
    ):
        assert is_harmless_target(target)
    for target in ("torch.load", "os.system", "torch.ops.image.write_file.default", "torch.ops.aten.a(b).c", "#x:y"):
        assert not is_harmless_target(target)
