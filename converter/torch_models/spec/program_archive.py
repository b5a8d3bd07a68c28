"""Programs of torch.export (``.pt2``): every text that torch would evaluate is looked at first, and written anew.

``torch.export.load`` is no parser: symbolic sizes go through ``sympify`` (which is eval), guards through exec, names
of nodes and inputs into generated Python, names of operators through getattr, trees of inputs through import_module,
objects through pickle, and AOTInductor's libraries through dlopen. What is known to be harmless is rewritten from its
syntax tree; what is not known is refused. Source: torch/_export/serde/serialize.py, torch/export/pt2_archive.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from converter.bounded_json import parse_json
from converter.torch_models.spec.archive import Archive, NotValidated, is_harmless_target, shorten

MODEL = "models/model.json"
OLD_MODEL = "serialized_exported_program.json"  # torch 2.7 and before
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_COPIED = ("archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id", "version")
_OLD = ("serialized_state_dict.pt", "serialized_constants.pt", "serialized_example_inputs.pt")
_PAYLOAD = re.compile(r"data/(weights/weight|constants/tensor)_\d+|data/sample_inputs/model\.pt|data/\w+/model\.pt")

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SYMBOL = re.compile(r"[a-z]{1,4}(\d{1,7})")
_EXPRESSION = re.compile(r"[A-Za-z0-9_'=,()+\-*/%.<>!&|~ ]*")
MAX_EXPRESSION = 20_000  # characters
MAX_DEPTH = 200  # of nested JSON
MAX_POWER = 64  # the product of all exponents above one another

_FUNCTIONS = frozenset(
    "Add Mul Pow Integer Rational Float Symbol Max Min Mod Abs Not And Or Equality Unequality GreaterThan LessThan "
    "StrictGreaterThan StrictLessThan Eq Ne Ge Le Gt Lt FloorDiv ModularIndexing Where PythonMod CleanDiv CeilToInt "
    "FloorToInt CeilDiv IntTrueDiv FloatTrueDiv IsNonOverlappingAndDenseIndicator TruncToFloat TruncToInt RoundToInt "
    "RoundDecimal ToFloat Identity floor ceiling Piecewise ExprCondPair Half One Zero NegativeOne".split()
)
_POWERS = frozenset({"Pow", "PowByNatural", "FloatPow", "LShift"})
_ASSUMPTIONS = frozenset({"positive", "negative", "nonnegative", "integer", "real", "nonzero", "zero", "precision"})
_CONSTANTS = frozenset({"true", "false", "oo", "int_oo"})
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.BitAnd, ast.BitOr)

_TREE_TYPES = frozenset({"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"})
_METADATA = ("stack_trace", "nn_module_stack", "torch_fn")  # the rest is code's, or read by getattr: left out
_MAPS = frozenset(
    {"tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values", "custom_obj_values", "opset_version"}
)
_IDENTIFIERS = frozenset({"name", "as_name"})
_QUALIFIED = frozenset({"parameter_name", "buffer_name", "tensor_constant_name", "user_input_name", "fqn"})
_FREE = frozenset({"as_string", "as_strings", "torch_version", "verifiers", "type"})
_OBJECTS = frozenset({"as_custom_obj", "custom_obj", "custom_obj_values"})


def validate(archive: Archive) -> dict[str, bytes]:
    """Look at all entries; return those that torch is given, in the order of the archive.

    Raises
    ------
    NotValidated
        Something in it is not known to be harmless; the message says what.
    """
    made: dict[str, bytes] = {}
    for name, data in archive.entries.items():
        if name in (MODEL, OLD_MODEL):
            made[name] = _model(name, data)
        elif name in _CONFIGS:
            made[name] = _payloads(name, data, archive.entries)
        elif name in _COPIED or name in _OLD or _PAYLOAD.fullmatch(name):
            made[name] = data
        elif name.startswith(("extra/", "data/extra/", "extra_files", "executorch/", "data/executorch/")):
            continue  # not read
        else:
            raise NotValidated(f"the entry {shorten(name)}")
    return made


def _model(name: str, data: bytes) -> bytes:
    program = _parse(name, data)
    if not isinstance(program, dict):
        raise NotValidated(f"{name} is no record")
    ranges = program.get("range_constraints") or {}
    program["range_constraints"] = {expression(key): _range(value) for key, value in _items(ranges)}
    program["guards_code"] = []  # Python about the inputs, for exec; the ranges above say the same of what is exported
    return json.dumps(_check(program, "", 0)).encode()


def _parse(name: str, data: bytes) -> Any:
    try:
        return parse_json(data.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise NotValidated(f"{name} is no JSON ({exc})") from exc


def _items(value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise NotValidated("a list where a map belongs")
    return list(value.items())


def _range(value: Any) -> dict[str, int | None]:
    bounds = {key: bound for key, bound in _items(value) if key in ("min_val", "max_val")}
    if not all(bound is None or type(bound) is int for bound in bounds.values()):
        raise NotValidated(f"the range {shorten(value)}")
    return bounds


def _check(value: Any, key: str, depth: int) -> Any:
    """Return `value`, which stands under `key`, with every text looked at."""
    if depth > MAX_DEPTH:
        raise NotValidated("records nested too deeply")
    if isinstance(value, dict):
        return _record(value, key, depth)
    if isinstance(value, list):
        return [_check(item, key, depth + 1) for item in value]
    if isinstance(value, str):
        return _text(value, key)
    if isinstance(value, int) and abs(value) >= 1 << 64:
        raise NotValidated(f"the number {shorten(value)}")
    return value


def _record(record: dict[str, Any], key: str, depth: int) -> dict[str, Any]:
    if key == "metadata":
        return {name: _printable(record[name]) for name in _METADATA if record.get(name)}
    made = {}
    for name, value in record.items():
        if name in _OBJECTS and value:
            raise NotValidated("a custom object")
        if key in _MAPS or key == "as_string_to_argument":
            _identifier(name)
        elif key == "treespec_namedtuple_fields":
            _require_qualified(name)
        made[name] = _check(value, "" if key in _MAPS else name, depth + 1)
    return made


def _text(text: str, key: str) -> str:
    if key == "expr_str":
        return expression(text)
    if key in ("target", "as_operator"):
        if not is_harmless_target(text):
            raise NotValidated(f"the operator {shorten(text)}")
    elif key in _IDENTIFIERS:
        if text:
            _identifier(text)
    elif key in ("forward_arg_names", "field_names"):
        _identifier(text)
    elif key in _QUALIFIED:
        _require_qualified(text)
    elif key in ("in_spec", "out_spec"):
        return _tree(text)
    elif key in _FREE:
        _printable(text)
    else:
        raise NotValidated(f"the text {shorten(text)} as {shorten(key)}")
    return text


def _identifier(text: str) -> None:
    if not _IDENTIFIER.fullmatch(text):
        raise NotValidated(f"the name {shorten(text)}")


def _is_qualified(text: str) -> bool:
    """A dotted name: torch writes it between double quotes into Python."""
    return text.isprintable() and not any(mark in text for mark in "\"'\\{}")


def _require_qualified(text: str) -> None:
    if not _is_qualified(text):
        raise NotValidated(f"the name {shorten(text)}")


def _printable(text: Any) -> str:
    if not isinstance(text, str) or not text.replace("\n", "").replace("\t", "").isprintable():
        raise NotValidated(f"the text {shorten(text)}")
    return text


def _tree(text: str) -> str:
    """Look at a tree of inputs or outputs, as ``torch.utils._pytree.treespec_dumps`` writes it."""
    if not text:
        return text
    protocol, tree = _pair(_parse("a tree of inputs", text.encode()))
    return json.dumps([protocol, _branch(tree, 0)])


def _pair(value: Any) -> tuple[int, Any]:
    if not (isinstance(value, list) and len(value) == 2 and value[0] == 1):
        raise NotValidated(f"the tree {shorten(value)}")
    return 1, value[1]


def _branch(tree: Any, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH or not isinstance(tree, dict) or set(tree) != {"type", "context", "children_spec"}:
        raise NotValidated(f"the tree {shorten(tree)}")
    kind, context, children = tree["type"], tree["context"], tree["children_spec"]
    if kind is None:
        if context is not None or children:
            raise NotValidated(f"the tree {shorten(tree)}")
    elif kind not in _TREE_TYPES:
        raise NotValidated(f"inputs or outputs of type {shorten(kind)}")
    else:
        context = _context(context)
    return {"type": kind, "context": context, "children_spec": [_branch(child, depth + 1) for child in children]}


def _context(context: Any) -> str:
    keys = _parse("a tree's context", context.encode()) if isinstance(context, str) else context
    if keys is None:
        return "null"
    if not isinstance(keys, list):
        raise NotValidated(f"the tree's context {shorten(keys)}")
    for key in keys:
        if not isinstance(key, str | int):
            raise NotValidated(f"the key {shorten(key)}")
        if isinstance(key, str):
            _require_qualified(key)
    return json.dumps(keys)


def expression(text: str) -> str:
    """Parse a symbolic size and write it anew: sums, products, small powers, and torch's own integer functions.

    Raises
    ------
    NotValidated
        It holds anything else.
    """
    if len(text) > MAX_EXPRESSION or not _EXPRESSION.fullmatch(text):
        raise NotValidated(f"the expression {shorten(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        _expression(tree.body, 1, text)
        return ast.unparse(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        raise NotValidated(f"the expression {shorten(text)}") from exc


def _expression(node: ast.expr, power: int, text: str) -> None:
    match node:
        case ast.Constant(value=bool() | int() | float() as number) if abs(number) < 2**64:
            return
        case ast.Name(id=name) if _SYMBOL.fullmatch(name) or name in _CONSTANTS:
            return
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            _power(left, right, power, text)
        case ast.BinOp(left=left, op=operator, right=right) if isinstance(operator, _OPERATORS):
            _expression(left, power, text)
            _expression(right, power, text)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Invert(), operand=operand):
            _expression(operand, power, text)
        case ast.Compare(left=left, comparators=[right]):
            _expression(left, power, text)
            _expression(right, power, text)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            _call(name, args, keywords, power, text)
        case _:
            raise NotValidated(f"the expression {shorten(text)}")


def _call(name: str, args: list[ast.expr], keywords: list[ast.keyword], power: int, text: str) -> None:
    for keyword in keywords:
        plain = isinstance(keyword.value, ast.Constant) and type(keyword.value.value) in (bool, int)
        if keyword.arg not in _ASSUMPTIONS or not plain:
            raise NotValidated(f"the expression {shorten(text)}")
    match name, args:
        case "Symbol", [ast.Constant(value=str() as symbol)] if _SYMBOL.fullmatch(symbol):
            return
        case "Float", [ast.Constant(value=str() as digits)] if re.fullmatch(r"-?[0-9.]{1,40}(e[+-]?\d{1,3})?", digits):
            return
        case _, [base, exponent] if name in _POWERS:
            _power(base, exponent, power, text)
        case _ if name in _FUNCTIONS:
            for argument in args:
                _expression(argument, power, text)
        case _:
            raise NotValidated(f"the expression {shorten(text)}")


def _power(base: ast.expr, exponent: ast.expr, power: int, text: str) -> None:
    size = _whole_number(exponent)
    if size is None or power * max(1, abs(size)) > MAX_POWER:
        raise NotValidated(f"the power {shorten(text)}")
    _expression(base, power * max(1, abs(size)), text)


def _whole_number(node: ast.expr) -> int | None:
    match node:
        case ast.Constant(value=int() as number):
            return int(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _whole_number(operand)
            return None if inner is None else -inner
        case ast.Call(func=ast.Name(id="Integer"), args=[inner_node]):
            return _whole_number(inner_node)
        case _:
            return None


def _payloads(name: str, data: bytes, entries: Mapping[str, bytes]) -> bytes:
    """Look at the list of weights or constants: no objects, and nothing larger than what is stored."""
    record = _parse(name, data)
    folder = name.rpartition("/")[0]
    for label, payload in _items(dict(_items(record)).get("config", {})):
        _require_qualified(label)
        path = payload.get("path_name") if isinstance(payload, dict) else None
        if not isinstance(path, str) or not re.fullmatch(r"(weight|tensor)_\d+", path):
            raise NotValidated(f"the payload {shorten(path)} of {shorten(label)}")
        if not payload.get("use_pickle"):
            _stored_size(payload.get("tensor_meta"), len(entries.get(f"{folder}/{path}", b"")), label)
    return json.dumps(_check_payload(record)).encode()


def _check_payload(record: Any) -> Any:
    for payload in record.get("config", {}).values():
        _check({key: value for key, value in payload.items() if key != "path_name"}, "", 0)
    return record


def _stored_size(meta: Any, n_bytes: int, label: str) -> None:
    """An empty payload makes torch allocate what the record says; others are views, which torch checks."""
    found = [size.get("as_int") for size in meta.get("sizes", [])] if isinstance(meta, dict) else [None]
    sizes = [size for size in found if type(size) is int and size >= 0]
    if len(sizes) != len(found):
        raise NotValidated(f"the sizes of {shorten(label)}")
    if n_bytes == 0 and math.prod(sizes) != 0:
        raise NotValidated(f"the size of {shorten(label)}, of which nothing is stored")
