"""The fold: passes, then the referee, then the write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import onnx

from converter._version import __version__
from converter.commands.inspect import (
    Model,
    blaming_the_model,
    count_blocked_folds,
    describe,
    pipeline_options,
    reopener,
    silence_graphsurgeon,
)
from converter.commands.options import REMOVE
from converter.commands.output import (
    PROTO_LIMIT,
    Identity,
    build_pieces,
    check_unchanged,
    find_target,
    identify,
    list_sources,
    stage_model,
)
from converter.commands.targets import Target, check_data_place, check_targets, list_data_files, list_paths, make_folder
from converter.dataclass import dataclass
from converter.errors import ModelError
from converter.model.graph import Graph, has_external, load
from converter.records import Safety, Verdict, count_biases, exit_code_of, results
from converter.records.option import check_names, documented, names, rename_old
from converter.records.options import (
    STAGES,
    Advice,
    BenchOptions,
    FoldOptions,
    InspectOptions,
    RemovalOptions,
    RuntimeOptions,
    VerifyOptions,
)
from converter.report import terminal
from converter.report.save import Ending
from converter.rewrite import pipeline
from converter.rewrite.pipeline import run_passes

if TYPE_CHECKING:
    from converter.commands.certificate import Recorder
    from converter.commands.remove import Removed
    from converter.model.file import Staged
    from converter.records import Latency, ModelFacts, Parity

# What a keyword of `fold` says to the proof, the benchmark and the removal alike.
_SHARED = {*names(RuntimeOptions), "max_memory"}
_NESTED = ("verify", "bench", "removal")


@dataclass(frozen=True, repr=False)
class FoldResult(results.FoldResult):
    """What `fold` did, with the proof, and the folded model."""

    removed: Removed | None = None  # biases that went by data, where that was asked for
    graph: Graph | None = field(default=None, repr=False, compare=False)

    @property
    def changed(self) -> bool:
        """Whether the folded model differs from the input."""
        return bool(self.rewrites or self.frozen)

    @property
    def removal(self) -> dict[str, Any] | None:
        """What went by data, as JSON values, in words under ``said``; None where that was not asked for."""
        if self.removed is None:
            return None
        from converter.report.content.ablate import describe_removal

        gone = any(rewrite.safety is Safety.ASSUMES for rewrite in self.rewrites)
        return {**self.removed.document(), "said": describe_removal(self.removed.record, gone=gone)}

    @property
    def model(self) -> onnx.ModelProto:
        """The folded model. Tensors in other files stay there, by location."""
        model: onnx.ModelProto = onnx.ModelProto.FromString(self.to_bytes())
        return model

    def to_bytes(self) -> bytes:
        """The folded model, serialised; the input's own bytes if nothing was rewritten."""
        if self.output is not None:  # the input may have been replaced
            return self.output.read_bytes()
        assert self.graph is not None
        return build_pieces(self.graph, self, None).to_bytes()

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the model to `path`, whole or not at all.

        Raises
        ------
        ModelError
            Parity failed or is unproven, the target exists (without `force`) or cannot be written.
        """
        if self.parity is not None and self.parity.verdict is not Verdict.PASS:
            raise ModelError(f"{path}: not written, because parity is {self.parity.verdict}: {self.parity.why}")
        if self.output is not None:
            copy = fold(self.output, path, FoldOptions(verify=None, only=(), force=force))
            assert copy.output is not None
            return copy.output
        assert self.graph is not None
        target = Path(path)
        check_targets([Target(target, replaces=force)], list_sources(self.graph))
        stage_model(self.graph, self, target, in_place=False, replaces=force).commit()
        return target


@documented(FoldOptions, VerifyOptions)
def fold(
    model: Model, out: str | Path | None = None, options: FoldOptions | None = None, **keywords: Any
) -> FoldResult:
    """Fold every batch norm and bias that can be folded exactly, prove it, and write the result.

    The input is never changed unless `in_place`; the output is whole or absent. A failed proof is
    returned (``exit_code`` 1, or 4 where it is inconclusive), not raised, and nothing is written.

    Parameters
    ----------
    model : path, bytes or ModelProto
    out : path, optional
        Where to write; nothing is written without it (or `in_place`).
    options : FoldOptions, optional
    {options}
    **keywords
        As shorthand, ``verify`` and ``bench`` may be bools and ``removal`` a mapping; fields of `VerifyOptions` go to
        the proof, and those that say how a model is run to the benchmark and the removal as well; ``bench_time`` and
        ``latency_margin`` go to the benchmark.

    Returns
    -------
    FoldResult

    Raises
    ------
    ModelError
        The model cannot be read, or the output cannot be written.
    ValueError
        A name is no pass's.
    """
    with Run(model, out, fold_options(options, keywords)) as run:
        run.open()
        run.rewrite()
        run.stage()
        run.verify()
        run.remove()
        run.bench()
        run.certify()
        run.conclude()
        run.commit()
        return run.result


# -- options -------------------------------------------------------------------------------------------


def fold_options(options: FoldOptions | None, keywords: Mapping[str, Any]) -> FoldOptions:
    """The record that the keywords of `fold` are shorthand for.

    Raises
    ------
    TypeError
        There is no such keyword.
    """
    base, own = options or FoldOptions(), set(names(FoldOptions))
    keywords = rename_old(keywords, FoldOptions)
    check_names(keywords, own | set(names(VerifyOptions)) | {"bench_time", "latency_margin"})
    plain = {name: value for name, value in keywords.items() if name in own and name not in _NESTED}
    judging = {name: value for name, value in keywords.items() if name not in own}
    timing = {"max_time": judging.pop("bench_time", None), "margin": judging.pop("latency_margin", None)}
    shared = {name: value for name, value in judging.items() if name in _SHARED}
    timing = {name: value for name, value in timing.items() if value is not None}
    timing |= {name: value for name, value in shared.items() if name in names(BenchOptions)}
    return replace(
        base,
        **plain,
        verify=_merge_nested(VerifyOptions, keywords.get("verify", base.verify), judging),
        bench=_merge_nested(BenchOptions, keywords.get("bench", base.bench), timing),
        removal=_merge_nested(
            RemovalOptions,
            keywords.get("removal", base.removal),
            {name: value for name, value in shared.items() if name in names(RemovalOptions) and value is not None},
        ),
    )


def _merge_nested(record: type[Any], asked: Any, keywords: Mapping[str, Any]) -> Any:
    """The record of one step: as it is given, or by True or a mapping; None where the step is not to be."""
    if asked is None or asked is False:
        return None
    if isinstance(asked, Mapping):
        return record(**{**keywords, **asked})
    return replace(record() if asked is True else asked, **keywords)


def exit_code(found: Parity | Latency | None, on_inconclusive: str = "fail") -> int:
    """0 for a proof (or none asked for), 1 for a failure, 4 where it is open (0 if that is to pass)."""
    if found is None:
        return 0
    return exit_code_of(found.verdict, on_inconclusive)


# -- the run -------------------------------------------------------------------------------------------


class Run:
    """One fold on its way: each step does its part if those before it passed, and nothing half-done stays."""

    def __init__(self, model: Model, out: str | Path | None, options: FoldOptions) -> None:
        self.model, self.out, self.options = model, out, options
        self.passes = pipeline_options(options, options.stop_after)
        self.data = None if options.data_dir is None else Path(options.data_dir)
        self.parity: Parity | None = None
        self.latency: Latency | None = None
        self.exit_code = 0
        self._staged: Staged | None = None
        self._written = False
        self._certified: dict[Path, Identity] = {}
        if options.removal is not None and options.certificate is not None:
            raise ValueError("a certificate is of exact rewrites; it excludes the removal of biases by data")
        _check_inputs(options.verify)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._discard()
        self._withdraw()

    @property
    def passed(self) -> bool:
        """Whether nothing has failed so far."""
        return self.exit_code == 0

    @property
    def result(self) -> FoldResult:
        """What was done."""
        return self._result_of(written=self._written)

    def _result_of(self, *, written: bool) -> FoldResult:
        certificate = self.options.certificate
        return replace(
            self.folded,
            output=self.target if written else None,
            parity=self.parity,
            latency=self.latency,
            certificate=Path(certificate) if certificate is not None and self.passed else None,
            exit_code=self.exit_code,
        )

    def open(self) -> None:
        """Read the model, and find out whether the result can be written where it is to be."""
        asked = self.options
        with silence_graphsurgeon():
            self.graph = load(self.model, data=asked.data_dir, freeze_overridable=asked.freeze_overridable)
            self.target = find_target(self.graph, self.out, in_place=asked.in_place)
            self._check_targets()
            self._sources = identify(list_sources(self.graph))
            self.recorder = None if asked.certificate is None else self._recorder()

    def rewrite(self) -> None:
        """The passes."""
        with silence_graphsurgeon(), blaming_the_model(self.graph):
            reopen, tell = reopener(self.model, self.options), self.options.progress
            if self.options.removal is None:
                self.graph, outcome = run_passes(self.graph, reopen, self.passes, tell, self.recorder)
            else:  # by data, biases go by the names that the model as it is has
                outcome = pipeline.run(self.graph, self.passes, tell)
            blocked = count_blocked_folds(self.model, self.options, self.passes, outcome)
            self.folded = describe(self.graph, outcome, blocked, FoldResult, graph=self.graph)

    def stage(self) -> None:
        """Write the result under another name beside its place, for those who judge."""
        self._discard()
        if self.target is not None:
            with silence_graphsurgeon(), blaming_the_model(self.graph):
                how: dict[str, Any] = {"in_place": self.options.in_place, "replaces": self.options.force}
                how |= {"progress": self.options.progress, "link": self.options.link}
                self._staged = stage_model(self.graph, self.folded, self.target, **how)
            check_unchanged(self._sources)  # all of it has been read by now
        self.graph.file.forget()

    def verify(self) -> None:
        """The referee's verdict; a model of which nothing was rewritten needs none."""
        asked = self.options.verify
        if asked is None:
            return
        if not self.folded.changed:
            from converter.records import Parity

            why = "nothing was rewritten; the output is the input"
            self._note(Parity(Verdict.PASS, "B", scope="identical", why=why))
            return
        from converter.commands.verify import judge

        margin = self.options.accuracy_margin
        margin = asked.margin if margin is None else margin
        if margin is not None or asked.labels is not None:
            asked = replace(asked, margin=margin, stages=STAGES)
        asked = replace(asked, data_dir=self.data, made_here=True, progress=self.options.progress)
        parity = judge(self._original, self._result, asked)
        check_unchanged(self._sources)  # else it was another model that was judged
        self._note(replace(parity, b=self._rename_facts(parity.b)))

    def remove(self) -> None:
        """Remove biases by data from what is proved; the verdict on that is a stage of the parity."""
        asked = self.options.removal
        if asked is None or not self.passed:
            return
        from converter.commands.remove import add_stage, mark_removed, remove_biases
        from converter.referee.proto.source import LoadedModel, describe_model
        from converter.rewrite.analysis.facts import Facts
        from converter.rewrite.pipeline import count

        asked = replace(asked, data_dir=self.data, progress=self.options.progress)
        removed = remove_biases(self.graph, self.model, asked)
        self.folded = replace(self.folded, removed=removed)
        parity = add_stage(self.parity, removed)
        if exit_code(parity, self.options.on_inconclusive) == 0:  # else nothing of it was done
            rewrites = (*self.folded.rewrites, *removed.rewrites)
            fates = tuple(mark_removed(self.folded.fates, removed.rewrites))
            after = replace(count(Facts(self.graph)), biases=count_biases(fates)[1])
            self.folded = replace(self.folded, rewrites=rewrites, after=after, fates=fates)
            self.stage()
            folded = LoadedModel.open(self._result, self.data if self._staged is None else None, "folded model")
            parity = replace(
                parity, b=self._rename_facts(describe_model(folded))
            )  # of what is written, not of what was proved
        self._note(parity)

    def bench(self) -> None:
        """The latency of both, on inputs of the shapes that the proof ran on."""
        asked = self.options.bench
        if asked is None or not self.passed:
            return
        from converter.commands.bench import measure_latency

        ran_on = self.parity.inputs if self.parity is not None else None
        shapes = asked.shapes or (ran_on.shapes if ran_on is not None and ran_on.real else None)
        asked = replace(
            asked,
            shapes=shapes,
            data_dirs=(self.data, self.data),
            advice=Advice(time="--bench-time"),
            progress=self.options.progress,
        )
        latency = measure_latency(self._original, self._result, asked)
        self.latency = replace(latency, model_b=self._rename_facts(latency.model_b))
        self.exit_code = exit_code(self.latency, self.options.on_inconclusive)

    def certify(self) -> None:
        """Write the certificate of what the recorder saw."""
        if self.recorder is None or not self.passed:
            return
        from converter.commands.certificate import build_certificate, write_certificate
        from converter.referee.proto.source import LoadedModel

        assert self.options.certificate is not None
        original = LoadedModel.open(self._original, self.data, "original")
        folder = original.folder if self._staged is None else None  # a file's own data lies beside it
        folded = LoadedModel.open(self._result, folder, "folded model")
        document = build_certificate(self.recorder, original, folded, progress=self.options.progress)
        path = Path(self.options.certificate)
        write_certificate(document, path, force=self.options.force)
        self._certified = identify([path])

    def conclude(self) -> None:
        """Let the caller say what was found while nothing is in its place yet: a report that fails leaves no output."""
        if self.options.conclude is not None:
            self.options.conclude(self._result_of(written=self._staged is not None and self.passed))

    def commit(self) -> None:
        """Put the result in its place."""
        if self._staged is None or not self.passed:
            return
        check_unchanged(self._sources)
        if self.options.in_place:
            self.graph.close()  # Windows does not replace a file that is open
        self._staged.commit()
        self._staged, self._written = None, True

    def _note(self, parity: Parity) -> None:
        self.parity, self.exit_code = parity, exit_code(parity, self.options.on_inconclusive)

    def _withdraw(self) -> None:
        """Remove the certificate of an output that is not there."""
        if self._certified and not self._written and self.target is not None:
            for path, _ in (
                self._certified.items() & identify(self._certified).items()
            ):  # not what another run put there
                path.unlink(missing_ok=True)

    def _discard(self) -> None:
        if self._staged is not None:
            self._staged.discard()
            self._staged = None

    def _check_targets(self) -> None:
        """Everything that this fold will write, and everything that it reads."""
        asked, targets = self.options, []
        if self.target is not None and not asked.in_place:
            targets.append(Target(self.target, replaces=asked.force))
        if asked.certificate is not None:
            targets.append(Target(Path(asked.certificate), "certificate", asked.force))
        targets += [Target(Path(path), "report", replaces=True, with_folder=True) for path in asked.reports]
        if self.target is not None and (has_external(self.graph) or len(self.graph.file.buffer) > PROTO_LIMIT):
            check_data_place(self.target, [target.path for target in targets])
        judging = asked.verify
        given = [] if judging is None else list_paths(judging.inputs, judging.labels, judging.custom_ops)
        if asked.removal is not None:
            given += list_paths(asked.removal.inputs, asked.removal.labels)
        check_targets(targets, [*list_sources(self.graph), *given])

    def _recorder(self) -> Recorder:
        """What watches the passes for a certificate."""
        from converter.commands.certificate import Recorder

        return Recorder(self.graph)

    @property
    def _original(self) -> Path | bytes:
        file = self.graph.file
        return file.path if file.path is not None else bytes(file.buffer[0 : len(file.buffer)])

    @property
    def _result(self) -> Path | bytes:
        """The folded model, as a temporary file if it is to be one."""
        return self._staged.path if self._staged is not None else self.folded.to_bytes()

    def _rename_facts(self, facts: ModelFacts | None) -> ModelFacts | None:
        """What was judged is the file that is to be, not the temporary one."""
        return facts if facts is None or self.target is None else replace(facts, path=str(self.target))


