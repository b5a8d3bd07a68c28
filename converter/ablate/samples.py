"""The user's data for many passes: read once and held where it fits, else read again each time; cut and split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from converter.dataclass import dataclass
from converter.errors import DataError
from converter.records import InputSet
from converter.referee.inputs.files import open_inputs, read_labels
from converter.referee.inputs.images import open_images
from converter.referee.inputs.stream import MOST_ROWS, Stream, hash_feeds
from converter.referee.proto.random_inputs import check_given
from converter.referee.proto.source import Port

Labels = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one run is fed; ``first`` numbers its rows over the whole data, ``labels`` [rows] where there are any."""

    feeds: dict[str, Any]
    first: int
    rows: int
    labels: Labels | None = None


@dataclass(frozen=True, slots=True)
class DataSource:
    """Where data comes from, as the user said it."""

    inputs: Any = None
    images: Path | str | None = None
    preprocess: str = "imagenet"
    shapes: Mapping[str, tuple[int, ...]] | None = None
    labels: Any = None
    samples: int | None = None  # runs that are read at most

    def stream(self, ports: Mapping[str, Port]) -> Stream:
        """All of it from the beginning."""
        if self.images is not None:
            if self.inputs is not None:
                raise DataError("data and images exclude each other; give one of them")
            return open_images(Path(self.images), self.preprocess, ports, self.shapes or {}, self.samples)
        single = isinstance(self.inputs, str | Path | Mapping)
        return open_inputs([self.inputs] if single else list(self.inputs or ()), ports, self.samples)


