"""Each row of a pass is a test of its own."""

from __future__ import annotations

import pytest

from tests.rewrite.passes.walk import BY_ID, PassRows


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Spread the rows of a subclass of PassRows over its tests."""
    rows = metafunc.cls
    if rows is None or not issubclass(rows, PassRows):
        return
    declined = rows.declined()
    if "folded" in metafunc.fixturenames:
        metafunc.parametrize("folded", rows.folds.split())
    if "declined" in metafunc.fixturenames:
        metafunc.parametrize("declined", declined, ids=[row for _, row in declined])
    if "twin" in metafunc.fixturenames:
        metafunc.parametrize("twin", [row for _, row in declined if BY_ID[row].twin])
