"""From a model file to scopes of nodes and tensors."""

from __future__ import annotations

from collections import Counter

import onnx

from converter.errors import ModelError
from converter.model.file import ModelFile, TensorRef
from converter.model.file.validate import malformed
from converter.model.file.wire import Field, fields
from converter.model.graph.nodes import Body, Const, Node, Scope, StoredTensor, Value

_NODE, _INITIALIZER, _FUNCTION_NODE, _ATTRIBUTE, _G, _GRAPHS, _T = 1, 5, 7, 5, 6, 11, 5


def standard_opset(imports: object) -> int:
    """The version of ONNX's own operators among opset imports; 0 if none."""
    return max((i.version for i in imports if i.domain in ("", "ai.onnx")), default=0)  # type: ignore[attr-defined]


def read(file: ModelFile, *, freeze_overridable: bool = False) -> list[Scope]:
    """Every scope of the model: the main graph first, graphs inside nodes after it, functions last."""
    with malformed(file.label):
        return _Reader(file, freeze_overridable).read()


class _Reader:
    def __init__(self, file: ModelFile, freeze: bool) -> None:
        self.file = file
        self.freeze = freeze
        self.ir = file.skeleton.ir_version
        self.scopes: list[Scope] = []
        self.n_nodes = 0
        self.overrides = {f.name for f in file.skeleton.functions if f.domain in ("", "ai.onnx")}

    def read(self) -> list[Scope]:
        model = self.file.skeleton
        top = list(fields(self.file.buffer, *self.file.root))
        main = next(f for f in top if f.number == 7)
        opset = standard_opset(model.opset_import)
        scope = Scope("main", (main.payload, main.end), model.graph, opset)
        self._graph(scope)
        self._pin_training(scope)
        for f, function in zip((f for f in top if f.number == 25), model.functions, strict=True):
            inner = Scope("function", (f.payload, f.end), function, standard_opset(function.opset_import) or opset)
            inner.field = f
            self._function(inner)
        for each in self.scopes:
            self._check_order(each)
        return self.scopes

    def _check_order(self, scope: Scope) -> None:
        """Nodes must come after what they read, as ONNX demands: passes walk up without looking for circles."""
        above: Scope | None = scope
        sparse: set[str] = set()
        while above is not None:
            sparse |= {t.values.name for t in getattr(above.proto, "sparse_initializer", ())}
            above = above.parent
        for node in scope.nodes:
            late = next((t for t in node.inputs if t.inputs and t.inputs[0].position >= node.position), None)
            if late is not None:
                raise ModelError(
                    f"{self.file.label}: {node.label} reads {late.name!r}, which hangs on what it makes itself;"
                    " export the model again"
                )
            lost = next((t for t in node.inputs if t.name and not self._is_made(t) and t.name not in sparse), None)
            if lost is not None:
                raise ModelError(
                    f"{self.file.label}: {node.label} reads {lost.name!r}, which nothing makes; export the model again"
                )

    @staticmethod
    def _is_made(tensor: Value | Const) -> bool:
        return isinstance(tensor, Const) or bool(tensor.inputs) or tensor.is_input

    def _graph(self, scope: Scope) -> None:
        graph = scope.proto
        assert isinstance(graph, onnx.GraphProto)
        self.scopes.append(scope)
        parts = list(fields(self.file.buffer, *scope.span))
        for info in graph.input:
            self._declare(scope, info.name).is_input = True
        places = (f for f in parts if f.number == _INITIALIZER)
        for f, header in zip(places, graph.initializer, strict=True):
            self._initializer(scope, f, header)
        for node in graph.node:
            for name in node.output:
                self._declare(scope, name)
        self._nodes(scope, [f for f in parts if f.number == _NODE], list(graph.node))
        for info in graph.output:
            found = scope.find(info.name)
            if found is not None:
                # A body may name a value of the enclosing graph as its output: that is a use too.
                found.external_uses.add("output" if found.scope is scope else "captured")
        for note in graph.quantization_annotation:
            for entry in note.quant_parameter_tensor_names:
                used = scope.find(entry.value)
                if used is not None:
                    used.external_uses.add("annotation")

    def _function(self, scope: Scope) -> None:
        function = scope.proto
        assert isinstance(function, onnx.FunctionProto)
        self.scopes.append(scope)
        for name in function.input:
            self._declare(scope, name).is_input = True
        for node in function.node:
            for name in node.output:
                self._declare(scope, name)
        parts = [f for f in fields(self.file.buffer, *scope.span) if f.number == _FUNCTION_NODE]
        self._nodes(scope, parts, list(function.node))
        for name in function.output:
            if name in scope.values:
                scope.values[name].external_uses.add("output")

    def _declare(self, scope: Scope, name: str) -> Value | Const:
        if name and name not in scope.values:
            scope.values[name] = Value(name, scope)
        return scope.values[name] if name else Value("", scope)

    def _initializer(self, scope: Scope, f: Field, header: onnx.TensorProto) -> None:
        if isinstance(scope.values.get(header.name), Const):
            raise ModelError(f"{self.file.label}: initializer {header.name!r} is there twice; export the model again")
        listed = header.name in scope.values
        const = Const(header.name, scope, StoredTensor(self.file, self.file.ref(header, f)), f)
        const.is_input = listed
        const.overridable = listed and self.ir >= 4
        if const.overridable and self.freeze and scope.kind == "main":
            const.overridable = const.is_input = False
            scope.frozen_inputs.add(header.name)
        scope.values[header.name] = const

    def _nodes(self, scope: Scope, places: list[Field], protos: list[onnx.NodeProto]) -> None:
        seen = Counter(p.name for p in protos)
        for f, proto in zip(places, protos, strict=True):
            unique = proto.name and seen[proto.name] == 1
            own = proto.name if unique else f"{proto.op_type}:{next((o for o in proto.output if o), '')}"
            node = Node(proto, scope, f, scope.prefix + own)
            scope.nodes.append(node)
            node.overridden = proto.domain in ("", "ai.onnx") and proto.op_type in self.overrides
            node.position = self.n_nodes
            self.n_nodes += 1
            node.inputs.extend([self._resolve(scope, name) for name in proto.input])
            node.outputs.extend([self._declare(scope, name) for name in proto.output])
            if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in proto.attribute):
                self._bodies(node)

    def _resolve(self, scope: Scope, name: str) -> Value | Const:
        if not name:
            return Value("", scope)
        found = scope.find(name)
        return found if found is not None else self._declare(scope, name)

    def _bodies(self, node: Node) -> None:
        assert node.field is not None
        places = [f for f in fields(self.file.buffer, node.field.payload, node.field.end) if f.number == _ATTRIBUTE]
        for f, a in zip(places, node.proto.attribute, strict=True):
            inside = [g for g in fields(self.file.buffer, f.payload, f.end) if g.number in (_G, _GRAPHS)]
            protos = ([a.g] if a.type == onnx.AttributeProto.GRAPH else []) + list(a.graphs)
            for g, proto in zip(inside, protos, strict=True):
                scope = Scope("body", (g.payload, g.end), proto, node.scope.opset, node.scope, node)
                node.bodies.append(Body(f, g, scope))
                self._graph(scope)

    def _pin_training(self, scope: Scope) -> None:
        for info in self.file.skeleton.training_info:
            names = {e.value for e in (*info.initialization_binding, *info.update_binding)}
            names |= {e.key for e in (*info.initialization_binding, *info.update_binding)}
            for g in (info.initialization, info.algorithm):
                names |= {n for node in g.node for n in node.input}
            for name in names & scope.values.keys():
                scope.values[name].external_uses.add("training")


def attribute_tensor(file: ModelFile, node: Node, name: str) -> TensorRef | None:
    """The tensor in the node's attribute `name`, with its place in the source."""
    header = node.attr_protos.get(name)
    if header is None or not header.HasField("t"):
        return None
    if node.field is None:  # made by an edit: the proto holds all
        return TensorRef(header.t, (0, 0))
    places = [f for f in fields(file.buffer, node.field.payload, node.field.end) if f.number == _ATTRIBUTE]
    index = next(i for i, a in enumerate(node.proto.attribute) if a.name == name)
    place = next(f for f in fields(file.buffer, places[index].payload, places[index].end) if f.number == _T)
    return file.ref(header.t, place)
