"""Is B slower than A on this machine?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.records import Latency

if TYPE_CHECKING:
    from onnx import ModelProto


def measure_latency(
    a: Path | str | bytes | ModelProto,
    b: Path | str | bytes | ModelProto,
    *,
    gate: str = "not-slower",
    margin: float = 0.02,
    alpha: float = 0.05,
    sessions: int | None = None,
    blocks: int | None = None,
    pairs: int | None = None,
    max_time: float | None = None,
    quick: bool = False,
    seed: int = 0,
    inputs: Mapping[str, Any] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    batch: int | None = None,
    provider: str = "cpu",
    provider_options: Mapping[str, str] | None = None,
    opt_level: str = "all",
    show_unoptimised: bool = False,
    threads: int | None = None,
    custom_ops: Path | None = None,
    cuda_graph: bool = False,
    include_h2d: bool = False,
    flush_l2: bool = False,
    data: tuple[Path | None, Path | None] = (None, None),
    samples: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Latency:
    """How long ``b`` takes beside ``a``, and whether that is what was asked for.

    Parameters
    ----------
    a, b : path, bytes or ModelProto
        The models; both must take the same inputs.
    gate : str
        ``not-slower``, ``faster:5%``, ``equivalent`` or ``none``.
    margin : float
        The slow-down that still counts as none: 0.02 for 2 %.
    alpha : float
        Of each bound of the interval.
    sessions, blocks, pairs : int, optional
        Sessions, blocks of each, pairs of runs of each; 5, 4, 20 (quick: 3, 3, 10).
    max_time : float, optional
        Seconds for all of it; 120 (quick: 20).
    inputs : mapping, optional
        One set of inputs by name; random ones otherwise, of ``shapes`` or ``batch`` where sizes are open.
    provider : {"cpu", "cuda", "tensorrt"}
        Where both run; refused if they do not run there.
    opt_level : {"all", "basic", "off"}
        onnxruntime's graph optimisations. ``show_unoptimised`` measures with none as well.
    threads : int, optional
        All the cores that this process may use otherwise.
    cuda_graph, include_h2d, flush_l2 : bool
        Run as a CUDA graph; time the copy of the inputs too; empty the caches before every sample.
    data : pair of path
        Directories of external data of models that are no files.
    samples : path, optional
        An .npz for every single time.
    progress : callable, optional
        Told the present stage.

    Raises
    ------
    ModelError, DataError, RuntimeUnavailable
        A model cannot be loaded or run as was asked.
    ValueError
        An option is none of those above.
    """
    from converter.bench.compare import Request, compare
    from converter.bench.design import Design, parse
    from converter.referee.proto.source import LoadedModel
    from converter.runtime.timing import Deployment

    given = {"sessions": sessions, "blocks": blocks, "pairs": pairs, "max_time": max_time}
    asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    asked |= {"gate": parse(gate), "margin": margin, "alpha": alpha, "seed": seed}
    how = Deployment(
        provider=provider,
        options=dict(provider_options or {}),
        level=opt_level,
        threads=threads,
        custom_ops=custom_ops,
        cuda_graph=cuda_graph,
        include_h2d=include_h2d,
    )
    request = Request(
        design=Design.fast(**asked) if quick else Design(**asked),
        how=how,
        feeds=inputs,
        shapes=shapes,
        batch=batch,
        flush=flush_l2,
        unoptimised=show_unoptimised,
        samples=samples,
        say=progress or (lambda stage: None),
    )
    return compare(LoadedModel.open(a, data[0], label="A"), LoadedModel.open(b, data[1], label="B"), request)