def _check_inputs(asked: VerifyOptions | None) -> None:
    """What is no file of inputs is found before the work."""
    if asked is not None and asked.inputs is not None:
        from converter.referee.inputs.files import open_inputs

        inputs = asked.inputs
        open_inputs([inputs] if isinstance(inputs, str | Path | Mapping) else list(inputs), {})


# -- the command ---------------------------------------------------------------------------------------


def run(models: Sequence[Path], *, output: Path | None, out_dir: Path | None, dry_run: bool, **given: Any) -> int:
    """The command: fold each of the models, report, and return the worst exit code."""
    if given["in_place"] + (output is not None) + (out_dir is not None) > 1:
        raise click.UsageError("--in-place, --output and --out-dir exclude each other.")
    if given["bench_time"] is not None and not given["bench"]:
        raise click.UsageError("--bench-time goes with --bench.")
    if len(models) > 1 and (output is not None or given["certificate"] is not None or given["ending"].as_json):
        raise click.UsageError("--output, --certificate and --json take one MODEL; --out-dir takes several.")
    given["removal"] = _removal(given)
    if dry_run:
        return _look_at(models, given)
    targets = [output or (None if given["in_place"] else _name_output(model, out_dir)) for model in models]
    if len({target for target in targets if target is not None}) < len(models) and not given["in_place"]:
        raise click.UsageError("Two of the models have one name; fold them one by one, with --output.")
    for model in models if len(models) > 1 else ():
        if not model.exists():
            hint = f"; to write there: -o {model}" if model == models[-1] and len(models) == 2 else ""
            raise ModelError(f"{model}: no such file; nothing was folded{hint}")
    if len(models) > 1:  # each for itself is checked where it is folded
        written = [Target(target, replaces=True, with_folder=True) for target in targets if target is not None]
        check_targets(written, [*models, *list_data_files(*models)])
    if out_dir is not None:
        make_folder(out_dir)
    codes = []
    for place, (model, target) in enumerate(zip(models, targets, strict=True)):
        terminal.say("\n" * (place > 0 and not given["ending"].quiet))
        ending = given["ending"] if len(models) == 1 else given["ending"].of_one(model.stem)
        codes.append(_fold_one(model, target, **{**given, "ending": ending}))
    return max(codes)


