"""Where does it begin? The first rewrite, or the first tensor, that makes two models differ."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from converter.bounded_json import parse_texts
from converter.commands.fold import FoldResult, fold
from converter.dataclass import dataclass
from converter.records import Parity, Rewrite, Verdict
from converter.records.option import merge_options
from converter.records.options import FoldOptions, Progress, VerifyOptions
from converter.referee.proto.scopes import Scope, build_scopes, compute_signature, is_same_constant, list_reads
from converter.referee.proto.source import LoadedModel
from converter.referee.proto.tensors import read_tensor
from converter.referee.verify.first_difference import find_first_difference

if TYPE_CHECKING:
    from onnx import ModelProto


_REWRITES = "biasopt.rewrites"


# With what a fold may have been made; the one whose rewrites are those of the model under test is bisected.
_WAYS = (
    FoldOptions(),
    FoldOptions(allow_growth=math.inf),
    FoldOptions(keep_bn=True),
    FoldOptions(keep_bn=True, allow_growth=math.inf),
    FoldOptions(no_growth=True),
    FoldOptions(freeze_overridable=True),
    FoldOptions(freeze_overridable=True, allow_growth=math.inf),
    FoldOptions(keep_bn=True, no_growth=True),
)


_SECONDS = 30.0  # of one comparison


@dataclass(frozen=True, slots=True)
class Blame:
    """Where two models part.

    ``rewrite``: id of the first rewrite after which they differ; empty if none is to blame (the model was changed
    after the fold, or comes from another tool). ``tensor``, ``node``: what differs first. ``steps``: comparisons made.
    """

    rewrite: str = ""
    tensor: str = ""
    node: str = ""
    why: str = ""
    steps: int = 0

    @property
    def text(self) -> str:
        """In one line, as a report says it; empty if nothing was found."""
        where = self.rewrite or self.node or self.tensor
        return f"{where} ({self.why})" if where and self.why else where


def bisect(a: Any, b: Any, options: VerifyOptions | None = None, **keywords: Any) -> Blame:
    """Find the first rewrite that breaks parity, or the first tensor that differs.

    A fold of this tool's is made again, rewrite by rewrite: if a fold that stops after rewrite n answers as the
    original and one that stops after n + 1 does not, that rewrite is to blame; if all of them do, the model was
    changed after it was folded, and the first constant or node that is not the fold's is named. Of any other
    pair, the first tensor of the same name is named, in the order of the data, whose float64 values differ by more
    than rounding, and from which the difference reaches an output.

    Parameters
    ----------
    a, b : path, bytes or ModelProto
    options : VerifyOptions, optional
        Or as keywords. Of these, data_dir, got_data_dir, shapes, seed, custom_ops, max_time and progress count.

    Returns
    -------
    Blame
        Empty where nothing differs.

    Raises
    ------
    ModelError, DataError
        A model cannot be read or run.
    """
    asked = merge_options(VerifyOptions, options, keywords)
    tell = asked.progress or (lambda text: None)
    data = None if asked.data_dir is None else Path(asked.data_dir)
    original = LoadedModel.open(a, data, "original")
    got_data = asked.got_data_dir or (original.folder if not isinstance(b, str | Path) else None)
    rewritten = LoadedModel.open(b, None if got_data is None else Path(got_data), "rewritten")
    ids = _read_rewrite_ids(rewritten)[len(_read_rewrite_ids(original)) :]
    if ids:
        judging = VerifyOptions(
            data_dir=data,
            shapes=asked.shapes,
            seed=asked.seed,
            custom_ops=asked.custom_ops,
            quick=True,
            max_time=asked.max_time or _SECONDS,
            stages=("structure", "algebra", "parameters", "runtime"),
        )
        found = _Search(a, ids, judging, tell).run(rewritten)
        if found is not None:
            return found
    return Blame(**find_first_difference(original, rewritten, asked.shapes, asked.seed, tell)._asdict())


def with_blame(parity: Parity, a: Any, b: Any, options: VerifyOptions) -> Parity:
    """The verdict with where the difference begins, if it does not pass."""
    if parity.verdict is Verdict.PASS:
        return parity
    return replace(parity, blame=bisect(a, b, options).text)


def _read_rewrite_ids(source: LoadedModel) -> list[str]:
    """What the model says was rewritten in it."""
    for entry in source.proto.metadata_props:
        if entry.key == _REWRITES:
            return parse_texts(entry.value)
    return []


class _Search:
    """A binary search over the rewrites of a fold."""

    def __init__(self, a: Any, ids: list[str], judging: VerifyOptions, tell: Progress) -> None:
        self._a, self._ids, self._judging, self._tell = a, ids, judging, tell
        self._steps = 0

    def run(self, rewritten: LoadedModel) -> Blame | None:
        """The answer; None if the fold cannot be made again."""
        again = self._repeat_fold({t.name for t in rewritten.proto.graph.initializer})
        if again is None:
            return None
        way, rewrites = again
        refolded = self._build_model(len(rewrites), way)
        if not self._is_bad(len(rewrites), refolded):
            return self._find_change_since(LoadedModel.open(refolded, self._find_folder()), rewritten, rewrites)
        good, bad = 0, len(rewrites)
        while bad - good > 1:
            middle = (good + bad) // 2
            if self._is_bad(middle, self._build_model(middle, way)):
                bad = middle
            else:
                good = middle
        first = rewrites[bad - 1]
        return Blame(first.id, first.output, first.node, f"the first of {len(rewrites)} that differs", self._steps)

    def _repeat_fold(self, held: set[str]) -> tuple[FoldOptions, tuple[Rewrite, ...]] | None:
        """How the fold was made, and its rewrites: among ways with the same ones, that with the constants ``held``."""
        names, found = {i.partition("@")[0] for i in self._ids}, None
        for way in (*_WAYS, FoldOptions(only=names), FoldOptions(only=names, allow=names)):
            with contextlib.suppress(ValueError):
                result = self._fold(len(self._ids), way)
                if [r.id for r in result.rewrites] == self._ids:
                    found = found or (way, result.rewrites)
                    if {t.name for t in result.model.graph.initializer} == held:
                        return way, result.rewrites
        return found

    def _fold(self, count: int, way: FoldOptions) -> FoldResult:
        return fold(self._a, None, replace(way, verify=None, data_dir=self._judging.data_dir, stop_after=count))

    def _build_model(self, count: int, way: FoldOptions) -> ModelProto:
        return self._fold(count, way).model

    def _find_folder(self) -> Path | None:
        return LoadedModel.open(self._a, self._find_data()).folder

    def _find_data(self) -> Path | None:
        return None if self._judging.data_dir is None else Path(self._judging.data_dir)

    def _is_bad(self, count: int, model: ModelProto) -> bool:
        from converter.referee.verify import compare

        self._steps += 1
        self._tell(f"bisect: the first {count} rewrites")
        parity = compare(self._a, model, replace(self._judging, got_data_dir=self._find_folder()))
        return parity.verdict is Verdict.FAIL

    def _find_change_since(self, refolded: LoadedModel, rewritten: LoadedModel, rewrites: tuple[Rewrite, ...]) -> Blame:
        """The model under test against the fold made again: they should be the same."""
        found = next(_find_differences(refolded, rewritten), None)
        if found is None:
            return Blame(steps=self._steps, why="it is what the fold makes, and every rewrite of it passes")
        tensor, node, why = found
        owner = next((r.id for r in reversed(rewrites) if tensor in r.delta.added_tensors), "")
        said = f"made by {owner}, {why} since the fold" if owner else f"{why} since the fold"
        return Blame("", tensor, f"{node}: {tensor}" if tensor else node, said, self._steps)


def _find_differences(refolded: LoadedModel, rewritten: LoadedModel) -> Iterator[tuple[str, str, str]]:
    """Tensor, node and difference, in the order of the data, where two models that should be the same are not."""
    ours, theirs = build_scopes(refolded, {}), build_scopes(rewritten, {})
    for key, scope in theirs.items():
        if key not in ours:
            continue
        known = {compute_signature(node) for node in ours[key].nodes}
        for node in scope.nodes:
            label = node.name or f"{node.op_type}:{node.output[0]}"
            for name in list_reads(node):
                if name in scope.consts and (why := _describe_change(name, ours[key], scope)):
                    yield name, label, why
            if compute_signature(node) not in known:
                yield "", label, "changed"


def _describe_change(name: str, ours: Scope, theirs: Scope) -> str:
    old, new = ours.consts.get(name), theirs.consts[name]
    if old is None:
        return "put in"
    if is_same_constant(old, ours.source, new, theirs.source):
        return ""
    if not isinstance(old, TensorProto) or list(old.dims) != list(new.dims):
        return "of another shape"
    x, y = read_tensor(old, ours.source.folder), read_tensor(new, theirs.source.folder)
    differing = np.flatnonzero(~((x == y) | ((x != x) & (y != y))).reshape(-1))
    if not differing.size or not x.ndim:
        return "changed"
    channels = np.unique(differing // max(x.size // x.shape[0], 1))
    rest = f" and {len(channels) - 1} more" if len(channels) > 1 else ""
    return f"changed in channel {int(channels[0])}{rest}"