class Data:
    """Rows of data in a fixed order, batch by batch, as often as needed.

    Parameters
    ----------
    given : what the user gave
    proto : the model, for its inputs
    max_bytes : what may be held; more is read again on every pass

    Raises
    ------
    DataError
        There is none, it does not fit the model, or there are more or fewer labels than rows.
    """

    def __init__(self, given: DataSource, proto: Any, ports: Mapping[str, Port], max_bytes: int) -> None:
        self._given, self._ports = given, ports
        labels = read_labels(Path(given.labels)) if isinstance(given.labels, str | Path) else given.labels
        self._labels = None if labels is None else np.asarray(labels)
        self._held: list[Batch] | None = []
        stream, size, rows = given.stream(ports), 0, 0
        self._digests: list[bytes] = []
        row_digests: list[bytes] = []
        for batch in self._batches(stream):
            if not rows:
                check_given(proto, batch.feeds)
            rows += batch.rows
            size += sum(v.nbytes for v in batch.feeds.values() if isinstance(v, np.ndarray))
            self._digests.append(hash_feeds(batch.feeds))
            row_digests += _hash_rows(batch)
            if self._held is not None:
                self._held.append(batch)
            if size > max_bytes:
                self._held = None
        if not rows:
            raise DataError(f"{stream.source or 'the data'}: holds no inputs; give some with --inputs")
        if self._labels is not None and given.samples is None and len(self._labels) != rows:
            raise DataError(f"there are {len(self._labels)} labels for {rows} rows; give one per row of the data")
        self.rows = rows
        self.twins = np.unique(np.array(row_digests), return_inverse=True)[1].reshape(-1)  # equal for equal rows
        self.labelled = all(b.labels is not None for b in self._held) if self._held else self._labels is not None
        self.record: InputSet = replace(stream.record(labelled=self.labelled), n=rows)
        self.held = self._held is not None

    def _batches(self, stream: Stream) -> Iterator[Batch]:
        first = 0
        for sample in (samples := stream.all()):
            rows = _count_rows(sample.feeds)
            labels = None if sample.label is None else np.asarray(sample.label).reshape(rows, -1)
            if self._labels is not None:
                labels = self._labels[first : first + rows]
                if len(labels) < rows:
                    n_rows = first + rows + sum(_count_rows(more.feeds) for more in samples)
                    text = f"there are {len(self._labels)} labels for {n_rows} rows; give one per row of the data"
                    raise DataError(text)
            elif labels is not None and labels.shape[1] == 1:
                labels = labels[:, 0]
            yield from self._cut(Batch(sample.feeds, first, rows, labels))
            first += rows

    def _cut(self, batch: Batch) -> Iterator[Batch]:
        """At most `MOST_ROWS` rows at a time, where the model takes as many as it is given."""
        if not self.joins or batch.rows <= MOST_ROWS:
            yield batch
            return
        for start in range(0, batch.rows, MOST_ROWS):
            yield _pick_rows(batch, np.arange(start, min(start + MOST_ROWS, batch.rows)))

    def batches(self) -> Iterator[Batch]:
        """All of it, in order."""
        if self._held is not None:
            yield from self._held
            return
        for k, batch in enumerate(self._batches(self._given.stream(self._ports))):
            if k >= len(self._digests) or hash_feeds(batch.feeds) != self._digests[k]:
                raise DataError("the data changes from one reading to the next; give files, or a script that is seeded")
            yield batch

    def part(self, rows: np.ndarray[Any, Any]) -> Part:
        """The rows with these numbers."""
        return Part(self, np.unique(rows))

    def all(self) -> Part:
        """Every row."""
        return Part(self, None)

    @property
    def unit(self) -> int:
        """Rows that cannot be parted: 1, or the rows of a run where the model fixes them."""
        return max([1, *self._list_fixed_batches()])

    @property
    def joins(self) -> bool:
        """Whether the model takes as many rows as it is given."""
        return not self._list_fixed_batches()

    def _list_fixed_batches(self) -> list[int]:
        return [p.dims[0] for p in self._ports.values() if p.dims and isinstance(p.dims[0], int)]


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of the data; nothing else can be seen through it."""

    data: Data
    rows: np.ndarray[Any, Any] | None

    def __len__(self) -> int:
        return self.data.rows if self.rows is None else len(self.rows)

    def batches(self) -> Iterator[Batch]:
        """Runs of at most `MOST_ROWS` rows, numbered as in the whole data."""
        if self.rows is None:
            yield from self.data.batches()
            return
        pending: list[Batch] = []
        for batch in self.data.batches():
            low, high = np.searchsorted(self.rows, [batch.first, batch.first + batch.rows])
            if low == high:
                continue
            picked = self.rows[low:high] - batch.first
            if len(picked) == batch.rows:
                yield from _join_batches(pending)
                yield batch
                continue
            pending.append(_pick_rows(batch, picked))
            if not self.data.joins:
                yield pending.pop()
            elif sum(b.rows for b in pending) >= MOST_ROWS:
                yield from _join_batches(pending)
        yield from _join_batches(pending)


def _join_batches(pending: list[Batch]) -> Iterator[Batch]:
    """Batches as one where they can be joined."""
    batches = list(pending)
    pending.clear()
    if len(batches) > 1 and all(isinstance(v, np.ndarray) and v.ndim for b in batches for v in b.feeds.values()):
        shapes = {tuple((n, v.shape[1:]) for n, v in b.feeds.items()) for b in batches}
        if len(shapes) == 1 and all((b.labels is None) == (batches[0].labels is None) for b in batches):
            feeds = {n: np.concatenate([b.feeds[n] for b in batches]) for n in batches[0].feeds}
            labels = None if batches[0].labels is None else np.concatenate([b.labels for b in batches])
            batches = [Batch(feeds, batches[0].first, sum(b.rows for b in batches), labels)]
    yield from batches


def _pick_rows(batch: Batch, rows: np.ndarray[Any, Any]) -> Batch:
    feeds = {n: v[rows] if np.ndim(v) and len(v) == batch.rows else v for n, v in batch.feeds.items()}
    return Batch(feeds, batch.first + int(rows[0]), len(rows), None if batch.labels is None else batch.labels[rows])


def _hash_rows(batch: Batch) -> list[bytes]:
    """A digest of each row of the inputs."""
    found = [hashlib.blake2b(digest_size=12) for _ in range(batch.rows)]
    for name in sorted(batch.feeds):
        value = np.asarray(batch.feeds[name])
        by_row = value.ndim > 0 and len(value) == batch.rows
        for k, digest in enumerate(found):
            digest.update(np.ascontiguousarray(value[k] if by_row else value).tobytes())
    return [digest.hexdigest().encode() for digest in found]


def _count_rows(feeds: Mapping[str, Any]) -> int:
    lengths = [len(v) for v in feeds.values() if isinstance(v, np.ndarray) and v.ndim]
    return max(lengths) if lengths else 1


@dataclass(frozen=True, slots=True)
class Split:
    """Rows that no two parts share: fitted on, selected on, judged on once."""

    calibrate: np.ndarray[Any, Any]
    select: np.ndarray[Any, Any]
    confirm: np.ndarray[Any, Any]


def split_rows(
    rows: int,
    unit: int,
    seed: int,
    shares: Sequence[float],
    most: Sequence[int],
    twins: np.ndarray[Any, Any] | None = None,
) -> Split:
    """Shuffle units of rows and deal them out.

    Parameters
    ----------
    shares, most : for the first two parts, as a share of the rows and as a number; the third has the rest
    twins : ndarray, shape [rows], optional
        Equal for equal rows: all of these go to one part, so that nothing is judged on what it was fitted to.
    """
    units = np.random.default_rng([seed, 0x5B11]).permutation(rows // unit + (rows % unit > 0))
    sizes = [max(1, min(int(share * rows), limit) // unit) for share, limit in zip(shares, most, strict=True)]
    return Split(*deal_units(units, np.cumsum(sizes).tolist(), rows, unit, twins))


def deal_units(
    units: np.ndarray[Any, Any], ends: Sequence[int], rows: int, unit: int, twins: np.ndarray[Any, Any] | None = None
) -> list[np.ndarray[Any, Any]]:
    """The rows of shuffled units, cut at the ``ends``, each part in order; units that share a row go to one part."""
    if twins is not None and len(np.unique(twins)) < rows:
        family = _join_twins(twins, unit)[units]
        first = {int(f): k for k, f in reversed(list(enumerate(family)))}
        order = np.argsort([first[int(f)] for f in family], kind="stable")
        units, family = units[order], family[order]
        # an end within a family moves behind it
        ends = [int(np.nonzero(family == family[e - 1])[0][-1]) + 1 if e <= len(units) else e for e in ends]
    parts = np.split(units, ends)
    made = [np.sort((p[:, None] * unit + np.arange(unit)).reshape(-1)) for p in parts]
    return [p[p < rows] for p in made]


def _join_twins(twins: np.ndarray[Any, Any], unit: int) -> np.ndarray[Any, Any]:
    """The family of each unit of rows: units that share a row, or share one with those that do, are of one family."""
    family = np.arange(-(-len(twins) // unit))
    seen: dict[int, int] = {}

    def find(k: int) -> int:
        while family[k] != k:
            family[k] = family[family[k]]
            k = int(family[k])
        return k

    for row, twin in enumerate(twins.tolist()):
        other = seen.setdefault(twin, row // unit)
        family[find(row // unit)] = find(other)
    return np.array([find(k) for k in range(len(family))])
