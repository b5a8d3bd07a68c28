"""``biasopt.toml``, or ``[tool.biasopt]`` of pyproject.toml: options that a project always gives.

A key is an option of the command line without its dashes. At the top it counts for every command that has it, in the
section of a command for that one, under ``models."GLOB"`` for models whose path matches. What stands on the command
line wins; then the model's section, the command's, the top. Settings become words of the command line, so that a
report's command says all of them. What is read: the file in the working directory, else in the next one up to the
repository's.

A checkout may be a stranger's, and so is its file: what is found that way names no code, replaces nothing and stays in
its own folder. A file that the user names in ``BIASOPT_CONFIG`` is trusted.
"""

from __future__ import annotations

import json
import os
import shlex
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from converter.dataclass import dataclass
from converter.errors import BiasoptError

NAME, VARIABLE = "biasopt.toml", "BIASOPT_CONFIG"
MOST_BYTES = 1 << 20  # of a file of settings
_MODELS = ("models", "model", "a", "b", "original")  # parameters that hold a model's path


@dataclass(frozen=True, slots=True)
class Setting:
    """One option with its value, and the section that it stands in."""

    key: str  # as an option is called, without its dashes
    value: Any
    section: str


@dataclass(frozen=True, slots=True)
class Config:
    """A file of settings: sections by name, in the order in which later ones win."""

    path: Path
    sections: Mapping[str, Mapping[str, Any]]
    by_model: Mapping[str, Mapping[str, Any]]
    is_trusted: bool = False

    def find_settings(self, command: click.Command, models: Iterable[str]) -> dict[str, Setting]:
        """What counts for a command on these models, by the option's key."""
        known = {key for option in _options(command) for key in _keys(option)}
        found: dict[str, Setting] = {}
        for section, table in self._list_tables(str(command.name), list(models)):
            for key, value in table.items():
                if (key := _plain(key)) in known and not isinstance(value, Mapping):
                    found[key] = Setting(key, value, section)
        return found

    def _list_tables(self, command: str, models: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        yield "", self.sections[""]
        yield command, self.sections.get(command, {})
        for glob, table in self.by_model.items():
            if any(_matches(model, glob, self.path.parent) for model in models):
                yield f'models."{glob}"', {k: v for k, v in table.items() if not isinstance(v, Mapping)}
                yield f'models."{glob}".{command}', table.get(command, {})


# -- reading ---------------------------------------------------------------------------------------------


def find_config(group: click.Group) -> Config | None:
    """The settings that count in the working directory; None where there are none.

    Raises
    ------
    BiasoptError
        The file cannot be read, is no TOML, or has a key or section that is none; the message has the nearest.
    """
    asked = os.environ.get(VARIABLE)
    if asked is not None:
        found = _read(Path(asked), group) if asked else None
        return replace(found, is_trusted=True) if found else None
    here = Path.cwd()
    owner = here.stat().st_uid
    for folder in (here, *here.parents):
        if folder.stat().st_uid != owner:  # such as /tmp, where anybody may put a file
            return None
        for name in (NAME, "pyproject.toml"):
            path = folder / name
            if path.is_file() and (config := _read(path, group)) is not None:
                return config
        if (folder / ".git").exists() or not any((up / ".git").exists() for up in folder.parents):
            return None
    return None


def _read(path: Path, group: click.Group) -> Config | None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BiasoptError(f"{path}: is no regular file; name another one in {VARIABLE}, or none")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise BiasoptError(f"{path}: cannot be read ({why}); name another file in {VARIABLE}, or none") from exc
    if len(content) > MOST_BYTES:
        if path.name == "pyproject.toml" and b"biasopt" not in content:
            return None
        raise BiasoptError(f"{path}: is longer than {MOST_BYTES} bytes; name another file in {VARIABLE}, or none")
    if path.name == "pyproject.toml" and b"biasopt" not in content:
        return None
    import tomllib

    try:
        document: Any = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise BiasoptError(f"{path}: is no TOML ({exc}); mend it") from exc
    if path.name == "pyproject.toml":
        document = (document.get("tool") or {}).get("biasopt")
        if document is None:
            return None
    return _check(path, document, group)


def _check(path: Path, document: Mapping[str, Any], group: click.Group) -> Config:
    keys = {name: {k for o in _options(command) for k in _keys(o)} for name, command in group.commands.items()}
    everywhere = set().union(*keys.values())
    top = {key: value for key, value in document.items() if key != "models" and not isinstance(value, Mapping)}
    sections: dict[str, Mapping[str, Any]] = {"": top}
    _check_keys(path, "", top, everywhere, {*group.commands, "models"})
    for name, table in document.items():
        if name != "models" and isinstance(table, Mapping):
            _check_section(path, "", name, table, keys)
            sections[name] = table
    models = document.get("models", {})
    if not isinstance(models, Mapping) or not all(isinstance(table, Mapping) for table in models.values()):
        raise BiasoptError(f'{path}: models is no table of globs; write [models."*.onnx"]')
    for glob, table in models.items():
        place = f'models."{glob}"'
        plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
        _check_keys(path, place, plain, everywhere, set(group.commands))
        for name, inner in table.items():
            if isinstance(inner, Mapping):
                _check_section(path, f"{place}.", name, inner, keys)
    return Config(path, sections, models)


def _check_section(path: Path, before: str, name: str, table: Mapping[str, Any], keys: Mapping[str, set[str]]) -> None:
    if name not in keys:
        raise BiasoptError(f"{path}: [{before}{name}] is no command{_suggest(name, {*keys, 'models'})}")
    _check_keys(path, f"{before}{name}", table, keys[name], set())


def _check_keys(path: Path, place: str, table: Mapping[str, Any], known: set[str], tables: set[str]) -> None:
    for key, value in table.items():
        where = f"[{place}] " if place else ""
        if _plain(key) not in known:
            raise BiasoptError(f"{path}: {where}{key} is no option{_suggest(_plain(key), known | tables)}")
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str | int | float | bool) for item in values):
            raise BiasoptError(f"{path}: {where}{key} holds no text, number, truth value or list of these")


