"""The command line: parse, call, print, exit.

No logic, and no heavy import outside a command: ``biasopt --help`` loads no numpy, onnx, onnxruntime or
torch. Data goes to stdout, progress and errors to stderr. Exit codes: 0 done, 1 a gate failed, 2 usage,
3 an error that the user can act on (one line), 4 inconclusive, 70 a bug in biasopt, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import reduce, wraps
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from click import argument, option

from converter._version import __version__
from converter.bench import design as bench_asked
from converter.errors import BiasoptError
from converter.report import given, terminal
from converter.report.ending import Ending, show
from converter.study import plan as study_plan

Command = TypeVar("Command", bound=Callable[..., Any])
FILE, LIBRARY = click.Path(path_type=Path), click.Path(exists=True, dir_okay=False, path_type=Path)
NATURAL, COUNT, SECONDS = click.IntRange(0), click.IntRange(1), click.FloatRange(0, min_open=True)
OUTCOMES = click.Choice(["fail", "pass"])
PREPROCESS, GRADES = click.Choice(["imagenet", "unit", "tanh", "none"]), click.Choice(list("ABCD"))
PROVIDERS, PROBES = click.Choice(["cpu", "cuda"]), click.Choice(["contrast", "offset", "noise"])
DATASETS = click.Choice(["digits", "mnist", "fashion-mnist", "cifar10"])
PRECISIONS = click.Choice(["strict", "as-deployed", "both"])
ALL_PROVIDERS, LEVELS = click.Choice(["cpu", "cuda", "tensorrt"]), click.Choice(["all", "basic", "off"])


def _as(value_of: Callable[[Any], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Make a callback of a function that reads a value and says what is wrong with it."""

    def callback(_: click.Context, __: click.Parameter, value: Any) -> Any:
        try:
            return value_of(value)
        except ValueError as wrong:
            raise click.BadParameter(str(wrong)) from None

    return callback


def _together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    return lambda command: reduce(lambda made, option: option(made), reversed(options), command)


pass_options = _together(
    option(
        "--only",
        metavar="PASS",
        multiple=True,
        callback=_as(lambda v: given.passes(v) or None),
        help="Only this pass; repeatable.",
    ),
    option("--skip", metavar="PASS", multiple=True, callback=_as(given.passes), help="Not this pass; repeatable."),
    option("--keep-bn", is_flag=True, help="Keep BatchNormalization and move biases into it, to train on."),
    option("--no-growth", is_flag=True, help="Leave what needs a copy of a shared weight."),
    option("--freeze-overridable", is_flag=True, help="Make inputs that have a default value constants."),
)
image_options = _together(
    option("--images", metavar="DIR", type=FILE, help="Run on these images; class folders are labels."),
    option("--preprocess", type=PREPROCESS, default="imagenet", help="How images are scaled.  [imagenet]"),
    option("--labels", metavar="F", type=FILE, help="Right classes: .npy, or a number per line."),
)
data_options = _together(
    option("--inputs", metavar="DATA", multiple=True, help=".npz, .npy, .json, a folder, or script.py:function."),
    image_options,
)
shape_option = option(
    "--shape", "shapes", metavar="X=1,3,8,8", multiple=True, callback=_as(given.shapes), help="Shape of input X."
)
seed_option = option("--seed", metavar="N", type=NATURAL, default=0, help="Seed of everything random.  [0]")
custom_ops_option = option(
    "--custom-ops", metavar="LIB", type=LIBRARY, help="Library of custom operators for onnxruntime."
)
runtime_options = _together(
    option("--provider", type=ALL_PROVIDERS, default="cpu", help="Where to run; that it ran there is proved.  [cpu]"),
    option(
        "--provider-option",
        "provider_options",
        metavar="K=V",
        multiple=True,
        callback=_as(given.pairs),
        help="One of its options.",
    ),
    option("--opt-level", type=LEVELS, default="all", help="onnxruntime's own, as deployed.  [all]"),
    custom_ops_option,
)
memory_option = option(
    "--max-memory", metavar="SIZE", callback=_as(given.size), help="Memory to compare in.  [half of what is free]"
)
undecided_option = option("--on-inconclusive", type=OUTCOMES, default="fail", help="Outcome if undecided.  [fail]")
json_option = option("--json", "as_json", is_flag=True, help="Print JSON.")
verbose_option = option("-v", "--verbose", is_flag=True, help="Name every node.")


