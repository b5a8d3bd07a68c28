"""``lint --fix``: write ``bias=False`` into the calls that construct dead biases, where that can be proved right.

A call is edited only if every module that it made in this net has a dead bias, its arguments say plainly whether it has
a bias, and the norm behind it is made by a plain call in the same Sequential or class, under no condition that does
not hold for the layer too. Everything else in the file stays byte for byte.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.dataclass import dataclass
from converter.errors import ModelError
from converter.records.lint import Kind, LintFinding, Location
from converter.temporary import open_whole
from converter.torch_models.lint.construction_sites import Places, is_installed
from converter.torch_models.lint.linter import Linted
from converter.torch_models.lint.strip_biases import find_removable

if TYPE_CHECKING:
    from converter.torch_models.lint.syntax import File

_CLASSES = (
    *(f"Conv{n}d" for n in (1, 2, 3)),
    *(f"ConvTranspose{n}d" for n in (1, 2, 3)),
    "Linear",
)


@dataclass(frozen=True, slots=True)
class Refused:
    """A dead bias whose constructing call stays as it is."""

    parameter: str
    location: Location | None
    why: str


@dataclass(frozen=True, slots=True)
class Edited:
    """One source file, before and after."""

    path: Path
    before: bytes
    after: bytes
    n_calls: int
    readers: tuple[int, ...] = ()  # lines that read a `.bias`, which may now be None


@dataclass(frozen=True, slots=True)
class SourceFix:
    """All edits, and what was refused."""

    edited: tuple[Edited, ...]
    refused: tuple[Refused, ...]
    root: Path

    @property
    def diff(self) -> str:
        """A unified diff, as `patch -p1` and `git apply` take it."""
        return "".join(_diff(item, self.root) for item in self.edited)

    def write(self) -> None:
        """Replace the files.

        Raises
        ------
        ModelError
            One of them was changed meanwhile, or cannot be written. Files before it are done.
        """
        for item in self.edited:
            if item.path.read_bytes() != item.before:
                raise ModelError(f"{item.path}: was changed meanwhile; run it again")
            try:
                with open_whole(item.path.resolve(), mode=item.path.stat().st_mode & 0o7777) as file:
                    file.write(item.after)
            except OSError as exc:
                raise ModelError(f"{item.path}: cannot be written ({exc.strerror}); check its folder") from exc


def _diff(item: Edited, root: Path) -> str:
    name = item.path.relative_to(root).as_posix() if item.path.is_relative_to(root) else item.path.as_posix()
    before, after = (text.decode("utf-8", "replace").splitlines(keepends=True) for text in (item.before, item.after))
    return "".join(difflib.unified_diff(before, after, f"a/{name}", f"b/{name}"))


def plan_source_fix(linted: Linted, module: Any, root: Path) -> SourceFix:
    """Decide which calls to edit.

    Raises
    ------
    RuntimeUnavailable
        LibCST is not installed.
    """
    from converter.torch_models.lint import syntax

    syntax.import_libcst()
    places = linted.places
    dead = [f for f in linted.report.findings if f.kind is Kind.DEAD and f.code.startswith("bias-before-")]
    if places is None:
        return SourceFix(
            (), tuple(Refused(f.parameter, f.location, "where it was made was not noted") for f in dead), root
        )
    modules = dict(module.named_modules())
    groups: dict[Location, list[LintFinding]] = {}
    refused: list[Refused] = []
    goes = find_removable(module, linted) if dead else frozenset()
    for finding in dead:
        place = places.find(modules.get(finding.module))
        why = _why_unfit(finding, modules) or ("" if place else "where it was made was not noted")
        if not why and finding.parameter not in goes:
            why = "eval mode reads it elsewhere, or it is shared"
        if why or place is None:
            refused.append(Refused(finding.parameter, finding.location, why))
        else:
            groups.setdefault(place.location, []).append(finding)
    files: dict[str, File] = {}
    edits: dict[str, list[Location]] = {}
    for location, group in groups.items():
        why = _why_refused(location, group, modules, places, files, root)
        if why:
            refused += [Refused(f.parameter, location, why) for f in group]
        else:
            edits.setdefault(location.path, []).append(location)
    edited = []
    for path, locations in edits.items():
        held = [f for location in locations for f in groups[location]]
        kinds = {type(modules[f.module]).__name__ for f in held}
        why = files[path].explain_crash({f.module.rpartition(".")[2] for f in held}, kinds)
        if why:
            refused += [Refused(f.parameter, f.location, why) for f in held]
        else:
            edited.append(_edit(files[path], locations))
    return SourceFix(tuple(edited), tuple(refused), root)


def _why_unfit(finding: LintFinding, modules: Mapping[str, Any]) -> str:
    kind = type(modules.get(finding.module)).__name__
    if finding.part is not None or not finding.parameter.endswith("bias"):
        return "it is a part of a parameter"
    home = type(modules.get(finding.module)).__module__
    if kind not in _CLASSES or not home.startswith("torch.nn."):
        return f"{kind} is no convolution or linear layer of torch's own"
    if not finding.code.endswith("-norm"):
        return "no norm of torch's own stands behind it"
    return ""


def _why_refused(
    location: Location,
    group: list[LintFinding],
    modules: Mapping[str, Any],
    places: Places,
    files: dict[str, File],
    root: Path,
) -> str:
    """Why a call may not be edited; empty if it may."""
    from converter.torch_models.lint import syntax

    path = Path(location.path)
    if is_installed(location.path) or not path.is_relative_to(root):
        return "it lies outside this folder"
    living = _find_living_bias(location, group, modules, places)
    if living:
        return f"the same call makes {living}, whose bias lives"
    if location.path not in files:
        files[location.path] = syntax.parse_file(path)
    file = files[location.path]
    layer = type(modules[group[0].module])
    call = file.call_at(location)
    if call is None:
        return "it is no plain call there"
    why = syntax.explain_bias_refusal(call, layer.__name__, _bias_position(layer))
    if why:
        return why
    for finding in group:
        norms = [name for name in finding.evidence["ends_at"] if name in modules]
        why = _why_norms_refused(file, location, norms, modules, places)
        if why:
            return why
    return ""


def _find_living_bias(
    location: Location, group: Iterable[LintFinding], modules: Mapping[str, Any], places: Places
) -> str:
    dead = {finding.module for finding in group}
    for name, part in modules.items():
        place = places.find(part)
        same = place is not None and place.location == location
        if same and name not in dead and getattr(part, "bias", None) is not None:
            return name
    return ""


def _bias_position(layer: type) -> int:
    """Where among the positional arguments the bias stands."""
    return list(inspect.signature(layer).parameters).index("bias")


def _why_norms_refused(
    file: File, location: Location, norms: list[str], modules: Mapping[str, Any], places: Places
) -> str:
    if not norms:
        return "no norm of torch's own stands behind it"
    for name in norms:
        place = places.find(modules[name])
        if place is None:
            return f"where {name} was made was not noted"
        if place.location.path != location.path:
            return f"{name} is made in another file"
        why = file.explain_separation(location, place.location, type(modules[name]).__name__)
        if why:
            return f"{name} {why}"
    return ""


def _edit(file: File, locations: list[Location]) -> Edited:
    return Edited(file.path, file.content, file.without_bias(locations), len(locations), file.bias_readers())