def _name_output(model: Path, folder: Path | None) -> Path:
    """Where the folded model goes if nothing else is said: beside the model, or by its own name into the folder."""
    if str(model) == "-":
        raise click.UsageError("A model from stdin goes to --output FILE, or to stdout: -o -.")
    if model.is_dir():
        raise ModelError(f"{model}: is a directory; give a model file")
    if folder is not None:
        return folder / model.name
    stem = model.name[:-5] if model.name.lower().endswith(".onnx") else model.name
    return model.with_name(f"{stem}.folded.onnx")


def _look_at(models: Sequence[Path], given: Mapping[str, Any]) -> int:
    """What ``--dry-run`` is: `biasopt inspect`, by the same options."""
    from converter.commands import inspect

    asked = {name: given[name] for name in names(InspectOptions) if name in given}
    form = {"as_json": given["ending"].as_json, "verbose": given["verbose"]}
    return inspect.run(tuple(models), None, gate=None, fates=False, **form, **asked)


def _fold_one(
    model: Path,
    output: Path | None,
    ending: Ending,
    *,
    verbose: bool,
    no_verify: bool,
    argv: Sequence[str],
    **given: Any,
) -> int:
    from converter.report import wording
    from converter.report.content import Run as Told
    from converter.report.content.fold import collect_reasons, fold_report
    from converter.rewrite.passes import PASSES

    to_stdout = str(output) == "-"

    def conclude(result: FoldResult) -> None:
        shown.close()  # what moves on stderr would lie over what is printed
        reasons = collect_reasons(PASSES)

        def document() -> dict[str, Any]:
            from converter.report.documents import fold_document

            more: dict[str, Any] = {"bench": result.latency, "certificate": result.certificate}
            return fold_document(result, __version__, argv=argv, said=reasons, removal=result.removal, **more)

        with terminal.stdout_is_taken() if to_stdout else nullcontext():
            ending.end(
                int(result.exit_code),
                document,
                lambda: fold_report(result, reasons, Told(), (result.removal or {}).get("said", ())),
                lambda: wording.failure(result.parity, result.latency),
                verbose=verbose,
            )

    ending.prepare("failing_inputs.npz")
    content: Path | bytes = terminal.read_stdin() if str(model) == "-" else model
    with ExitStack() as shown:
        progress = shown.enter_context(terminal.progress(quiet=ending.quiet))
        given |= {"progress": progress, "failing": ending.folder, "isolated": True}
        given |= {"reports": ending.list_files("failing_inputs.npz"), "conclude": conclude}
        result = fold(content, None if to_stdout else output, verify=not no_verify, **given)
    if to_stdout and result.exit_code == 0:
        assert result.graph is not None
        if has_external(result.graph):
            raise ModelError(f"{model}: has data in other files, which do not fit on stdout; give --output FILE")
        terminal.write_stdout(result.to_bytes())
    return int(result.exit_code)