def ending_options(command: Callable[..., int]) -> Callable[..., int]:
    """What becomes of what was found, as one argument ``ending``."""

    @wraps(command)
    def gathered(folder: Path | None, formats: list[str], as_json: bool, quiet: bool, **asked: Any) -> int:
        return command(ending=Ending(folder, formats, as_json, quiet), **asked)

    return _together(
        option("--report", "folder", metavar="DIR", type=FILE, help="Write reports into this folder."),
        option(
            "--formats",
            multiple=True,
            default=["json,md,html"],
            callback=_as(given.kinds),
            metavar="LIST",
            help="Which of json, md, html, junit, text.  [json,md,html]",
        ),
        json_option,
        option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
    )(gathered)


def _argv() -> Sequence[str]:
    """What stood on the command line, for reports that say how they were made."""
    return click.get_current_context().find_root().obj or ()


torch_options = _together(
    option("--weights", metavar="FILE", type=FILE, help="State dict: torch.save's or safetensors."),
    option("--strict/--no-strict", default=True, help="Whether odd keys and odd modules are errors.  [strict]"),
    option(
        "--input",
        "inputs",
        metavar="X=1,3,8,8[:TYPE]",
        multiple=True,
        callback=_as(given.example_inputs),
        help="Shape of input X; repeatable.",
    ),
    option("--example", metavar="FILE.py:FN", help="Function that returns example inputs."),
)


removal_options = _together(
    option("--data", metavar="DATA", multiple=True, help="What remove-biases goes by; as --inputs."),
    option("--budget", metavar="P", callback=_as(given.share), help="Decisions that it may change.  [0.1%]"),
    option("--keep", metavar="NODE", multiple=True, help="Bias that it must leave; repeatable."),
    option("--also", metavar="NODE", multiple=True, help="Bias, or first, head, depthwise, that it may take too."),
)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 a check failed, 2 usage, 3 error, 4 inconclusive, 70 bug, 130 interrupted.",
)
@click.version_option(__version__, prog_name="biasopt", message="%(prog)s %(version)s")
def cli() -> None:
    """Fold BatchNormalization and biases out of ONNX models, and check that the outputs stay the same."""


@cli.command()
@argument("model", type=FILE)
@option("-o", "--output", metavar="OUT", type=FILE, help="Where to write.  [MODEL.folded.onnx]")
@option("--in-place", is_flag=True, help="Replace MODEL itself.")
@option("--force", is_flag=True, help="Replace an OUT that exists.")
@pass_options
@option("--allow", metavar="PASS", multiple=True, callback=_as(given.allowed), help="What assumes: remove-biases.")
@removal_options
@option("--stop-after", metavar="N", type=NATURAL, help="Stop after N rewrites.")
@option("--certificate", metavar="CERT", type=FILE, help="Write every rewrite as data, for replay to check.")
@option("--no-verify", is_flag=True, help="Write without comparing outputs.")
@undecided_option
@data_options
@option("--accuracy-margin", metavar="P", callback=_as(given.share), help="Judge decisions too: 0.1% may change.")
@shape_option
@seed_option
@option("--quick", is_flag=True, help="Compare on one input only; a shorter --bench.")
@runtime_options
@option("--max-time", metavar="S", type=SECONDS, help="Seconds to add inputs to compare for.  [30]")
@memory_option
@option("--bench", is_flag=True, help="Measure the latency of both models, too.")
@option("--bench-time", metavar="S", type=SECONDS, help="Seconds to measure it for.  [120]")
@option("--latency-margin", metavar="P", default="2%", callback=_as(given.share), help="Slow-down allowed.  [2%]")
@ending_options
@verbose_option
def fold(ending: Ending, verbose: bool, **asked: Any) -> int:
    """Fold, compare outputs, write the result.

    What folds exactly is folded, into MODEL.folded.onnx beside MODEL; MODEL itself is left as it is.
    Nothing is written if the outputs differ, or if that could not be decided.
    """
    from converter.report import groups, text, wording
    from converter.rewrite.passes import PASSES

    def document() -> dict[str, Any]:
        from converter.report.to_json import fold_json  # loads records that a fold with --no-verify does without

        more: dict[str, Any] = {"bench": result.latency, "certificate": result.certificate}
        return fold_json(result, __version__, argv=_argv(), said=said, removal=result.removal, **more)

    ending.prepare()
    with terminal.progress(quiet=ending.quiet) as progress:
        result = _fold(progress=progress, failing=ending.folder, **asked)
    said = groups.reasons(PASSES)
    return ending.end(
        int(result.exit_code),
        document,
        lambda: text.fold_blocks(result, said, verbose=verbose, removal=(result.removal or {}).get("said", ())),
        lambda: wording.failure(result.parity, result.latency),
    )


