"""TorchScript archives: the code in them is read as text, and refused where it does more than mathematics.

``torch.jit.load`` runs ``__setstate__`` while it loads, ``forward`` runs when a net is exported, and TorchScript has
operators that write files (``torch.save``) or map them (``torch.from_file``), talk to other processes and print. The
code is a subset of Python's grammar, so `ast` parses it; whatever both might read differently is refused.
"""

from __future__ import annotations

import ast
import io
import pickletools
import re
import tokenize
from collections.abc import Iterator

from converter.torch_models.spec.archive import NAMESPACES, Archive, NotValidated, exists, is_harmless, shorten

_ENTRY = re.compile(r"data\.pkl|constants\.pkl|(data|constants)/\d+|version|byteorder|\.data/\w+|code/[\w/.]+\.py")
_LEFT_OUT = re.compile(r".*\.debug_pkl|extra/.*|traced_inputs(/.*|\.pkl)|bytecode(/.*|\.pkl)|mobile_debug_handles\.pkl")
_ROOTS = frozenset({"torch", "ops", "__torch__", "CONSTANTS"})
_CALLED = frozenset(
    "annotate uninitialized unchecked_cast int float complex bool str len range getattr isinstance hasattr min max abs "
    "sum round sorted enumerate zip list dict tuple any all divmod ord reversed Exception".split()
)
_LOCAL = re.compile(r"_\d+")
_REFUSED = frozenset({"print", "fork", "awaitable", "chr", "exec", "eval", "open", "super"})
_STATE = frozenset({"__setstate__", "__getstate__"})
_GLOBALS = re.compile(
    r"__torch__(\.\w+)+|torch\._utils _rebuild_(tensor_v2|parameter|qtensor|sparse_tensor)|collections OrderedDict|"
    r"torch\.jit\._pickle (build_(int|tensor|double|bool)list|build_tensor_from_id|restore_type_tag)|"
    r"torch (\w+Storage|device|q?u?int\d+|per_(tensor|channel)_\w+)|torch\.storage \w+Storage|builtins complex"
)
_STATEMENTS = (
    ast.Module, ast.ClassDef, ast.FunctionDef, ast.AnnAssign, ast.Assign, ast.AugAssign, ast.Return, ast.If, ast.While,
    ast.For, ast.Expr, ast.Pass, ast.Raise, ast.Assert, ast.With, ast.withitem, ast.Break, ast.Continue, ast.Delete,
)  # fmt: skip
_EXPRESSIONS = (
    ast.Name, ast.Attribute, ast.Subscript, ast.Call, ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.BinOp,
    ast.UnaryOp, ast.Compare, ast.BoolOp, ast.IfExp, ast.Slice, ast.ListComp, ast.comprehension, ast.keyword,
    ast.arguments, ast.arg, ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop,
)  # fmt: skip
_PLAIN = (
    ast.Assign, ast.AnnAssign, ast.Return, ast.Pass, ast.Name, ast.Attribute, ast.Subscript, ast.Constant, ast.Tuple,
    ast.List, ast.expr_context, ast.UnaryOp, ast.unaryop,
)  # fmt: skip


def validate(archive: Archive) -> dict[str, bytes]:
    """Look at all entries; return those that torch is given.

    Raises
    ------
    NotValidated
        Something in it is not known to be harmless; the message says what and where.
    """
    made = {}
    for name, data in archive.entries.items():
        if _LEFT_OUT.fullmatch(name):
            continue
        if not _ENTRY.fullmatch(name) or ".." in name:
            raise NotValidated(f"the entry {shorten(name)}")
        if name.endswith(".py"):
            check_code(name, data)
        elif name.endswith(".pkl"):
            check_pickle(name, data)
        made[name] = data
    return made


def check_pickle(name: str, data: bytes) -> None:
    """Look at what a pickle names: its own classes, tensors and lists only."""
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                raise NotValidated(f"{name}: the pickle's {opcode.name}")
            if opcode.name != "GLOBAL":
                continue
            called = str(argument)
            joined = called.replace(" ", ".") if called.startswith("__torch__") else called
            if not _GLOBALS.fullmatch(joined) or "torch.classes" in joined:
                raise NotValidated(f"{name}: {shorten(called)}")
    except NotValidated:
        raise
    except Exception as exc:  # pickletools says anything of a broken pickle
        raise NotValidated(f"{name} is no pickle that torch writes ({type(exc).__name__})") from exc


def check_code(name: str, data: bytes) -> None:
    """Parse one file of code, and look at every name and call in it."""
    try:
        text = data.decode("ascii")
        _check_tokens(name, text)
        tree = ast.parse(text)
    except (UnicodeDecodeError, SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError) as exc:
        raise NotValidated(f"{name} is no code that torch writes ({type(exc).__name__})") from exc
    _Code(name).check(tree)