def _removal(given: dict[str, Any]) -> dict[str, Any] | None:
    """What is asked of remove-biases, which is no pass; None where it is not allowed.

    It goes by the user's data, and what it may change is the margin that decisions have.
    """
    flags = {"budget": "--budget", "keep": "--keep-bias", "also": "--also-remove"}
    asked = {name: value for name in flags if (value := given.pop(name))}
    own = given.pop("data")  # its name for --inputs in earlier releases
    if REMOVE not in given["allow"]:
        if asked or own:
            raise click.UsageError(f"{flags[min(asked)] if asked else '--data'} goes with --allow {REMOVE}.")
        return None
    inputs = own or given["inputs"]
    if not inputs and given["images"] is None:
        raise click.UsageError(f"--allow {REMOVE} needs --inputs or --images.")
    if given["certificate"] is not None:
        raise click.UsageError(f"--allow {REMOVE} and --certificate exclude each other.")
    given["allow"] = [name for name in given["allow"] if name != REMOVE]
    images = {} if inputs else {"images": given["images"], "preprocess": given["preprocess"]}
    labels, given["labels"] = given["labels"], None
    margin, given["accuracy_margin"] = given["accuracy_margin"], None
    asked |= {"budget": margin} if margin is not None and "budget" not in asked else {}
    return {"inputs": inputs or None, "labels": labels, **images, **asked}
