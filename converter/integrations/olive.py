"""A pass for Microsoft's Olive: `BiasoptFold`, which folds an ONNX model and fails where the outputs are not the same.

Olive finds it by a package config: ``write_package_config("olive_package_config.json")``, then ``olive run --config
workflow.json --package-config olive_package_config.json`` with ``{"type": "BiasoptFold"}`` among the passes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from olive.hardware.accelerator import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam

import biasopt
from converter.errors import ModelError
from converter.temporary import open_whole

# Keyword of `biasopt.fold` -> type, default and what it says.
_CONFIG: dict[str, tuple[type[Any], Any, str]] = {
    "verify": (bool, True, "Check that the outputs stay the same; without onnxruntime it cannot."),
    "freeze_overridable": (bool, False, "Make inputs that have a default value constants."),
    "keep_bn": (bool, False, "Keep BatchNormalization and move biases into it, to train on."),
    "skip": (list, [], "Passes of biasopt that are not to run."),
}


class BiasoptFold(Pass):  # type: ignore[misc]
    """Fold batch norms and biases that cannot matter, checked."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        return {
            name: PassConfigParam(type_=kind, default_value=default, description=said)
            for name, (kind, default, said) in _CONFIG.items()
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> ONNXModelHandler:
        """Write the folded model to where Olive wants it.

        Raises
        ------
        ModelError
            The outputs differ, or that could not be decided; nothing is written.
        """
        target = Path(resolve_onnx_path(output_model_path, Path(model.model_path).name))
        target.parent.mkdir(parents=True, exist_ok=True)
        asked = {name: getattr(config, name) for name in _CONFIG}
        result = biasopt.fold(model.model_path, target, force=True, **asked)
        if result.exit_code:
            why = "" if result.parity is None else f"{result.parity.verdict}: {result.parity.why}"
            raise ModelError(f"{model.model_path}: not folded, {why}")
        return ONNXModelHandler(model_path=str(target), model_attributes=model.model_attributes)


def write_package_config(path: str | Path) -> Path:
    """Write Olive's own package config with this pass added to it; give it to ``olive run --package-config``.

    A file of that name is replaced, and a link of that name is, not what it points to.
    """
    import olive

    own = Path(str(olive.__file__)).parent / "olive_config.json"
    document = json.loads(own.read_text(encoding="utf-8"))
    everything: dict[str, Any] = {f"supported_{what}": ["*"] for what in ("providers", "accelerators", "precisions")}
    everything |= {"supported_algorithms": [], "supported_quantization_encodings": [], "extra_dependencies": []}
    place = f"biasopt.integrations.olive.{BiasoptFold.__name__}"  # by this name, since a user may have a `converter`
    document["passes"][BiasoptFold.__name__] = {"module_path": place, **everything}
    with open_whole(Path(path)) as file:
        file.write(json.dumps(document, indent=1).encode() + b"\n")
    return Path(path)
