"""The public functions: load, inspect, explain, fold (passes, then the referee, then the write)."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from converter import pipeline
from converter._version import __version__
from converter.analysis import rnn
from converter.analysis.asked import NoSuchBias, named
from converter.analysis.facts import Facts, Permits
from converter.errors import BiasoptError, ModelError
from converter.graph import Graph, emit, has_external, load, stored_files
from converter.protos import DataFile, Pieces, Staged, contradiction, data_name, problems, span_of, stage
from converter.records import Counts, Fate, Finding, Parity, Rewrite, Status, Verdict

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FoldResult", "InspectResult", "NoSuchBias", "explain", "fold", "inspect", "load"]

_PROTO_LIMIT = (1 << 31) - 1  # bytes that protobuf takes in one message
Model = str | Path | onnx.ModelProto | bytes


@dataclass(frozen=True)
class InspectResult:
    """What `fold` would do and what it would leave."""

    path: Path | None  # None for a model in memory
    size_bytes: int  # of the model and its data files
    opset: int
    rewrites: tuple[Rewrite, ...]
    findings: tuple[Finding, ...]
    before: Counts
    after: Counts
    frozen: tuple[str, ...] = ()  # names taken out of the graph's inputs
    overridable_blocked: int = 0  # folds that freeze_overridable would win
    overridable_names: int = 0
    problem: str = ""  # what onnx's checker says against the model as it came
    fates: tuple[Fate, ...] = ()  # of every bias: where it went, or why it is kept
    gates: tuple[rnn.Gate, ...] = ()  # how long LSTMs and GRUs remember on their bias alone


@dataclass(frozen=True)
class FoldResult(InspectResult):
    """What `fold` did, with the proof, and the folded model."""

    output: Path | None = None
    parity: Parity | None = None
    exit_code: int = 0
    graph: Graph | None = field(default=None, repr=False, compare=False)

    @property
    def changed(self) -> bool:
        """Whether the folded model differs from the input."""
        return bool(self.rewrites or self.frozen)

    @property
    def model(self) -> onnx.ModelProto:
        """The folded model. Tensors in other files stay there, by location."""
        model: onnx.ModelProto = onnx.ModelProto.FromString(self.to_bytes())
        return model

    def to_bytes(self) -> bytes:
        """The folded model, serialised; the input's own bytes if nothing was rewritten."""
        if self.output is not None:  # the input may have been replaced
            return self.output.read_bytes()
        assert self.graph is not None
        return _pieces(self.graph, self, None).to_bytes()

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the model to `path`, whole or not at all.

        Raises
        ------
        ModelError
            Parity failed or is unproven, the target exists (without `force`) or cannot be written.
        """
        if self.parity is not None and self.parity.verdict is not Verdict.PASS:
            raise ModelError(f"{path}: not written, because parity is {self.parity.verdict}: {self.parity.why}")
        if self.output is not None:
            copy = fold(self.output, out=path, verify=False, only=(), force=force)
            assert copy.output is not None
            return copy.output
        assert self.graph is not None
        target = _checked_target(self.graph, Path(path), force=force)
        _stage(self, target, in_place=False).commit()
        return target


def inspect(
    model: Model,
    *,
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    allow: Iterable[str] = (),
    data: str | Path | None = None,
    keep_bn: bool = False,
    no_growth: bool = False,
    freeze_overridable: bool = False,
    progress: Callable[[str], None] | None = None,
) -> InspectResult:
    """Find what `fold` would do, without writing. The same passes run on the same graph.

    Parameters
    ----------
    model : path, bytes or ModelProto
    only, skip, allow : names of passes
    data : path, optional
        Directory of the external data of a proto.
    keep_bn : bool
        Move biases into batch norms instead of folding them.
    no_growth : bool
        Copy no tensor that other nodes read as well.
    freeze_overridable : bool
        Take initializers that are also graph inputs as constants.

    Raises
    ------
    ModelError
        The model cannot be read.
    ValueError
        A name is no pass's.
    """
    options = _options(only, skip, allow, None, keep_bn, no_growth)
    with _quiet():
        graph = load(model, data=data, freeze_overridable=freeze_overridable)
        try:
            with _blame(graph):
                outcome = pipeline.run(graph, options, progress)
                blocked = _blocked(model, data, options, outcome, freeze_overridable)
                return InspectResult(**_common(graph, outcome, blocked))
        finally:
            graph.close()


def explain(
    model: Model,
    node: str,
    *,
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    allow: Iterable[str] = (),
    data: str | Path | None = None,
    keep_bn: bool = False,
    no_growth: bool = False,
    freeze_overridable: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Fate:
    """Say what becomes of one bias, with every node that its shift meets on the way.

    Parameters
    ----------
    model : path, bytes or ModelProto
    node : str
        A node that bears a bias (by its name or label), its output, or the bias tensor's name.
    only, skip, allow, data, keep_bn, no_growth, freeze_overridable
        As in `inspect`.

    Returns
    -------
    Fate
        The path of a bias that goes is that of the moment when it goes; of one that stays, the path in
        the folded model.

    Raises
    ------
    ModelError
        The model cannot be read.
    NoSuchBias
        No bias is called that; the message names those that come near.
    ValueError
        A name is no pass's.
    """
    options = _options(only, skip, allow, None, keep_bn, no_growth)
    with _quiet():
        graph = load(model, data=data, freeze_overridable=freeze_overridable)
        try:
            ops = {n.label: str(n.op) for n in graph.nodes()}
            with _blame(graph):
                outcome = pipeline.run(graph, options, progress)
            return named(outcome.fates, node, ops)
        finally:
            graph.close()


def fold(
    model: Model,
    *,
    out: str | Path | None = None,
    verify: bool = True,
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    allow: Iterable[str] = (),
    data: str | Path | None = None,
    keep_bn: bool = False,
    no_growth: bool = False,
    freeze_overridable: bool = False,
    stop_after: int | None = None,
    force: bool = False,
    in_place: bool = False,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    inputs: Sequence[dict[str, np.ndarray[Any, Any]]] | None = None,
    custom_ops: str | Path | None = None,
    provider: str = "cpu",
    max_time: float = 30.0,
    max_memory: int | None = None,
    quick: bool = False,
    seed: int = 0,
    on_inconclusive: str = "fail",
    progress: Callable[[str], None] | None = None,
) -> FoldResult:
    """Fold every batch norm and bias that can be folded exactly, prove it, and write the result.

    The input is never changed unless `in_place`; the output is whole or absent. A failed proof is
    returned (``exit_code`` 1, or 4 where it is inconclusive), not raised, and nothing is written.

    Parameters
    ----------
    model : path, bytes or ModelProto
    out : path, optional
        Where to write; nothing is written without it (or `in_place`).
    verify : bool
        Compare outputs before and after.
    only, skip, allow : names of passes
    data : path, optional
        Directory of the external data of a proto.
    keep_bn, no_growth, freeze_overridable : bool
        As in `inspect`.
    stop_after : int, optional
        Number of rewrites after which to stop.
    force : bool
        Replace an existing output.
    in_place : bool
        Replace the input, atomically; follows symbolic links and keeps the mode.
    shapes : mapping of input name to dims, inputs : feeds, custom_ops : path of a library
        For the proof; see `converter.verify.compare`.
    max_time : float
        Seconds after which the proof takes no more inputs.
    max_memory : int, optional
        Bytes that the float64 copy may take; half of the free memory by default.
    provider : str
        "cpu" or "cuda": where onnxruntime runs for the proof.
    quick : bool
        One input and one draw of rounding errors.
    seed : int
        Of the random inputs.
    on_inconclusive : str
        "fail" (`exit_code` 4, nothing is written) or "pass".
    progress : callable, optional
        Told what is being done, in a few words.

    Returns
    -------
    FoldResult

    Raises
    ------
    ModelError
        The model cannot be read, or the output cannot be written.
    ValueError
        A name is no pass's.
    """
    options = _options(only, skip, allow, stop_after, keep_bn, no_growth)
    with _quiet():
        graph = load(model, data=data, freeze_overridable=freeze_overridable)
        target = _target(graph, out, force=force, in_place=in_place)
        with _blame(graph):
            outcome = pipeline.run(graph, options, progress)
            blocked = _blocked(model, data, options, outcome, freeze_overridable)
            result = FoldResult(**_common(graph, outcome, blocked), graph=graph)
            staged = _stage(result, target, in_place) if target is not None else None
        try:
            parity = None
            if verify:
                got: Path | bytes = staged.temporary if staged is not None else result.to_bytes()
                parity = _prove(
                    result,
                    got,
                    data=None if data is None else Path(data),
                    shapes=dict(shapes) if shapes else None,
                    inputs=list(inputs) if inputs else None,
                    custom_ops=custom_ops,
                    provider=provider,
                    seed=seed,
                    quick=quick,
                    max_time=max_time,
                    max_memory=max_memory,
                    progress=progress,
                )
            code = exit_code(parity, on_inconclusive)
            if staged is not None and code == 0:
                if in_place:
                    graph.close()  # Windows does not replace a file that is open
                staged.commit()
            elif staged is not None:
                staged.discard()
        except BaseException:
            if staged is not None:
                staged.discard()
            raise
    written = target if code == 0 else None
    return replace(result, output=written, parity=parity, exit_code=code)


def exit_code(parity: Parity | None, on_inconclusive: str = "fail") -> int:
    """0 for a proof (or none asked for), 1 for a failure, 4 where it is open (0 if that is to pass)."""
    if parity is None or parity.verdict in (Verdict.PASS, Verdict.SKIPPED):
        return 0
    if parity.verdict is Verdict.FAIL:
        return 1
    return 0 if on_inconclusive == "pass" else 4


def _options(
    only: Iterable[str] | None,
    skip: Iterable[str],
    allow: Iterable[str],
    stop_after: int | None,
    keep_bn: bool,
    no_growth: bool,
) -> pipeline.Options:
    for name, given in (("only", only), ("skip", skip), ("allow", allow)):
        if isinstance(given, str):
            raise TypeError(f"{name} takes several names, not one string; write [{given!r}]")
    chosen = None if only is None else frozenset(only)
    left_out, allowed = frozenset(skip), frozenset(allow)
    unknown = pipeline.unknown_passes(sorted((chosen or frozenset()) | left_out | allowed))
    if unknown:
        raise ValueError(f"no pass is named {', '.join(unknown)}")
    return pipeline.Options(chosen, left_out, allowed, stop_after, Permits(keep_bn, no_growth))


def _common(graph: Graph, outcome: pipeline.Outcome, blocked: int) -> dict[str, Any]:
    main = graph.scopes[0]
    return {
        "path": graph.file.path,
        "size_bytes": len(graph.file.buffer) + sum(Path(p).stat().st_size for p in stored_files(graph)),
        "opset": main.opset,
        "rewrites": outcome.rewrites,
        "findings": outcome.findings,
        "before": outcome.before,
        "after": outcome.after,
        "frozen": tuple(sorted(main.frozen)),
        "overridable_blocked": blocked,
        "overridable_names": sum(getattr(t, "overridable", False) for t in main.values.values()),
        "problem": problems(graph.file.skeleton),
        "fates": outcome.fates,
        "gates": rnn.gates(Facts(graph)),
    }


def _blocked(
    model: Model, data: str | Path | None, options: pipeline.Options, outcome: pipeline.Outcome, frozen: bool
) -> int:
    """How many more folds there would be if overridable initializers were constants: by trying."""
    stuck = any(f.status is Status.DECLINED and f.code == "overridable" for f in outcome.findings)
    if frozen or not stuck or options.stop_after is not None:
        return 0
    graph = load(model, data=data, freeze_overridable=True)
    try:
        return max(0, len(pipeline.run(graph, options).rewrites) - len(outcome.rewrites))
    finally:
        graph.close()


# -- the proof -------------------------------------------------------------------------------


def _prove(result: FoldResult, got: Path | bytes, **options: Any) -> Parity:
    if not result.changed:
        return Parity(Verdict.PASS, "B", scope="identical", why="nothing was rewritten; the output is the input")
    from converter import verify  # its libraries load slowly

    assert result.graph is not None
    file = result.graph.file
    ref: Path | bytes = file.path if file.path is not None else bytes(file.buffer[0 : len(file.buffer)])
    parity: Parity = verify.compare(ref, got, **options)
    return parity


# -- the write -------------------------------------------------------------------------------


def _pieces(graph: Graph, result: InspectResult, data: DataFile | None) -> Pieces:
    if not (result.rewrites or result.frozen) and data is None:
        out = Pieces()
        out.add(span_of(graph.file.buffer, graph.file.path, *graph.file.root))
        return out
    return emit(graph, _metadata(graph, result.rewrites), data)


def _metadata(graph: Graph, rewrites: tuple[Rewrite, ...]) -> dict[str, str]:
    """What the output says of itself: the version, and the id of every rewrite, earlier ones first."""
    if not rewrites:
        return {}
    known = {e.key: e.value for e in graph.file.skeleton.metadata_props}
    earlier: list[str] = []
    with contextlib.suppress(ValueError):
        found = json.loads(known.get("biasopt.rewrites", "[]"))
        earlier = [str(i) for i in found] if isinstance(found, list) else []
    ids = [*earlier, *(r.id for r in rewrites)]
    return {"biasopt.version": __version__, "biasopt.rewrites": json.dumps(ids, separators=(",", ":"))}


def _stage(result: FoldResult, target: Path, in_place: bool) -> Staged:
    graph = result.graph
    assert graph is not None
    data: DataFile | None = None
    if has_external(graph):
        data = DataFile(data_name(target, _seed(graph)))
    pieces = _pieces(graph, result, data)
    if data is None and pieces.n_bytes > _PROTO_LIMIT:
        data = DataFile(data_name(target, _seed(graph)))
        pieces = _pieces(graph, result, data)
    mode = stat.S_IMODE(target.stat().st_mode) if in_place else None
    own = set() if in_place else {Path(p) for p in stored_files(graph)}
    stale = _stale_data(target, own) if target.exists() else ()
    return stage(target, pieces, data, mode=mode, stale_data=stale)


def _seed(graph: Graph) -> bytes:
    return bytes(graph.file.skeleton.SerializeToString(deterministic=True))


def _stale_data(old: Path, keep: set[Path]) -> tuple[Path, ...]:
    """Data files that the model about to be replaced uses, and that nothing else around it may use."""
    kept = {k.resolve() for k in keep}
    mine = {p for p in _data_files(old) if p.resolve() not in kept}
    return tuple(sorted(p for p in mine if not _named_elsewhere(p, old)))


def _named_elsewhere(data: Path, old: Path) -> bool:
    """Whether another file here, or one folder up, has the data file's name in it, or cannot be read.

    A model names its data files in plain bytes, whatever its own name, version or state.
    """
    name = data.name.encode()
    for folder in dict.fromkeys((data.parent, old.parent, data.parent.parent)):
        try:
            for other in folder.iterdir():
                if not other.is_file() or other.samefile(old) or other.samefile(data) or not other.stat().st_size:
                    continue
                with other.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    if content.find(name) >= 0:
                        return True
        except (OSError, ValueError):
            return True
    return False


def _data_files(path: Path) -> set[Path]:
    try:
        graph = load(path)
    except BiasoptError:
        return set()  # not a model, or a broken one: nothing of its is ours to delete
    try:
        return {Path(p) for p in stored_files(graph)}
    finally:
        graph.close()


def _target(graph: Graph, out: str | Path | None, *, force: bool, in_place: bool) -> Path | None:
    if in_place:
        if out is not None:
            raise ModelError(f"{out}: in place means no other output; give one of the two")
        if graph.file.path is None:
            raise ModelError("<model>: is not a file, so it cannot be replaced in place; give out=PATH")
        return graph.file.path.resolve()
    return None if out is None else _checked_target(graph, Path(out), force=force)


def _checked_target(graph: Graph, target: Path, *, force: bool) -> Path:
    sources = [Path(p) for p in stored_files(graph)] + ([graph.file.path] if graph.file.path else [])
    try:
        if target.is_dir():
            raise ModelError(f"{target}: is a directory; give a file name")
        for source in sources:
            if target.exists() and target.samefile(source):
                raise ModelError(f"{target}: is the input itself; give another output, or ask for --in-place")
        if os.path.lexists(target) and not force:
            raise ModelError(f"{target}: exists already; give another output, or --force to replace it")
        if target.exists() and not target.is_file():
            raise ModelError(f"{target}: is not a regular file; give another output")
        if not target.parent.is_dir():
            raise ModelError(f"{target}: its directory does not exist; create it first")
    except (OSError, RuntimeError) as exc:  # a name too long, a directory without access, a loop of links
        raise ModelError(f"{target}: cannot be written ({exc}); give another output") from exc
    return target


@contextlib.contextmanager
def _blame(graph: Graph) -> Iterator[None]:
    """An error of ours on a model whose shapes or names contradict each other is the model's; else it is a bug."""
    try:
        yield
    except BiasoptError:
        raise
    except Exception as exc:
        problem = contradiction(graph.file.skeleton)
        if not problem:
            raise
        first = problem.splitlines()[0]
        raise ModelError(f"{graph.file.label}: is not valid ONNX ({first}); export it again") from exc


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep graphsurgeon's own remarks off the user's terminal."""
    from onnx_graphsurgeon.logger import G_LOGGER

    before = G_LOGGER.severity
    G_LOGGER.severity = G_LOGGER.CRITICAL
    try:
        yield
    finally:
        G_LOGGER.severity = before
