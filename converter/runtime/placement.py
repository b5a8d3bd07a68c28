"""Which provider ran which node: read from onnxruntime's own profile of one run.

The list of a session's providers says what it might use. Only the profile says where a node ran.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from converter.dataclass import dataclass
from converter.errors import ModelError, RuntimeUnavailable
from converter.runtime.providers import PROVIDERS
from converter.runtime.session import Session

# Where these run is what was asked for; shape arithmetic belongs on the CPU whatever was asked.
_HEAVY = re.compile(r"Conv|MatMul|Gemm|Normalization|LayerNorm|GroupNorm|Attention|LSTM|GRU|^RNN$")

# y = Relu(x) of one float: a model that every provider runs.
_PROBE = bytes.fromhex(
    "08073a330a0c0a0178120179220452656c751201705a0f0a0178120a0a08"
    "080112040a020801620f0a0179120a0a08080112040a02080142040a00100d"
)


def probe_provider(provider: str, options: Mapping[str, str] | None = None) -> None:
    """Have a session on the provider, of the smallest model.

    Raises
    ------
    RuntimeUnavailable
        The provider is listed, but its libraries do not load, or it does not take these options.
    """
    try:
        Session(_PROBE, provider, options=options, strict=False)  # strict would hide what was misspelt
    except ModelError as exc:
        raise RuntimeUnavailable(f"{PROVIDERS[provider]} cannot be used: {exc}") from exc


@dataclass(frozen=True, slots=True)
class Placement:
    """Nodes per provider, and those that do a model's arithmetic as (provider, operator, node)."""

    nodes: dict[str, int]
    heavy: tuple[tuple[str, str, str], ...]
    taken: dict[str, int] = field(default_factory=dict)  # provider -> nodes of the arithmetic that it took at loading

    def elsewhere(self, provider: str, *, partial: bool = False) -> list[str]:
        """Nodes of the arithmetic that did not run on ``provider`` (cpu, cuda, tensorrt).

        ``partial``: those that TensorRT left to CUDA are where they may be.
        """
        allowed = {PROVIDERS[provider], *((PROVIDERS["cuda"],) if partial and provider == "tensorrt" else ())}
        return [f"{node} ({op}) on {where}" for where, op, node in self.heavy if where not in allowed]

    @property
    def arithmetic(self) -> dict[str, int]:
        """Provider -> nodes of the arithmetic; what is fused into an engine counts by its nodes where that is told."""
        return self.taken or dict(Counter(where for where, _, _ in self.heavy).most_common())


def find_placement(model: bytes | Path, provider: str, feeds: Mapping[str, Any], **session: Any) -> Placement:
    """Run ``model`` once in a session of its own, profiled into a folder that is gone afterwards."""
    return run_with_placement(model, provider, feeds, **session)[0]


def run_with_placement(
    model: bytes | Path, provider: str, feeds: Mapping[str, Any], **session: Any
) -> tuple[Placement, dict[str, Any]]:
    """The same, with the outputs of that run."""
    with tempfile.TemporaryDirectory(prefix="biasopt-profile-") as folder:
        made = Session(model, provider, profile=Path(folder) / "profile", **session)
        values = made.run(feeds)
        placed = read_profile(made.end_profile())
        counts = {where: sum(map(_is_heavy, nodes)) for where, nodes in made.list_assigned().items()}
        return replace(placed, taken={where: count for where, count in counts.items() if count}), values


def _is_heavy(node: tuple[str, str]) -> bool:
    return _HEAVY.search(node[0]) is not None


def read_profile(path: Path) -> Placement:
    """Read onnxruntime's profile.

    Raises
    ------
    ModelError
        The file is no profile.
    """
    try:
        events = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        ran = [e for e in events if e.get("cat") == "Node" and e.get("args", {}).get("provider")]
    except (OSError, ValueError, AttributeError, TypeError) as exc:
        raise ModelError(f"{path}: no profile of onnxruntime ({exc})") from exc
    # A node in a loop runs often and counts once.
    nodes = {
        (
            e["name"].removesuffix("_kernel_time"),
            e["args"].get("node_index"),
            e["args"]["provider"],
            e["args"].get("op_name", ""),
        )
        for e in ran
    }
    counts = Counter(where for _, _, where, _ in nodes)
    heavy = sorted((where, op, name) for name, _, where, op in nodes if _HEAVY.search(op))
    return Placement(dict(counts.most_common()), tuple(heavy))


def prove_placement(found: Placement, provider: str, label: str, *, partial: bool = False) -> None:
    """Refuse a run whose arithmetic was done elsewhere; ``partial``: some of TensorRT's may be done by CUDA.

    Raises
    ------
    RuntimeUnavailable
        Some of it was; the message names the nodes.
    """
    wrong = found.elsewhere(provider, partial=partial)
    if not wrong and not found.nodes.get(PROVIDERS[provider]) and found.nodes:
        wrong = ["every node on " + ", ".join(found.nodes)]
    if wrong:
        some = "; ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise RuntimeUnavailable(f"{label}: asked for {PROVIDERS[provider]}, but {some}; {_advise(found, provider)}")


def _advise(found: Placement, provider: str) -> str:
    if provider == "tensorrt" and not found.elsewhere(provider, partial=True) and found.nodes.get(PROVIDERS[provider]):
        return "--partial lets CUDA do what TensorRT leaves"
    return "ask for a provider that has these"