@cli.command()
@argument("models", metavar="MODEL...", type=FILE, nargs=-1, required=True)
@pass_options
@option("--check", is_flag=True, help="Exit 1 if anything would change.")
@option("--fates", is_flag=True, help="Name every bias, where it goes, or why it stays.")
@option("--explain", metavar="NODE", help="Show the way of one bias: who feels it, and who does not.")
@json_option
@verbose_option
def inspect(models: tuple[Path, ...], explain: str | None, as_json: bool, **asked: Any) -> int:
    """Show what fold would do and what not, and why.

    Nothing is written, and nothing is run.
    """
    if len(models) > 1 and (as_json or explain is not None):
        raise click.UsageError("--json and --explain take one MODEL.")
    if explain is not None:
        del asked["fates"], asked["verbose"]
        return _explain(models[0], explain, as_json=as_json, **asked)
    return max([_inspect(model, apart=place > 0, as_json=as_json, **asked) for place, model in enumerate(models)])


def _inspect(model: Path, *, apart: bool, check: bool, fates: bool, as_json: bool, verbose: bool, **asked: Any) -> int:
    import converter
    from converter.report import groups, text, to_json
    from converter.rewrite.passes import PASSES

    with terminal.progress() as progress:
        result = converter.inspect(model, progress=progress, **asked)
    exit_code = 1 if check and (result.rewrites or result.frozen) else 0
    terminal.say("\n" * apart)
    show(
        lambda: to_json.inspect_json(result, __version__, exit_code),
        lambda: text.inspect_blocks(result, groups.reasons(PASSES), verbose=verbose, each=fates),
        as_json=as_json,
    )
    return exit_code


def _explain(model: Path, node: str, *, check: bool, as_json: bool, **asked: Any) -> int:
    import converter
    from converter.report import explain

    if check:
        raise click.UsageError("--explain and --check exclude each other.")
    try:
        with terminal.progress() as progress:
            fate = converter.explain(model, node, progress=progress, **asked)
    except converter.NoSuchBias as unknown:
        raise click.BadParameter(terminal.one_line(str(unknown)), param_hint="'--explain'") from None
    show(
        lambda: explain.explain_json(fate, model, __version__),
        lambda: explain.explain_blocks(fate),
        as_json=as_json,
        width=80,
    )
    return 0