def _suggest(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, sorted(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else "; `biasopt COMMAND --help` lists what there is"


# -- onto the command line -------------------------------------------------------------------------------


def add_settings(group: click.Group, argv: Sequence[str]) -> list[str]:
    """The command line with what the configuration adds to it: after the command, before what was given."""
    name = argv[0] if argv else ""
    command = group.commands.get(name)
    if command is None or name == "config" or {"-h", "--help"} & set(argv):
        return list(argv)
    config = find_config(group)
    if config is None:
        return list(argv)
    given, models = _look_at(command, argv[1:])
    words: list[str] = []
    for setting in config.find_settings(command, models).values():
        option = _find_option(command, setting)
        if option.name not in given:
            _check_trust(config, option, setting)
            words += _as_words(option, setting)
    return [name, *words, *argv[1:]]


def _check_trust(config: Config, option: click.Option, setting: Setting) -> None:
    """Refuse what a file that nobody named may not say: its author may be a stranger.

    Raises
    ------
    BiasoptError
        It names code, replaces files or takes a protection away, or its path leaves the folder of the file.
    """
    if why := find_risk(config, option, setting):
        place = f"[{setting.section}] " if setting.section else ""
        shown = json.dumps(setting.value, ensure_ascii=False)
        raise BiasoptError(
            f"{config.path}: {place}{setting.key} = {shown} {why}; give it on the command line, or, if you trust the "
            f"file, set {VARIABLE}={shlex.quote(str(config.path))}"
        )


def find_risk(config: Config, option: click.Option, setting: Setting) -> str:
    """What a setting could do to who did not write it; empty if nothing, or if the file is trusted."""
    values = setting.value if isinstance(setting.value, list) else [setting.value]
    risks = [] if config.is_trusted else [_find_risk(option, value, config.path.parent) for value in values]
    return next(filter(None, risks), "")


def _find_risk(option: click.Option, value: Any, folder: Path) -> str:
    kind = getattr(option, "kind", "")
    if kind == "metric":
        return "" if value == "top1" else "names code"
    if kind == "data" and ".py:" in str(value):
        return "names code"
    if getattr(option, "trusted", False):
        return "" if value is False else "can run code, replace files or take a protection away"
    if kind == "data" or isinstance(option.type, click.Path):
        return "" if _is_inside(str(value), folder) else "leaves the folder of the file"
    return ""


def _is_inside(path: str, folder: Path) -> bool:
    """Whether a path stays in a folder; on the way no link is followed, and no host asked, that is not in it."""
    if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):  # noqa: PTH100  (asks nobody)
        return False
    try:
        found = Path(path).resolve()
        is_loop = any(place.is_symlink() for place in (found, *found.parents))  # which Python 3.13 leaves as it is
        return not is_loop and found.is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links before that, a NUL
        return False


def _look_at(command: click.Command, argv: Sequence[str]) -> tuple[set[str], list[str]]:
    """The names of the parameters that are given, and the paths of models; nothing is checked yet."""
    try:
        context = command.make_context(command.name, list(argv), resilient_parsing=True)
    except click.ClickException:
        return set(), []
    given = {n for n in context.params if context.get_parameter_source(n) is ParameterSource.COMMANDLINE}
    models: list[str] = []
    for name in _MODELS:
        value = context.params.get(name)
        models += [str(item) for item in (value if isinstance(value, tuple | list) else [value]) if item is not None]
    return given, models


def _as_words(option: click.Option, setting: Setting) -> list[str]:
    """The setting as it would stand on the command line."""
    flag = next(word for word in (*option.opts, *option.secondary_opts) if _plain(word) == setting.key)
    values = setting.value if isinstance(setting.value, list) else [setting.value]
    if option.is_flag:
        return [flag] if values == [True] else []
    if option.nargs > 1:
        return [flag, *map(str, values)]
    return [part for value in values for part in (flag, str(value))]


def _find_option(command: click.Command, setting: Setting) -> click.Option:
    return next(option for option in _options(command) if setting.key in _keys(option))


def _options(command: click.Command) -> list[click.Option]:
    return [param for param in command.params if isinstance(param, click.Option) and not param.hidden]


def _keys(option: click.Option) -> list[str]:
    return [_plain(word) for word in (*option.opts, *option.secondary_opts) if word.startswith("--")]


def _plain(key: str) -> str:
    return key.removeprefix("--").replace("_", "-")


def _matches(model: str, glob: str, folder: Path) -> bool:
    """Whether the path, from the folder of the file of settings, or as it was given, or its name, matches."""
    path = Path(model)
    names = {model, path.name}
    if path.absolute().is_relative_to(folder.absolute()):
        names.add(path.absolute().relative_to(folder.absolute()).as_posix())
    return any(fnmatch(name, glob) for name in names)


# -- the command -----------------------------------------------------------------------------------------


def run(group: click.Group, models: Sequence[Path], *, as_json: bool) -> int:
    """Print every setting that counts, for each command, with where it comes from."""
    from converter.report import terminal
    from converter.report.content.doctor import config_report
    from converter.report.render.text import render_text

    config = find_config(group)
    rows = [] if config is None else list(_list_settings(config, group, [str(model) for model in models]))
    if as_json:
        document = {
            "schema": "biasopt.config/1",
            "path": None if config is None else str(config.path),
            "settings": [
                {"command": c, "option": s.key, "value": s.value, "section": s.section, "refused": why}
                for c, s, why in rows
            ],
        }
        terminal.say(json.dumps(document, indent=1) + "\n")
    else:
        path = "" if config is None else str(config.path)
        terminal.say(render_text(config_report(path, [(c, s.key, s.value, s.section, why) for c, s, why in rows])))
    return 0


def _list_settings(config: Config, group: click.Group, models: Sequence[str]) -> Iterator[tuple[str, Setting, str]]:
    for name, command in sorted(group.commands.items()):
        for setting in config.find_settings(command, models).values():
            yield name, setting, find_risk(config, _find_option(command, setting), setting)
