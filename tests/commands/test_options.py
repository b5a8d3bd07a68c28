"""Options are records: what the command line makes of them, the names that they had, and what the API says of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import click
import pytest
from click.testing import CliRunner

import cli
import converter
from converter.commands.options import FORMATS, KINDS, Option, options, parse_points
from converter.records import options as records
from converter.records.option import argument, documented, merge_options, option
from converter.torch_models.spec import parse_input

RECORDS = [
    value
    for name, value in vars(records).items()
    if name.endswith("Options") and dataclasses.is_dataclass(value) and isinstance(value, type)
]
# What earlier releases called them: the command, the old name, the parameter and what is given.
OLD = [
    ("ablate", "--as-it-is", "fold_first", False, ["m.onnx", "--as-it-is"]),
    ("bench", "--margin", "margin", 0.05, ["a.onnx", "b.onnx", "--margin", "5%"]),
    ("ablate", "--data", "inputs", ("d.npz",), ["m.onnx", "--data", "d.npz"]),
    ("lint", "--input", "shapes", [parse_input("x=1,2")], ["net.py:Net", "--input", "x=1,2"]),
    ("fold", "--also", "also", ("first",), ["m.onnx", "--also", "first"]),
    ("fold", "--keep", "keep", ("n",), ["m.onnx", "--keep", "n"]),
    ("report", "--margin", "margin", 0.1, ["r.json", "--margin", "10%"]),
    ("study", "--margin", "margin", 1.5, ["--margin", "1.5"]),
    ("verify", "--map", "names", {"x": "y"}, ["a.onnx", "b.onnx", "--map", "x=y"]),
    ("verify", "--margin", "margin", 0.02, ["a.onnx", "b.onnx", "--margin", "2%"]),
    ("verify", "--range", "ranges", {"x": (0.0, 1.0)}, ["a.onnx", "b.onnx", "--range", "x=0:1"]),
    ("verify", "--tol", "tolerances", [("", "max_abs", 1.0)], ["a.onnx", "b.onnx", "--tol", "max_abs=1"]),
]


def parsed(command: str, argv: Sequence[str]) -> click.Context:
    """The command with what it was given."""
    parent = click.Context(cli.cli, info_name="biasopt", **cli.cli.context_settings)
    return cli.cli.commands[command].make_context(command, list(argv), parent=parent)


@pytest.mark.parametrize(("command", "old", "parameter", "value", "argv"), OLD, ids=[f"{c} {o}" for c, o, *_ in OLD])
def test_old_names_are_still_understood_but_not_shown(
    command: str, old: str, parameter: str, value: Any, argv: list[str]
) -> None:
    with parsed(command, argv) as context:
        assert context.params[parameter] == value
        assert f"{old} " not in context.command.get_help(context)


def test_every_old_name_is_tested() -> None:
    known = {old for record in RECORDS for f in dataclasses.fields(record) for old in f.metadata.get("old", ())}
    assert known == {old for _, old, *_ in OLD}


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_field_says_what_it_is_and_is_of_a_known_kind(record: type[Any]) -> None:
    assert dataclasses.fields(record)
    for f in dataclasses.fields(record):
        assert f.metadata.get("help") or f.metadata.get("doc"), f.name
        kind = f.metadata.get("kind", "text")
        assert isinstance(kind, tuple) or kind in KINDS, f.name


def _defaults() -> Iterator[tuple[str, str, Any, Any]]:
    of = {"verify": records.VerifyOptions, "bench": records.BenchOptions, "ablate": records.AblateOptions}
    of |= {"inspect": records.InspectOptions, "export": records.ExportOptions, "study": records.StudyOptions}
    argv = {"verify": ["a", "b"], "bench": ["a", "b"], "ablate": ["m"], "inspect": ["m"], "export": ["s", "-o", "o"]}
    for command, record in of.items():
        with parsed(command, argv.get(command, [])) as context:
            for f in dataclasses.fields(record):
                if "help" in f.metadata:
                    yield command, f.name, context.params[f.name], f.default


@pytest.mark.parametrize(("command", "name", "given", "default"), [*_defaults()], ids=lambda value: str(value)[:20])
def test_what_is_not_given_is_the_records_default(command: str, name: str, given: Any, default: Any) -> None:
    assert given == default


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy:
    size: int | None = option(None, "How large.  [as it is]", "SIZE", "size", old="--big")
    loud: bool = option(True, "Be still.", flag="--no-noise", doc="Make noise.")
    quiet: bool = option(False, "Be quieter.")
    inner: int = argument(3, "Not on the command line.")


def test_a_field_becomes_an_option_and_a_line_of_the_docstring() -> None:
    @click.command()
    @options(Toy, quiet="--hush: Hush.")
    def toy(**given: Any) -> None:
        click.echo(sorted(given.items()))

    assert [type(parameter) for parameter in toy.params] == [Option] * 3
    run = CliRunner().invoke
    assert run(toy, []).output == "[('hush', False), ('loud', True), ('size', None)]\n"
    assert (
        run(toy, ["--big", "2kB", "--no-noise", "--hush"]).output
        == "[('hush', True), ('loud', False), ('size', 2000)]\n"
    )
    assert "'3x' is not a size" in run(toy, ["--size", "3x"]).output

    @documented(Toy)
    def play(tune: str, options: Toy | None = None, **keywords: Any) -> Toy:
        """Play.

        Parameters
        ----------
        {options}
        """
        return merge_options(Toy, options, keywords)

    assert play("x", size=4) == Toy(size=4)
    assert play("x", Toy(size=4), inner=5) == Toy(size=4, inner=5)
    with pytest.raises(TypeError, match="no argument 'sice'; there are inner, loud, quiet, size"):
        play("x", sice=4)


def test_a_record_in_print_is_what_was_given() -> None:
    assert repr(records.VerifyOptions(seed=4, samples=2)) == "VerifyOptions(seed=4, samples=2)"
    assert repr(records.FoldOptions()) == "FoldOptions()"


def test_the_api_names_every_option() -> None:
    for function, record in (
        (converter.compare, records.VerifyOptions),
        (converter.fold, records.FoldOptions),
        (converter.inspect, records.InspectOptions),
        (converter.measure_latency, records.BenchOptions),
        (converter.replay_certificate, records.ReplayOptions),
        (converter.score_biases, records.AblateOptions),
    ):
        assert function.__doc__
        assert "{options}" not in function.__doc__
        for f in dataclasses.fields(record):
            assert f"    {f.name} : " in function.__doc__


def test_choices_are_those_of_the_code_that_reads_them() -> None:
    from converter.referee.verify.options import STAGES
    from converter.report import save
    from converter.runtime.providers import PROVIDERS

    assert set(records.PROVIDERS) == set(PROVIDERS)
    assert set(records.STAGES) < set(STAGES)
    assert list(FORMATS) == list(save.NAMES)


def test_the_points_of_a_study_may_have_their_sign() -> None:
    assert [parse_points(value) for value in ("0.5", "0.5%", "2 %", None)] == [0.5, 0.5, 2.0, None]
    for wrong in ("0", "100%", "half", "-1%"):
        with pytest.raises(ValueError, match="is no number of percentage points such as"):
            parse_points(wrong)