@cli.command()
@argument("a", type=FILE)
@argument("b", type=FILE)
@data_options
@option("--samples", metavar="N", type=COUNT, help="How many inputs.  [2 random, or all there are]")
@seed_option
@shape_option
@option("--range", "ranges", metavar="X=-2:2", multiple=True, callback=_as(given.ranges), help="Random values of X.")
@option("--map", "names", metavar="A=B", multiple=True, callback=_as(given.pairs), help="What A calls A, B calls B.")
@runtime_options
@option("--precision-gate", type=PRECISIONS, default="both", help="What the runtime stage is judged by.  [both]")
@option("--stages", metavar="LIST", multiple=True, callback=_as(given.stages), help="Only these stages.  [all]")
@option("--max-ratio", metavar="R", type=SECONDS, help="B's error over A's that passes.  [3]")
@option("--fail-ratio", metavar="R", type=SECONDS, default=10.0, help="And that fails.  [10]")
@option("--tol", "tolerances", metavar="OUT:MEASURE=X", multiple=True, callback=_as(given.tolerances), help="A gate.")
@option("--decision", metavar="OUT", multiple=True, help="Output that decides.  [floats of shape [N, C]]")
@option("--no-decision", is_flag=True, help="Do not judge decisions.")
@option("--metric", metavar="M", default="top1", help="top1, or script.py:function of outputs, labels.  [top1]")
@option("--margin", metavar="P", default="0.1%", callback=_as(given.share), help="Loss that counts as none.  [0.1%]")
@option("--alpha", metavar="P", default="0.05", callback=_as(given.share), help="Chance to miss a larger one.  [0.05]")
@option("--require-level", type=GRADES, help="A weaker claim is inconclusive.")
@undecided_option
@option("--bisect", "bisects", is_flag=True, help="If they differ, find the first rewrite or tensor that does.")
@option("--quick", is_flag=True, help="One input, no decisions, not as deployed.")
@option("--max-time", metavar="S", type=SECONDS, help="Seconds to add inputs for.  [30; decisions: no limit]")
@memory_option
@ending_options
@verbose_option
def verify(
    a: Path,
    b: Path,
    ending: Ending,
    on_inconclusive: str,
    no_decision: bool,
    bisects: bool,
    verbose: bool,
    **asked: Any,
) -> int:
    """Check that B gives the same answers as A, up to rounding.

    A and B are any two models with the same inputs and outputs. Errors are measured against float64, so that
    there is no tolerance to choose. Exit code 0: they agree, 1: they do not, 4: that could not be decided.
    """
    from converter.commands.verify import verify as judge
    from converter.report import document
    from converter.report.content import Run
    from converter.report.content.verify import verify_report

    if no_decision and (asked["decision"] or asked["labels"] or asked["metric"] != "top1"):
        raise click.UsageError("--no-decision excludes --decision, --labels and --metric.")
    ending.prepare()
    asked["inputs"] = asked["inputs"] or None
    with terminal.progress(quiet=ending.quiet) as progress:
        parity = judge(a, b, decide=not no_decision, failing=ending.folder, progress=progress, **asked)
        if bisects:
            from converter.commands.bisect import blamed

            parity = blamed(parity, a, b, progress=progress, **asked)
    exit_code = document.code(parity.verdict, on_inconclusive)
    return ending.end(
        exit_code,
        lambda: document.verify_document(parity, argv=_argv(), version=__version__, exit_code=exit_code),
        lambda: verify_report(parity, Run()),
        lambda: parity.why,
        verbose=verbose,
    )


@cli.command()
@argument("a", type=FILE)
@argument("b", type=FILE)
@option("--gate", metavar="GATE", default="not-slower", callback=_as(bench_asked.gate), help=bench_asked.GATES)
@option("--margin", metavar="P", default="2%", callback=_as(given.share), help="Slow-down that counts as none.  [2%]")
@option("--alpha", metavar="P", default="0.05", callback=_as(given.share), help="Error of each bound.  [0.05]")
@option("--sessions", metavar="N", type=COUNT, help="Times that both are loaded anew.  [5]")
@option("--blocks", metavar="N", type=COUNT, help="Blocks of each session.  [4]")
@option("--pairs", metavar="N", type=COUNT, help="Pairs of runs of each block.  [20]")
@option("--max-time", metavar="S", type=SECONDS, help="Seconds to measure for.  [120]")
@option("--quick", is_flag=True, help="About 20 seconds, and a wide interval.")
@option("--inputs", metavar="X.npz", type=FILE, multiple=True, callback=_as(given.inputs), help="Run on these.")
@shape_option
@option("--batch", metavar="N", type=COUNT, help="Batch size, where a model leaves it open.  [1]")
@seed_option
@runtime_options
@option("--show-unoptimised", is_flag=True, help="Measure without onnxruntime's optimisations too.")
@option("--threads", metavar="N", type=COUNT, help="Threads of one model.  [all cores]")
@option("--cuda-graph", is_flag=True, help="Launch the whole model as one CUDA graph.")
@option("--include-h2d", is_flag=True, help="Time the copy of the inputs too.")
@option("--flush-l2", is_flag=True, help="Empty the caches before every sample.")
@undecided_option
@ending_options
def bench(
    a: Path, b: Path, ending: Ending, inputs: list[dict[str, Any]] | None, on_inconclusive: str, **asked: Any
) -> int:
    """Measure whether B is slower than A.

    Both run side by side in random order, session after session. A is also run beside itself: where the machine
    shows a difference there, only a larger one counts, and without one the answer is INCONCLUSIVE.
    """
    from converter.commands.bench import measure_latency
    from converter.report import document
    from converter.report.content import Run
    from converter.report.content.bench import bench_report

    if inputs and len(inputs) > 1:
        raise click.UsageError("bench runs on one set of inputs: give --inputs once.")
    ending.prepare()
    asked |= {"inputs": inputs and inputs[0], "samples": ending.folder and ending.folder / "samples.npz"}
    with terminal.progress(quiet=ending.quiet, still=True) as progress:
        latency = measure_latency(a, b, progress=progress, **asked)
    exit_code = document.code(latency.verdict, on_inconclusive)
    return ending.end(
        exit_code,
        lambda: document.bench_document(latency, argv=_argv(), version=__version__, exit_code=exit_code),
        lambda: bench_report(latency, Run()),
        lambda: latency.why,
    )


