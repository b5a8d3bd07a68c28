"""Data for many passes: held or read again, cut into parts that share nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converter.ablate.ablate import split_halves
from converter.ablate.samples import Data, DataSource, split_rows
from converter.errors import DataError
from converter.referee.proto.source import list_free_inputs
from tests.ablate.made import chain, data_of, images, net_of


def rows_in(part) -> list[float]:
    return [float(v) for b in part.batches() for v in b.feeds["x"][:, 0, 0, 0]]


@pytest.mark.parametrize("max_bytes", [1 << 28, 1000])  # held, and read again
def test_a_part_gives_its_rows_and_their_labels(max_bytes: int) -> None:
    x = images(70)
    data = data_of(net_of(chain())[0].source, {"x": x}, np.arange(70), max_bytes)
    assert data.held == (max_bytes > 1000)
    rows = np.array([69, 3, 16, 17, 18, 40])
    part = data.part(rows)
    assert len(part) == 6
    assert rows_in(part) == [float(x[k, 0, 0, 0]) for k in sorted(rows)]
    assert [int(v) for b in part.batches() for v in b.labels] == sorted(rows)  # type: ignore[union-attr]
    assert rows_in(part) == rows_in(part)


def test_few_rows_of_many_runs_are_run_together() -> None:
    data = data_of(net_of(chain())[0].source, {"x": images(320)})
    runs = [b.rows for b in data.part(np.arange(0, 320, 10)).batches()]
    assert sum(runs) == 32
    assert len(runs) == 2


def test_parts_share_nothing_and_leave_nothing_out() -> None:
    parts = split_rows(1000, 1, 0, (0.2, 0.2), (150, 2000))
    sizes = [len(parts.calibrate), len(parts.select), len(parts.confirm)]
    assert sizes == [150, 200, 650]
    assert sorted(np.concatenate([parts.calibrate, parts.select, parts.confirm])) == list(range(1000))
    again, other = split_rows(1000, 1, 0, (0.2, 0.2), (150, 2000)), split_rows(1000, 1, 1, (0.2, 0.2), (150, 2000))
    np.testing.assert_array_equal(parts.confirm, again.confirm)
    assert not np.array_equal(parts.confirm, other.confirm)
    assert list(parts.calibrate[:20]) != list(range(20))  # shuffled: data is often sorted by class


def test_a_fixed_batch_is_not_torn_apart() -> None:
    proto = chain()
    dim = proto.graph.input[0].type.tensor_type.shape.dim[0]
    dim.dim_value = 4
    data = data_of(net_of(proto)[0].source, {"x": images(40)})
    assert (data.unit, data.joins) == (4, False)
    parts = split_rows(40, data.unit, 0, (0.2, 0.2), (1024, 1024))
    assert all(len(p) % 4 == 0 for p in (parts.calibrate, parts.select, parts.confirm))
    assert [b.rows for b in data.part(parts.calibrate).batches()] == [4, 4]


def test_labels_must_be_as_many_as_rows() -> None:
    source = net_of(chain())[0].source
    with pytest.raises(DataError, match="there are 9 labels for 10 rows"):
        data_of(source, {"x": images(10)}, np.arange(9))
    with pytest.raises(DataError, match="there are 11 labels for 10 rows"):
        data_of(source, {"x": images(10)}, np.arange(11))


def test_data_that_fits_no_input_is_an_error(tmp_path: Path) -> None:
    source = net_of(chain())[0].source
    with pytest.raises(DataError, match="'x' has no value"):
        data_of(source, {"y": images(10)})
    with pytest.raises(DataError, match="there are no such inputs"):
        Data(DataSource(inputs=[tmp_path / "none.npz"]), source.proto, list_free_inputs(source.proto), 1000)


def test_data_that_changes_between_readings_is_an_error(tmp_path: Path) -> None:
    script = tmp_path / "made.py"
    script.write_text(
        "import numpy as np\ncalls = []\n"
        "def inputs():\n"
        "    import time\n"
        "    for _ in range(40):\n"
        "        yield {'x': np.random.default_rng().random((1, 1, 8, 8), np.float32)}\n"
    )
    source = net_of(chain())[0].source
    data = Data(DataSource(inputs=f"{script}:inputs"), source.proto, list_free_inputs(source.proto), 1000)
    assert not data.held
    with pytest.raises(DataError, match="changes from one reading to the next"):
        list(data.batches())


@pytest.mark.parametrize("unit", [1, 2])
def test_equal_rows_are_in_one_part(unit: int) -> None:
    twins = np.random.default_rng(0).integers(0, 120, 400)
    parts = split_rows(400, unit, 0, (0.2, 0.2), (1024, 1024), twins)
    dealt = [parts.calibrate, parts.select, parts.confirm]
    assert sorted(np.concatenate(dealt)) == list(range(400))
    if unit == 1:
        assert min(map(len, dealt)) > 40
    held = [set(twins[rows]) for rows in dealt]
    assert not held[0] & held[1]
    assert not (held[0] | held[1]) & held[2]


def test_equal_rows_are_in_one_half() -> None:
    twice = np.repeat(images(30), 4, axis=0)
    data = data_of(net_of(chain())[0].source, {"x": twice[np.random.default_rng(1).permutation(120)]})
    fit, rest = split_halves(data, 0)
    assert fit.rows is not None
    assert rest.rows is not None
    assert sorted([*fit.rows, *rest.rows]) == list(range(120))
    assert 40 < len(fit) < 80
    assert not set(data.twins[fit.rows]) & set(data.twins[rest.rows])


def test_rows_without_twins_are_dealt_as_ever() -> None:
    plain, told = (split_rows(300, 1, 3, (0.2, 0.2), (90, 90), t) for t in (None, np.arange(300)))
    assert all(np.array_equal(a, b) for a, b in zip(vars_of(plain), vars_of(told), strict=True))


def vars_of(parts: object) -> list[np.ndarray]:
    return [getattr(parts, name) for name in ("calibrate", "select", "confirm")]
