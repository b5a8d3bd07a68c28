"""Checkpoint files of a module as it was, made into ones of the stripped module."""

from __future__ import annotations

import io
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter.dataclass import dataclass
from converter.errors import DataError, ModelError
from converter.torch_models.lint.strip_biases import checkpoints
from converter.torch_models.spec.libraries import need

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module")  # of training scripts
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel, of torch.compile


@dataclass(frozen=True, slots=True)
class MigratedCheckpoint:
    """A migrated checkpoint."""

    content: bytes
    n_removed: int  # parameters that are gone
    dropped: tuple[str, ...]  # entries beside the state that no longer fit, such as the optimizer's


def migrate_checkpoint(stripped: Any, source: Path) -> MigratedCheckpoint:
    """Migrate a checkpoint file for a module that `strip` returned.

    Raises
    ------
    ModelError
        The file cannot be read without running code in it, or holds no state dict.
    DataError
        Its values do not fit the module.
    """
    whole = _read(source)
    trail, state = _find_state(whole, source)
    prefix = next((p for p in _PREFIXES if state and all(k.startswith(p) for k in state)), "")
    own = {key.removeprefix(prefix): value for key, value in state.items()}
    hook = checkpoints(stripped)
    _check_state(stripped, hook, own, source)
    migrated = OrderedDict((prefix + key, value) for key, value in hook.migrate(stripped, own).items())
    if hasattr(state, "_metadata"):  # the versions of the modules that saved it
        migrated._metadata = state._metadata  # type: ignore[attr-defined]
    gone = {prefix + item.parameter for item in hook.plan.removed}
    n_removed = sum(int(value.numel()) for key, value in state.items() if key in gone)
    dropped: tuple[str, ...] = ()
    result: Any = migrated
    if trail:
        holder = whole
        for step in trail[:-1]:
            holder = holder[step]
        holder[trail[-1]] = migrated
        dropped = tuple(key for key in whole if "optim" in str(key).lower() or str(key).lower() == "scaler")
        for key in dropped:
            del whole[key]
        result = whole
    return MigratedCheckpoint(_serialize(result, source), n_removed, dropped)


def _read(file: Path) -> Any:
    torch = need("torch")
    if not file.is_file():
        raise ModelError(f"{file}: there is no such checkpoint")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if file.suffix.lower() == ".safetensors":
                return need("safetensors.torch", "a .safetensors file").load_file(str(file))
            return torch.load(str(file), map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except Exception as exc:
        said = " ".join(str(exc).split()).partition(". ")[0]
        raise ModelError(f"{file}: cannot be read as weights alone ({said[:160]}); save model.state_dict()") from exc


def _find_state(whole: Any, file: Path) -> tuple[list[str], Mapping[str, Any]]:
    """The keys that lead to the state dict, and it."""
    torch = need("torch")
    trail: list[str] = []
    found = whole
    for _ in range(3):
        if isinstance(found, Mapping) and found and all(isinstance(v, torch.Tensor) for v in found.values()):
            return trail, found
        step = next((k for k in _WRAPPERS if isinstance(found, Mapping) and isinstance(found.get(k), Mapping)), None)
        if step is None:
            break
        trail.append(step)
        found = found[step]
    raise ModelError(f"{file}: holds no state dict; save model.state_dict()")


def _check_state(stripped: Any, hook: Any, state: Mapping[str, Any], file: Path) -> None:
    removed = {item.parameter: item.shape for item in hook.plan.removed}
    shapes = {key: tuple(value.shape) for key, value in stripped.state_dict().items()} | removed
    counters = {key for key in shapes if key.endswith("num_batches_tracked")}
    problems = [f"lacks {key}" for key in shapes.keys() - state.keys() - removed.keys() - counters]
    problems += [f"has unexpected {key}" for key in state.keys() - shapes.keys()]
    problems += [
        f"{key} is {list(state[key].shape)}, not {list(shape)}"
        for key, shape in shapes.items()
        if key in state and tuple(state[key].shape) != tuple(shape)
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise DataError(f"{file}: {', '.join(sorted(problems)[:3])}{more}; make the model that was trained")


def _serialize(result: Any, source: Path) -> bytes:
    if source.suffix.lower() == ".safetensors":
        tensors = {key: value.contiguous() for key, value in result.items()}
        return bytes(need("safetensors.torch").save(tensors))
    buffer = io.BytesIO()
    need("torch").save(result, buffer)
    return buffer.getvalue()