@cli.command()
@argument("names", metavar="[NAME]...", nargs=-1, callback=_as(given.passes))
@json_option
def passes(names: list[str], as_json: bool) -> int:
    """List the passes in their order, or show the pages of those named."""
    from converter.report import pages, text, to_json
    from converter.rewrite.passes import PASSES

    chosen = [row for row in PASSES if row.name in names or not names]
    if names and not as_json:
        terminal.say("\n\n".join(pages.page(row, PASSES) for row in chosen))
    else:
        document = to_json.passes_json(chosen, PASSES, __version__)
        show(lambda: document, lambda: text.passes_blocks(PASSES), as_json=as_json)
    return 0


@cli.command()
@argument("original", type=FILE)
@argument("certificate", type=FILE)
@option("-o", "--output", metavar="OUT", type=FILE, help="Write the rebuilt model.  [only check]")
@option("--force", is_flag=True, help="Replace an OUT that exists.")
@json_option
@verbose_option
def replay(original: Path, certificate: Path, output: Path | None, force: bool, as_json: bool, verbose: bool) -> int:
    """Check a certificate against the original, and rebuild the folded model from it.

    Every step is carried out and recomputed by code that shares nothing with the passes. Exit 1 names
    the first step that does not hold, and nothing is written.
    """
    from converter.commands.replay import replay_certificate
    from converter.report import replay_text

    with terminal.progress() as progress:
        result = replay_certificate(original, certificate, out=output, force=force, progress=progress)
    show(lambda: result.as_json(__version__), lambda: replay_text.blocks(result, verbose=verbose), as_json=as_json)
    return result.exit_code


@cli.command()
@argument("spec")
@option("-o", "--output", "out", metavar="OUT", type=FILE, required=True, help="Where to write.")
@option("--force", is_flag=True, help="Replace an OUT that exists.")
@torch_options
@option("--dynamic", multiple=True, callback=_as(given.open_sizes), metavar="SIZES", help="batch, or X=0:batch,2:h.")
@option("--opset", metavar="N", type=COUNT, help="ONNX operator set.  [the exporter's own]")
@option("--exporter", type=click.Choice(["dynamo", "torchscript"]), help="Which of torch's.  [dynamo]")
@option("--fuse-bn", is_flag=True, help="Let the exporter fuse BatchNorm itself.")
@option("--fold", "folded", is_flag=True, help="Fold the exported model, as `biasopt fold` does.")
@option("--no-verify", is_flag=True, help="Write without comparing outputs.")
@undecided_option
@option("--quick", is_flag=True, help="Compare on one input only.")
@option("--trust", is_flag=True, help="Load a TorchScript or .pt2 file even if it can run code as you.")
@seed_option
@json_option
@verbose_option
def export(spec: str, no_verify: bool, as_json: bool, verbose: bool, **asked: Any) -> int:
    """Export a torch model to ONNX, batch norms intact.

    SPEC is package.module:factory, path/file.py:factory, torchvision:NAME, timm:NAME, a TorchScript file or
    a torch.export program (.pt2). Arguments may follow: torchvision:resnet50(num_classes=10).
    A file that holds more than a net, by its TorchScript or its symbolic sizes, is refused without --trust.
    Nothing is written if onnxruntime's answers are not torch's.
    """
    from converter.commands.export import export_model
    from converter.report import exported, groups
    from converter.rewrite.passes import PASSES

    with terminal.progress() as progress:
        result = export_model(spec, verify=not no_verify, progress=progress, **asked)
    said = groups.reasons(PASSES)
    return Ending(as_json=as_json).end(
        result.exit_code,
        lambda: exported.export_json(result, __version__, argv=_argv(), said=said),
        lambda: exported.export_blocks(result, said, verbose=verbose),
        lambda: exported.failure(result),
    )


