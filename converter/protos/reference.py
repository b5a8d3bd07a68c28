"""Evaluate an ONNX model in float64 with onnx alone.

Every float16, bfloat16 and float32 value becomes float64 the moment it is read or made; integers, quantised
weights and float8 stay what they are. Nodes run one by one and each tensor is freed after its last reader
(a subgraph's captures are reads of its owner); weights are read from the proto or its external data when a
node needs them, so no float64 copy of the model is ever held.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from converter.protos.reference_call import Unsupported
from converter.protos.reference_program import Context, Program, opset_versions, overload, plain_domain
from converter.protos.reference_weights import Weights, widen

__all__ = ["Reference", "Unsupported"]


class Reference:
    """A model that can be run in float64.

    Parameters
    ----------
    model : ModelProto
        Read, never changed.
    weight_perturb : int, optional
        Seed: every float weight is multiplied by ``1 + u * xi``, u the unit roundoff of its stored type.
    external_dir : Path, optional
        Where the model's external data lies.
    max_bytes : int, optional
        Stop (``Unsupported``) when the live tensors of one graph take more.

    Raises
    ------
    Unsupported
        An operator is unknown (here or, for what depends on values, in ``run``).
    """

    def __init__(
        self,
        model: ModelProto,
        *,
        weight_perturb: int | None = None,
        external_dir: str | Path | None = None,
        max_bytes: int | None = None,
    ) -> None:
        folder = None if external_dir is None else Path(external_dir)
        functions = {(plain_domain(f.domain), f.name, overload(f)): f for f in model.functions}
        context = Context(opset_versions(model.opset_import), functions, Weights(folder, weight_perturb), max_bytes)
        self._program = Program(model.graph, context)
        constant = set(self._program.constants)
        self.input_names = tuple(i.name for i in model.graph.input if i.name not in constant)
        self.output_names = tuple(o.name for o in model.graph.output)

    @property
    def entered(self) -> frozenset[str]:
        """The subgraphs that some run went through: ``/output.attribute``, by the first output of their node."""
        return frozenset(self._program.context.entered)

    def run(self, feeds: Mapping[str, Any], watch: Callable[[str, Any], None] | None = None) -> dict[str, Any]:
        """The outputs by name, floats as float64.

        Parameters
        ----------
        feeds : mapping of input name to array, any float type
            An initializer that is also a graph input may be overridden.
        watch : callable, optional
            Told the name and the value of each input and of each tensor of the main graph as it is made; a
            value that it does not keep is freed after its last reader, as ever.
        """
        values = {name: widen(value) for name, value in feeds.items()}
        missing = [n for n in self.input_names if n not in values]
        if missing:
            raise Unsupported(f"no value for input {missing[0]!r}")
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            if watch is not None:
                for name, value in values.items():
                    watch(name, value)
            results = self._program.run(values, None, watch)
        return dict(zip(self.output_names, results, strict=True))
