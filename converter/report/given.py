"""What the command line is given, as values; what is no such value is a `ValueError` that says what would be."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from converter.errors import DataError
from converter.report import wording

REMOVE = "remove-biases"


def size(value: str | None) -> int | None:
    """Bytes, with a unit: ``500MB``, ``2GiB``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)(I?)B?", (value or "").strip().upper())
    n_bytes = int(float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2] or " ")) if found else 0
    if value is not None and not n_bytes:
        raise ValueError(f"{value!r} is not a size such as 500MB or 2GiB.")
    return n_bytes or None


def shapes(values: Sequence[str]) -> dict[str, tuple[int, ...]] | None:
    """Shapes by name, from ``x=1,3,224,224``; split at the last ``=``, since a name may hold one."""
    found = {}
    for value in values:
        name, _equals, dims = value.rpartition("=")
        if not name or not re.fullmatch(r"(\d+(,\d+)*)?", dims):
            raise ValueError(f"{value!r} is not an input's shape such as x=1,3,224,224.")
        found[name] = tuple(int(dim) for dim in dims.split(",") if dim)
    return found or None


def inputs(values: Sequence[Path]) -> list[dict[str, Any]] | None:
    """One set of inputs per .npz file, by name."""
    return [_arrays(value) for value in values] or None


def _arrays(path: Path) -> dict[str, Any]:
    import numpy as np

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as exc:
        raise DataError(f"{path}: no readable .npz file; save inputs by name with numpy.savez") from exc


def pairs(values: Sequence[str]) -> dict[str, str]:
    """Options of a provider, or names of one model and the other's: ``k=v``."""
    found = {}
    for value in values:
        name, equals, other = value.partition("=")
        if not name or not equals or not other:
            raise ValueError(f"{value!r} is not of the form NAME=VALUE.")
        found[name] = other
    return found


def ranges(values: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Ranges of random values by name, from ``x=-2:2``."""
    found = {}
    for value in values:
        name, _equals, limits = value.rpartition("=")
        try:
            low, high = (float(part) for part in limits.split(":"))
        except ValueError:
            low, high = 1.0, 0.0
        if not name or not -math.inf < low <= high < math.inf:
            raise ValueError(f"{value!r} is not an input's range such as x=-2:2.")
        found[name] = (low, high)
    return found


def tolerances(values: Sequence[str]) -> list[tuple[str, str, float]]:
    """Gates on usual measures, from ``y:max_abs=1e-4``, or ``max_abs=1e-4`` for every output."""
    found = []
    for value in values:
        place, equals, limit = value.rpartition("=")
        output, _colon, metric = place.rpartition(":")
        try:
            number = float(limit)
        except ValueError:
            equals, number = "", 0.0
        if not metric or not equals:
            raise ValueError(f"{value!r} is not a tolerance such as y:max_abs=1e-4.")
        found.append((output, metric, number))
    return found


def stages(values: Sequence[str]) -> list[str] | None:
    """Stages of the referee."""
    found, known = split(values), ("structure", "algebra", "parameters", "local", "runtime", "decision")
    if unknown := [name for name in found if name not in known]:
        raise ValueError(f"{unknown[0]!r} is no stage; there are {', '.join(known)}.")
    return found or None


def kinds(values: Sequence[str]) -> list[str]:
    """Kinds of report."""
    found = split(values)
    if unknown := set(found) - {"json", "md", "html", "junit", "text"}:
        raise ValueError(f"{min(unknown)!r} is no kind of report; there are json, md, html, junit and text.")
    return found


def share(value: str | None) -> float | None:
    """A share of one, in per cent or as a number: ``0.1%``, ``0.001``."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) *(%?)", value.strip())
    part = float(found[1]) / (100 if found[2] else 1) if found else 0.0
    if not 0 < part < 1:
        raise ValueError(f"{value!r} is not a share such as 2% or 0.02.")
    return part


def passes(values: Sequence[str]) -> list[str]:
    """Names of passes, each of them one that there is; in them - and _ are the same."""
    names = split(value.replace("_", "-") for value in values)
    if names:
        from converter.rewrite.passes import PASSES

        known = [row.name for row in PASSES]
        for name in names:
            if name not in known:
                raise ValueError(wording.no_such_pass(name, known))
    return names


def allowed(values: Sequence[str]) -> list[str]:
    """Names of passes, or of the one step that goes by data."""
    names = split(value.replace("_", "-") for value in values)
    return [*passes([name for name in names if name != REMOVE]), *(name for name in names if name == REMOVE)]


def example_inputs(values: Sequence[str]) -> list[Any]:
    """Example inputs of a torch module, from ``x=1,3,224,224:float32``."""
    if not values:
        return []
    from converter.torch_models.spec import parse_input

    return [parse_input(value) for value in values]


def open_sizes(values: Sequence[str]) -> Any:
    """Sizes that an export leaves open, from ``batch`` or ``x=0:batch,2:height``."""
    if not values:
        return ()
    from converter.torch_models.export import parse_dynamic

    return parse_dynamic(values)


def split(values: Iterable[str]) -> list[str]:
    """Repeating an option and giving it a list with commas are the same."""
    parts = (part.strip() for part in ",".join(values).split(","))
    return list(dict.fromkeys(part for part in parts if part))


def lint_codes(value: str | None) -> frozenset[str]:
    """Codes of the linter, from ``a,b``; or ``any``."""
    from converter.records.lint import CODES

    asked = frozenset(part.strip() for part in (value or "").split(",") if part.strip())
    known = {code.name for code in CODES}
    for name in sorted(asked - known - {"any"}):
        raise ValueError(f"{name!r} is no code of lint; there are {', '.join(sorted(known))}, and any.")
    return asked