@cli.command()
@argument("spec")
@torch_options
@option("--fail-on", metavar="CODES", callback=_as(given.lint_codes), help="Exit 1 at these codes, or at any.")
@option("--fix", is_flag=True, help="Show where bias=False belongs in the source, as a diff.")
@option("--write", is_flag=True, help="With --fix: write it.")
@option("--fix-checkpoint", nargs=2, metavar="IN OUT", type=FILE, help="Make a checkpoint fit the fixed model.")
@option("--force", is_flag=True, help="Replace an OUT that exists.")
@seed_option
@option("--sarif", is_flag=True, help="Print SARIF, for code scanning.")
@option("--github", is_flag=True, help="Print annotations for GitHub's workflows.")
@json_option
@verbose_option
def lint(spec: str, fail_on: frozenset[str], fix_checkpoint: tuple[Path, Path] | None, **asked: Any) -> int:
    """Find biases of a torch model that cannot matter in training.

    Nothing goes by names: the model is traced in training mode, and every finding is confirmed by running it
    in float64 with the bias changed. SPEC as of `biasopt export`.
    """
    from converter.commands import lint as linting
    from converter.report import linted

    shown = {name: asked.pop(name) for name in ("sarif", "github", "as_json", "verbose")}
    fix, write, force = asked.pop("fix"), asked.pop("write"), asked.pop("force")
    if sum(map(bool, (shown["sarif"], shown["github"], shown["as_json"], fix))) > 1 or (write and not fix):
        raise click.UsageError("--json, --sarif, --github and --fix exclude each other; --write goes with --fix.")
    with terminal.progress() as progress:
        result = linting.lint_model(spec, progress=progress, **asked)
    exit_code = 1 if result.report.failed(fail_on) else 0
    if fix:
        source = linting.fix_source(result, Path.cwd())
        if write:
            source.write()
        terminal.say(source.diff)
        for line in linted.fix_lines(source, wrote=write):
            terminal.note(line)
    else:
        terminal.say(linted.rendered(result.report, __version__, _argv(), exit_code, stream=sys.stdout, **shown))
    if fix_checkpoint is not None:
        terminal.note(linting.fix_checkpoint(result, *fix_checkpoint, force=force))
    return exit_code


@cli.command()
@argument("model", type=FILE)
@option("--data", "inputs", metavar="D", multiple=True, help=".npz, .npy, .json, a folder, or script.py:function.")
@image_options
@option("--samples", metavar="N", type=COUNT, help="How many inputs.  [all there are]")
@option("--shape", "shapes", metavar="X=1,3,8,8", multiple=True, callback=_as(given.shapes), help="Shape of images.")
@option("--output", metavar="OUT", help="Output to look at.  [the first that decides]")
@option("--only", metavar="NODE", multiple=True, help="Only this layer's bias; repeatable.")
@option("--probe", metavar="KIND", multiple=True, type=PROBES, help="Also off the data: contrast, offset, noise.")
@option("--no-compensate", is_flag=True, help="Do not try weights in place of biases.")
@option("--as-it-is", is_flag=True, help="Do not fold batch norms first.")
@option("--provider", type=PROVIDERS, default="cpu", help="Where to run.  [cpu]")
@custom_ops_option
@seed_option
@option("--max-time", metavar="S", type=SECONDS, default=120.0, help="Seconds; what was begun is finished.  [120]")
@option("--max-memory", metavar="SIZE", callback=_as(given.size), help="Memory to work in.  [half of what is free]")
@option("--top", metavar="N", type=COUNT, help="Show the first N biases only.  [all]")
@ending_options
def ablate(model: Path, ending: Ending, no_compensate: bool, as_it_is: bool, top: int | None, **asked: Any) -> int:
    """Say what each bias is worth on your data.

    Every bias is left out in turn, and it is worked out how well the other weights of its layer could imitate it.
    Give data that the model was not trained on. Nothing is written but reports.
    """
    if not asked["inputs"] and asked["images"] is None:
        raise click.UsageError("Give data with --data, or images with --images.")
    from converter.ablate import saved
    from converter.commands.ablate import ablate as run_it

    ending.prepare()
    asked |= {"inputs": asked["inputs"] or None, "compensate": not no_compensate, "fold_first": not as_it_is}
    try:
        with terminal.progress(quiet=ending.quiet) as progress:
            result = run_it(model, progress=progress, **asked)
    except ValueError as unknown:  # a name that no bias has
        raise click.BadParameter(terminal.one_line(str(unknown)), param_hint="'--only'") from None
    saved.end(result.document(_argv()), ending, sys.stdout, top)
    return 0