def _check_tokens(name: str, text: str) -> None:
    """Refuse what Python's and TorchScript's lexers may read differently."""
    if not all(char == "\n" or " " <= char <= "~" for char in text):
        raise NotValidated(f"{name}: a control character")
    n_escapes = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.STRING:
            n_escapes += token.string.count("\\")
            if token.string[0] not in "'\"" or token.string[:3] in ("'''", '"""'):
                raise NotValidated(f"{name}, line {token.start[0]}: the text {shorten(token.string)}")
        elif token.type in (tokenize.COMMENT, tokenize.ERRORTOKEN) or token.string == ";":
            raise NotValidated(f"{name}, line {token.start[0]}: {shorten(token.string)}")
    if n_escapes != text.count("\\"):
        raise NotValidated(f"{name}: a backslash outside a text")


class _Code:
    """The checks of one file of code."""

    def __init__(self, file: str) -> None:
        self.file = file

    def check(self, tree: ast.Module) -> None:
        for parent, node in _with_parents(tree):
            if not isinstance(node, _STATEMENTS + _EXPRESSIONS):
                self._refuse(node, f"a {type(node).__name__}")
            match node:
                case ast.Name(id=name) if name in _ROOTS and not isinstance(parent, ast.Attribute):
                    self._refuse(node, name)
                case ast.Name(id=name) if name in _REFUSED:
                    self._refuse(node, name)
                case ast.Attribute():
                    self._check_attribute(node, parent)
                case ast.Call():
                    self._check_call(node)
                case ast.Constant(value=str() as text) if not _is_printable(text):
                    self._refuse(node, f"the text {shorten(text)}")
                case ast.FunctionDef():
                    self._check_function(node)
                case ast.ClassDef(keywords=[_, *_]) | ast.ClassDef(decorator_list=[_, *_]):
                    self._refuse(node, f"class {node.name}")
                case _:
                    pass

    def _check_attribute(self, node: ast.Attribute, parent: ast.AST) -> None:
        chain = _chain(node)
        match chain:
            case ["torch", name]:
                known = is_harmless("aten", name) or is_harmless("prim", name)
                if not known and not (name == "warn" and isinstance(parent, ast.Call)):
                    self._refuse(node, f"torch.{name}")
            case ["ops", namespace]:
                if namespace not in NAMESPACES | {"prim"} or not isinstance(parent, ast.Attribute):
                    self._refuse(node, f"ops.{namespace}")
            case ["ops", namespace, name]:
                if not is_harmless(namespace, name):
                    self._refuse(node, f"ops.{namespace}.{name}")
            case ["__torch__", "torch", "classes", *_]:
                self._refuse(node, ".".join(chain))
            case _:
                self._check_field(node, node.attr)

    def _check_field(self, node: ast.AST, name: str) -> None:
        """A field may be an operator, called as a method: ``x.save("file")``."""
        known = is_harmless("aten", name) or is_harmless("prim", name)
        if not known and (exists("aten", name) or exists("prim", name)):
            self._refuse(node, f".{name}")

    def _check_call(self, node: ast.Call) -> None:
        match node.func:
            case ast.Attribute():
                return
            case ast.Name(id="getattr"):
                match node.args:
                    case [_, ast.Constant(value=str() as name), *_]:
                        self._check_field(node, name)
                    case _:
                        self._refuse(node, "getattr of a computed name")
            case ast.Name(id=name) if name in _CALLED or _LOCAL.fullmatch(name):
                return  # a local name of torch's is a function of the archive: looked at where it is made
            case ast.Name(id=name):
                self._refuse(node, name)
            case _:
                self._refuse(node, "a call of an expression")

    def _check_function(self, node: ast.FunctionDef) -> None:
        if node.decorator_list:
            self._refuse(node, f"a decorator of {node.name}")
        if node.name not in _STATE:
            return
        for statement in node.body:
            for inner in ast.walk(statement):
                if not isinstance(inner, _PLAIN):
                    self._refuse(inner, f"{node.name}, which does more than set attributes")

    def _refuse(self, node: ast.AST, what: str) -> None:
        raise NotValidated(f"{self.file}, line {getattr(node, 'lineno', '?')}: {what}")


def _with_parents(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    todo: list[tuple[ast.AST, ast.AST]] = [(tree, tree)]
    while todo:
        parent, node = todo.pop()
        yield parent, node
        todo.extend((node, child) for child in ast.iter_child_nodes(node))


def _chain(node: ast.Attribute) -> list[str]:
    """``a.b.c`` as its names; empty if it does not begin with a name."""
    names = [node.attr]
    base: ast.expr = node.value
    while isinstance(base, ast.Attribute):
        names.append(base.attr)
        base = base.value
    return [base.id, *reversed(names)] if isinstance(base, ast.Name) else []


def _is_printable(text: str) -> bool:
    return all(char in "\n\t" or char.isprintable() for char in text)
