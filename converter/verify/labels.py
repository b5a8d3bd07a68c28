"""Labels from a file, one per row of the models' decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import DataError


def read_labels(path: Path) -> np.ndarray[Any, Any]:
    """Labels from .npy, or from text: one whole number per line, the last column where there are commas.

    Raises
    ------
    DataError
        The file holds no whole numbers.
    """
    try:
        found = np.load(path, allow_pickle=False) if path.suffix.lower() == ".npy" else _text(path)
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror or exc}); give labels as .npy or text") from exc
    except (ValueError, EOFError) as exc:
        raise DataError(f"{path}: no labels; give whole numbers as .npy, or one per line") from exc
    if found.dtype.kind not in "iub" or not found.ndim:
        raise DataError(
            f"{path}: labels are {found.dtype} of shape {list(found.shape)}; give whole numbers, one per row"
        )
    return np.asarray(found)


def _text(path: Path) -> np.ndarray[Any, Any]:
    rows = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    values = [row.replace(";", ",").split(",")[-1].strip() for row in rows]
    if values and not values[0].lstrip("-").isdigit():
        values = values[1:]  # the column's name
    return np.array([int(v) for v in values], np.int64)