@cli.command()
@option("--dataset", type=DATASETS, default="digits", help="What to train on.  [digits]")
@option("--data-dir", metavar="DIR", type=FILE, help="Its files; nothing is downloaded. Not needed for digits.")
@option("--full", is_flag=True, help="Do not halve the images.")
@option(
    "--blocks", metavar="LIST", multiple=True, callback=_as(study_plan.parse_blocks), help="Only these parts.  [all]"
)
@option("--seeds", metavar="N", type=click.IntRange(2), help="Seeds of every part.  [4 to 32]")
@option("--seed", metavar="N", type=NATURAL, default=0, help="Seed of the seeds.  [0]")
@option("--margin", metavar="P", type=SECONDS, default=0.5, help="Points of accuracy that count as none.  [0.5]")
@option("--no-bias-anywhere", is_flag=True, help="A third arm, without biases in the head either.")
@option("--quick", is_flag=True, help="In a minute: few widths, few seeds.")
@option("--max-time", metavar="S", type=SECONDS, help="Seconds; seeds are left out to fit.  [300; quick: 60]")
@option("--jobs", metavar="N", type=COUNT, help="Stacks of nets trained side by side.  [cores]")
@option("--device", type=PROVIDERS, default="cpu", help="Where to train.  [cpu]")
@option("--out", metavar="DIR", type=FILE, help="Keep all rows there; another run goes on with them.")
@option("--report", "folder", metavar="DIR", type=FILE, help="Write reports into this folder.")
@option(
    "--formats",
    multiple=True,
    default=["json,md,html"],
    callback=_as(given.kinds),
    metavar="LIST",
    help="Which reports: json, md, html, text.  [json,md,html]",
)
@json_option
@option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def study(jobs: int | None, folder: Path | None, formats: list[str], as_json: bool, quiet: bool, **asked: Any) -> int:
    """Does bias make a difference? Train small nets with and without.

    Needs the extra biasopt[torch], and no network. Parts: exact, identity, contrast, widths, recall, ablation, norms,
    capacity, depth, drift, rates.
    """
    from converter.commands.study import study as run_it
    from converter.report import files
    from converter.runtime.session import available_cores
    from converter.study import saved

    saved.check(formats)
    files.prepare(folder)  # both before the work that the reports tell of
    with terminal.progress(quiet=quiet) as progress:
        side_by_side = jobs or (2 if asked["device"] == "cuda" else available_cores())  # one GPU feeds few
        result = run_it(jobs=side_by_side, progress=progress, **asked)
    said = result.document(click.get_current_context().find_root().obj or ())
    saved.save(said, folder, formats)
    if as_json:
        terminal.say(saved.text(said, "json"))
    elif not quiet:
        from converter.study import text

        terminal.say(text.rendered(said, sys.stdout))
    return int(said["exit_code"])


