"""Each row of a pass is a test of its own."""

from __future__ import annotations

import pytest

from tests.rewrite.passes.walk import PassRows


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Spread the rows of a subclass of PassRows over its tests."""
    rows = metafunc.cls
    if rows is None or not issubclass(rows, PassRows):
        return
    names, declined = set(metafunc.fixturenames), rows.declined()
    if "twin" in names:
        metafunc.parametrize("twin", [case for _, case in declined if case.twin], ids=str)
    elif "code" in names:
        metafunc.parametrize(("code", "case"), declined, ids=[case.id for _, case in declined])
    elif "case" in names:
        metafunc.parametrize("case", rows.folded(), ids=str)
