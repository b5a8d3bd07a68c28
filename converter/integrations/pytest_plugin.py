"""The pytest plugin: a fixture ``assert_same_model``, whose report lies beside the test's temporary files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from converter.records import Parity


@pytest.fixture
def assert_same_model(tmp_path: Path) -> Callable[..., Parity]:
    """`biasopt.assert_same`, with a report in the test's ``tmp_path`` for each call: ``same-1``, ``same-2`` ..."""
    calls = 0

    def check(a: Any, b: Any, **options: Any) -> Parity:
        __tracebackhide__ = True
        from biasopt import assert_same

        nonlocal calls
        calls += 1
        folder = tmp_path / f"same-{calls}"
        try:
            return assert_same(a, b, **{"report": folder, **options})
        except AssertionError as failed:
            place = options.get("report", folder)
            raise AssertionError(f"{failed}\n\nreport: {place}/report.html") from None

    return check