@cli.command()
@argument("document", metavar="R.json", type=FILE)
@option("-o", "--output", "folder", metavar="DIR", type=FILE, help="Write into this folder.  [print]")
@option("--formats", multiple=True, callback=_as(given.kinds), metavar="LIST", help="json, md, html, junit, text.")
@option("--rethreshold", is_flag=True, help="Judge again by the limits below, without running.")
@option("--max-ratio", metavar="R", type=SECONDS, help="Error on onnxruntime, of the original's own.")
@option("--fail-ratio", metavar="R", type=SECONDS, help="Above it the error fails outright.")
@option("--max-algebra", metavar="R", type=SECONDS, help="Change in float64, of what rounding explains.")
@option("--max-local", metavar="R", type=SECONDS, help="Error of one place, of what rounding allows.")
@option("--accuracy-margin", metavar="P", callback=_as(given.share), help="Share of decisions that may change.")
@option("--latency-margin", metavar="P", callback=_as(given.share), help="Slow-down that counts as none.")
@option("--margin", metavar="P", callback=_as(given.share), help="The one of both that the report has.")
@option("--alpha", metavar="P", callback=_as(given.share), help="Chance of error of each bound.")
@verbose_option
def report(document: Path, folder: Path | None, formats: list[str], **asked: Any) -> int:
    """Make a report again, in other formats or by other limits.

    R.json is the report.json of fold, verify or bench. Nothing is run. With --rethreshold the exit code is
    that of the new verdict.
    """
    from converter.report import again, files

    if not folder and len(formats) > 1:
        raise click.UsageError("several --formats need a folder: give --output.")
    made = again.made(document, **asked)
    files.prepare(folder)
    files.save(made.document, folder, formats or files.FORMATS)
    if not folder:
        terminal.say(again.shown(made, formats[0] if formats else "text", sys.stdout))
    return int(made.exit_code)


def _fold(model: Path, *, output: Path | None, in_place: bool, no_verify: bool, **asked: Any) -> Any:
    import converter

    if in_place and output is not None:
        raise click.UsageError("--in-place and --output exclude each other.")
    if asked["bench_time"] is not None and not asked["bench"]:
        raise click.UsageError("--bench-time goes with --bench.")
    if not in_place and output is None:
        stem = model.name[:-5] if model.name.lower().endswith(".onnx") else model.name
        output = model.with_name(f"{stem}.folded.onnx")
    asked["inputs"] = asked["inputs"] or None
    asked["removal"] = _removal(asked)
    return converter.fold(model, out=output, in_place=in_place, verify=not no_verify, **asked)


def _removal(asked: dict[str, Any]) -> dict[str, Any] | None:
    """What is asked of remove-biases, which is no pass; None where it is not allowed."""
    given_for_it = {name: value for name in ("data", "budget", "keep", "also") if (value := asked.pop(name))}
    if given.REMOVE not in asked["allow"]:
        if given_for_it:
            raise click.UsageError(f"--{min(given_for_it)} goes with --allow {given.REMOVE}.")
        return None
    if not given_for_it.get("data") and asked["images"] is None:
        raise click.UsageError(f"--allow {given.REMOVE} needs --data or --images.")
    if asked["certificate"] is not None:
        raise click.UsageError(f"--allow {given.REMOVE} and --certificate exclude each other.")
    asked["allow"] = [name for name in asked["allow"] if name != given.REMOVE]
    inputs = given_for_it.pop("data", None)
    images = {} if inputs else {"images": asked["images"], "preprocess": asked["preprocess"]}
    labels, asked["labels"] = asked["labels"], None
    return {"inputs": inputs, "labels": labels, **images, **given_for_it}


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    terminal.prepare_streams()
    given_argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with cli.make_context("biasopt", list(given_argv), obj=given_argv) as context:
            return int(cli.invoke(context) or 0)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as usage:
        usage.show()
        return usage.exit_code
    except BiasoptError as error:
        terminal.note(f"error: {error}")
        return 3
    except (KeyboardInterrupt, click.Abort):
        terminal.note("interrupted")
        return 130
    except BrokenPipeError:  # of --help and the like; commands' own output never raises it
        terminal.mute()
        return 0
    except Exception:  # what nobody mapped is a bug, and says so
        terminal.bug(__version__)
        return 70


def main() -> NoReturn:
    """Run the command line and exit."""
    sys.exit(run())


if __name__ == "__main__":
    main()
