"""What each command may be asked: one frozen record a command, a field an option.

The command line is made from these records (`converter.commands.options`), and so are the tables of parameters in the
docstrings of the API. A field is an option: its default, and what `option` notes of it. A field without ``help`` is of
the API alone. A function of the API takes its record, or fields of it as keywords, or both: see `merged`.

A record has the fields of its last base first.
"""

# ruff: noqa: RUF009  (`option` and `argument` are `dataclasses.field`, with what it is to note)

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

Record = TypeVar("Record")
Function = TypeVar("Function", bound=Callable[..., Any])
Progress = Callable[[str], None]
Names = Mapping[str, str]
Shapes = Mapping[str, tuple[int, ...]]

OUTCOMES = ("fail", "pass")
PREPROCESS = ("imagenet", "unit", "tanh", "none")
LEVELS = ("A", "B", "C", "D")
PROVIDERS = ("cpu", "cuda", "tensorrt")
DEVICES = ("cpu", "cuda")
OPT_LEVELS = ("all", "basic", "off")
PRECISIONS = ("strict", "as-deployed", "both")
STAGES = ("structure", "algebra", "parameters", "local", "runtime", "decision")
PROBES = ("contrast", "offset", "noise")
DATASETS = ("digits", "mnist", "fashion-mnist", "cifar10")
EXPORTERS = ("dynamo", "torchscript")


def option(
    default: Any,
    help: str,  # noqa: A002  (as click calls it)
    metavar: str = "",
    kind: str | Sequence[str] = "text",
    *,
    flag: str = "",
    old: str = "",
    doc: str = "",
) -> Any:
    """A field that is an option of the command line.

    Parameters
    ----------
    help : what ``--help`` says
    kind : a name in `converter.commands.options.KINDS`, or the choices that there are
    flag : its name there, where that is not the field's; ``--no-x`` of a bool that is True turns it off
    old : names that it had in earlier releases, and still answers to
    doc : what the API's docstring says, where that is not ``help``
    """
    return field(
        default=default,
        metadata={"help": help, "metavar": metavar, "kind": kind, "flag": flag, "old": tuple(old.split()), "doc": doc},
    )


def argument(default: Any, doc: str) -> Any:
    """A field that is an argument of the API alone."""
    return field(default=default, metadata={"doc": doc})


def names(record: type[Any]) -> tuple[str, ...]:
    """The names of the fields of a record."""
    return tuple(f.name for f in fields(record))


def merged(record: type[Record], options: Record | None, keywords: Mapping[str, Any]) -> Record:
    """A record with the fields that are given as keywords.

    Raises
    ------
    TypeError
        A keyword is no field; the message names those that there are.
    """
    check_names(keywords, names(record))
    return replace(record() if options is None else options, **keywords)  # type: ignore[type-var]


def check_names(keywords: Iterable[str], known: Iterable[str]) -> None:
    """Find what no function takes before the work, not after it."""
    known = sorted(known)
    if unknown := sorted(set(keywords) - set(known)):
        raise TypeError(f"there is no argument {unknown[0]!r}; there are {', '.join(known)}")


def documented(*records: type[Any]) -> Callable[[Function], Function]:
    """Fill in ``{options}`` in a function's docstring, and its keywords in its signature, from the records it takes."""

    def fill(function: Function) -> Function:
        known = {f.name: f for record in records for f in reversed(fields(record))}
        if function.__doc__:
            table = textwrap.indent(_table(list(reversed(known.values()))), "    ")
            function.__doc__ = function.__doc__.replace("    {options}", table)
        signature = inspect.signature(function)
        plain = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        more = [
            inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
            for f in reversed(known.values())
            if f.name not in signature.parameters
        ]
        function.__signature__ = signature.replace(parameters=plain + more)  # type: ignore[attr-defined]
        return function

    return fill


def _table(known: Sequence[Field[Any]]) -> str:
    return "\n".join(f"{f.name} : {_type(f)}\n{textwrap.indent(_meaning(f), '    ')}" for f in known)


_READABLE = {
    "Any": "see below",
    "Names": "mapping of str to str",
    "Progress": "callable",
    "Shapes": "mapping of input name to shape",
    "Sequence[Any]": "sequence",
    "str | Path": "path",
}


def _type(known: Field[Any]) -> str:
    choices = known.metadata.get("kind")
    if isinstance(choices, tuple):
        return "{" + ", ".join(f'"{choice}"' for choice in choices) + "}"
    written = str(known.type).removesuffix(" | None")
    readable = _READABLE.get(written, written)
    return f"{readable}, optional" if str(known.type).endswith(" | None") else readable


def _meaning(known: Field[Any]) -> str:
    return "\n".join(textwrap.wrap(known.metadata["doc"] or known.metadata["help"].partition("  [")[0], 110))


# -- what several commands share ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Which passes there are, and what they may do: `inspect`, `explain`, and `fold` as well."""

    only: Iterable[str] | None = option(None, "Only this pass; repeatable.", "PASS", "only")
    skip: Iterable[str] = option((), "Not this pass; repeatable.", "PASS", "passes")
    allow: Iterable[str] = argument((), "Passes that assume something, by name.")
    keep_bn: bool = option(
        False,
        "Keep BatchNormalization and move biases into it, to train on.",
        doc="Move biases into batch norms instead of folding them.",
    )
    no_growth: bool = option(
        False, "Leave what needs a copy of a shared weight.", doc="Copy no tensor that other nodes read as well."
    )
    freeze_overridable: bool = option(
        False,
        "Make inputs that have a default value constants.",
        doc="Take initializers that are also graph inputs as constants.",
    )
    data: str | Path | None = argument(None, "Directory of the external data of a proto.")
    progress: Progress | None = argument(None, "Told what is being done, in a few words.")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The user's inputs, and what is right for them."""

    inputs: Any = option(
        None,
        ".npz, .npy, .json, a folder, or script.py:function.",
        "DATA",
        "texts",
        doc="Path, ``script.py:function``, mapping of input name to array, or a sequence of these; see "
        "`converter.referee.inputs.files`. Seeded random ones otherwise, where that will do.",
    )
    images: str | Path | None = option(
        None,
        "Run on these images; class folders are labels.",
        "DIR",
        "path",
        doc="A folder of images to run on instead, by class or flat.",
    )
    preprocess: str = option("imagenet", "How images are scaled.  [imagenet]", kind=PREPROCESS)
    labels: Any = option(
        None,
        "Right classes: .npy, or a number per line.",
        "F",
        "path",
        doc="Path or integer array: the right class of every row of the inputs.",
    )


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """How a model is run: what a proof and a benchmark of it have in common."""

    shapes: Shapes | None = option(
        None, "Shape of input X.", "X=1,3,8,8", "shapes", flag="--shape", doc="Sizes that the model leaves open."
    )
    seed: int = option(0, "Seed of everything random.  [0]", "N", "natural", doc="Of everything random.")
    quick: bool = option(False, "One input, no decisions, not as deployed.")
    provider: str = option(
        "cpu",
        "Where to run; that it ran there is proved.  [cpu]",
        kind=PROVIDERS,
        doc="Where onnxruntime runs the models; that it does is proved.",
    )
    provider_options: Names | None = option(
        None, "One of its options.", "K=V", "pairs", flag="--provider-option", doc="Of that provider, as deployed."
    )
    opt_level: str = option(
        "all",
        "onnxruntime's own, as deployed.  [all]",
        kind=OPT_LEVELS,
        doc="onnxruntime's optimisations, as deployed.",
    )
    custom_ops: str | Path | None = option(None, "Library of custom operators for onnxruntime.", "LIB", "library")
    timeout: float = option(
        1200.0,
        "Seconds after which it is given up.  [1200]",
        "S",
        "seconds",
        doc="Seconds after which it is given up, where it is `isolated`.",
    )
    isolated: bool = argument(
        False,
        "Run the models in a child process, so that one that never ends, fills the memory or ends onnxruntime does not "
        "do that here (Linux only). The commands do.",
    )


@dataclass(frozen=True, kw_only=True)
class DecisionOptions:
    """By what the decisions of two models are judged."""

    decision: Sequence[str] = option(
        (),
        "Output that decides.  [floats of shape [N, C]]",
        "OUT",
        "texts",
        doc="The outputs that decide; every float output [N, C] by default.",
    )
    decide: bool = option(
        True,
        "Do not judge decisions.",
        flag="--no-decision",
        doc="Judge what the models decide on the user's inputs as well, where there are some.",
    )
    metric: str = option(
        "top1",
        "top1, or script.py:function of outputs, labels.  [top1]",
        "M",
        doc='"top1", or ``script.py:function`` of (outputs, labels).',
    )
    margin: float = option(
        1e-3,
        "Loss of accuracy that counts as none.  [0.1%]",
        "P",
        "share",
        flag="--accuracy-margin",
        old="--margin",
        doc="The loss that is tolerated, as a share.",
    )
    alpha: float = option(
        0.05, "Chance to miss a larger one.  [0.05]", "P", "share", doc="The chance of overlooking a larger loss."
    )


# -- one record a command ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(DecisionOptions, RuntimeOptions, DataOptions):
    """How to compare two models: `converter.compare`, and the proof of a fold."""

    samples: int | None = option(
        None,
        "How many inputs.  [2 random, or all there are]",
        "N",
        "count",
        doc="How many random inputs, or how many of the user's at most.",
    )
    ranges: Mapping[str, tuple[float, float]] | None = option(
        None,
        "Random values of input X.",
        "X=-2:2",
        "ranges",
        flag="--input-range",
        old="--range",
        doc="Random values of the input of that name lie between these.",
    )
    names: Names | None = option(
        None,
        "What A calls A, B calls B.",
        "A=B",
        "pairs",
        flag="--rename",
        old="--map",
        doc="Inputs and outputs that the rewritten model calls differently, by their names in the original.",
    )
    precision_gate: str = option(
        "both",
        "What the runtime stage is judged by.  [both]",
        kind=PRECISIONS,
        doc="Whether the runtime stage counts with TF32 and optimisations off, as deployed, or both.",
    )
    stages: Iterable[str] | None = option(
        None, "Only these stages.  [all]", "LIST", "stages", doc=f"Of {', '.join(STAGES)}; all but the last by default."
    )
    max_ratio: float | None = option(
        None,
        "B's error over A's that passes.  [3]",
        "R",
        "seconds",
        doc="The rewritten model's error over the original's: up to this it passes; 3, or 5 for small outputs.",
    )
    fail_ratio: float = option(10.0, "And that fails.  [10]", "R", "seconds", doc="Above this it fails.")
    tolerances: Sequence[Any] = option(
        (),
        "Limit of a measure, such as max_abs.",
        "OUT:MEASURE=X",
        "tolerances",
        flag="--tolerance",
        old="--tol",
        doc="Further gates on the usual measures, as (output, measure, value); an empty name is every output.",
    )
    require_level: str | None = option(
        None, "A weaker claim is inconclusive.", kind=LEVELS, doc="A claim below it is inconclusive."
    )
    max_time: float | None = option(
        None,
        "Seconds to add inputs for.  [30; decisions: no limit]",
        "S",
        "seconds",
        doc="Seconds after which no further inputs are added, 30 by default; what was begun is finished. The decision "
        "stage reads all inputs unless this is given.",
    )
    max_memory: int | None = option(
        None,
        "Memory to compare in.  [half of what is free]",
        "SIZE",
        "size",
        doc="Bytes that a float64 run may take, by default half of the free memory; above it, rewrite by rewrite.",
    )
    data: str | Path | None = argument(
        None, "Directory of the external data of the original; by default its own, where it is a file."
    )
    got_data: str | Path | None = argument(
        None, "The same of the rewritten model; by default its own, where it is a file, else that of the original."
    )
    failing: str | Path | None = argument(None, "A folder to save inputs into on which the models differ.")
    timed: bool = argument(False, "Record how long every stage took; without it the same models give the same record.")
    progress: Progress | None = argument(None, "Told what is being done, in a few words.")


@dataclass(frozen=True, slots=True)
class Advice:
    """What the options that a measurement may advise are called where it was asked for."""

    time: str = "--max-time"
    margin: str = "--latency-margin"


@dataclass(frozen=True, kw_only=True)
class BenchOptions(RuntimeOptions):
    """How to measure whether one model is slower than another."""

    gate: str = option(
        "not-slower",
        "not-slower, faster:5%, equivalent or none.  [not-slower]",
        "GATE",
        "gate",
        doc="``not-slower``, ``faster:5%``, ``equivalent`` or ``none``.",
    )
    margin: float = option(
        0.02,
        "Slow-down that counts as none.  [2%]",
        "P",
        "share",
        flag="--latency-margin",
        old="--margin",
        doc="The slow-down that still counts as none: 0.02 for 2 %.",
    )
    alpha: float = option(0.05, "Error of each bound.  [0.05]", "P", "share", doc="Of each bound of the interval.")
    sessions: int | None = option(None, "Times that both are loaded anew.  [5]", "N", "count", doc="5; 3 if quick.")
    blocks: int | None = option(
        None, "Blocks of each session.  [4]", "N", "count", doc="Of each session: 4, 3 if quick."
    )
    pairs: int | None = option(None, "Pairs of runs of each block.  [20]", "N", "count", doc="20; 10 if quick.")
    max_time: float | None = option(
        None, "Seconds to measure for.  [120]", "S", "seconds", doc="Seconds for all of it: 120, 20 if quick."
    )
    quick: bool = option(False, "About 20 seconds, and a wide interval.")
    inputs: Any = option(
        None,
        "Run on these.",
        "X.npz",
        "arrays",
        doc="One set of inputs by name; random ones otherwise, of ``shapes`` or ``batch`` where sizes are open.",
    )
    batch: int | None = option(None, "Batch size, where a model leaves it open.  [1]", "N", "count")
    show_unoptimised: bool = option(False, "Measure without onnxruntime's optimisations too.")
    threads: int | None = option(
        None,
        "Threads of one model.  [all cores]",
        "N",
        "count",
        doc="All cores that are free otherwise.",
    )
    cuda_graph: bool = option(False, "Launch the whole model as one CUDA graph.")
    include_h2d: bool = option(False, "Time the copy of the inputs too.")
    flush_l2: bool = option(False, "Empty the caches before every sample.")
    data: tuple[Path | None, Path | None] = argument(
        (None, None), "Directories of external data of models that are no files."
    )
    samples: Path | None = argument(None, "An .npz for every single time.")
    advice: Advice = argument(Advice(), "What the options that its result may advise are called.")
    progress: Progress | None = argument(None, "Told the present stage.")


@dataclass(frozen=True, kw_only=True)
class LayerOptions(DataOptions):
    """What the layers of a model are looked at on: ablation and the removal of biases go by the user's data."""

    inputs: Any = option(
        None,
        ".npz, .npy, .json, a folder, or script.py:function.",
        "D",
        "texts",
        flag="--data",
        doc="Path, ``script.py:function``, mapping of input name to array, or a sequence of these; see "
        "`converter.referee.inputs.files`.",
    )
    samples: int | None = option(
        None, "How many inputs.  [all there are]", "N", "count", doc="How many runs of the data to read at most."
    )
    shapes: Shapes | None = option(
        None,
        "Shape of images.",
        "X=1,3,8,8",
        "shapes",
        flag="--shape",
        doc="Of images: sizes that are open.",
    )
    output: str | None = option(
        None,
        "Output to look at.  [the first that decides]",
        "OUT",
        doc="The output to look at; a classifier's by default, else the first of floating-point numbers.",
    )
    provider: str = option("cpu", "Where to run.  [cpu]", kind=DEVICES)
    custom_ops: str | Path | None = option(None, "Library of custom operators for onnxruntime.", "LIB", "library")
    seed: int = option(
        0,
        "Seed of everything random.  [0]",
        "N",
        "natural",
        doc="Of the parts that the data are split into, drawn positions and noise.",
    )
    max_memory: int | None = option(
        None,
        "Memory to work in.  [half of what is free]",
        "SIZE",
        "size",
        doc="Bytes to hold at once; half of the free memory by default.",
    )
    data: str | Path | None = argument(None, "Directory of the external data of a proto.")
    progress: Progress | None = argument(None, "Told what is being done, in a few words.")


@dataclass(frozen=True, kw_only=True)
class AblateOptions(LayerOptions):
    """How to find out what each bias is worth."""

    only: Sequence[str] = option((), "Only this layer's bias; repeatable.", "NODE", "texts", doc="Look at these alone.")
    probe: Sequence[str] = option(
        (),
        "Also off the data: contrast, offset, noise.",
        "KIND",
        "probes",
        doc='Of "contrast", "offset", "noise": ask as well what happens off the data.',
    )
    compensate: bool = option(
        True,
        "Do not try weights in place of biases.",
        flag="--no-compensate",
        doc="Work out how well the other weights of a layer could imitate its bias.",
    )
    fold_first: bool = option(
        True,
        "Do not fold batch norms first.",
        flag="--no-fold",
        old="--as-it-is",
        doc="Fold batch norms first, so that the biases that they hold are looked at, too.",
    )
    max_time: float = option(
        120.0,
        "Seconds; what was begun is finished.  [120]",
        "S",
        "seconds",
        doc="Seconds. What was begun is finished; what was not measured is said.",
    )


@dataclass(frozen=True, kw_only=True)
class RemovalOptions(LayerOptions):
    """How to remove biases by data, after all that folds exactly."""

    inputs: Any = option(
        None, "What remove-biases goes by; as --inputs.", "DATA", "texts", flag="--data", doc="As in `AblateOptions`."
    )
    budget: float = option(
        1e-3,
        "Decisions that it may change.  [0.1%]",
        "P",
        "share",
        doc="The accuracy that may be lost, as a share; without labels, the rows that may be decided differently.",
    )
    keep: Sequence[str] = option(
        (),
        "Bias that it must leave; repeatable.",
        "NODE",
        "texts",
        flag="--keep-bias",
        old="--keep",
        doc="Names of nodes whose bias stays.",
    )
    also: Sequence[str] = option(
        (),
        "Bias, or first, head, depthwise, that it may take too.",
        "NODE",
        "texts",
        flag="--also-remove",
        old="--also",
        doc='Names of nodes, or "first", "head", "depthwise": biases that may go although they stay by default.',
    )
    alpha: float = argument(0.05, "The chance of overlooking a larger loss.")
    max_time: float = argument(300.0, "Seconds.")


@dataclass(frozen=True, kw_only=True)
class FoldOptions(InspectOptions):
    """How to fold, and how to make sure of the result: ``None`` for what is not to be done."""

    allow: Iterable[str] = option((), "What assumes: remove-biases.", "PASS", "allowed", doc="As in `inspect`.")
    in_place: bool = option(
        False,
        "Replace MODEL itself.",
        doc="Replace the input, atomically; follows symbolic links and keeps the mode.",
    )
    force: bool = option(False, "Replace an OUT that exists.", doc="Replace an existing output.")
    stop_after: int | None = option(
        None, "Stop after N rewrites.", "N", "natural", doc="Number of rewrites after which to stop."
    )
    certificate: str | Path | None = option(
        None,
        "Write every rewrite as data, for replay to check.",
        "CERT",
        "path",
        doc="Where to write every rewrite as data, for `biasopt replay` to check and to carry out again.",
    )
    on_inconclusive: str = option(
        "fail",
        "Outcome if undecided.  [fail]",
        kind=OUTCOMES,
        doc="What an undecided proof counts as: with fail, `exit_code` is 4 and nothing is written.",
    )
    accuracy_margin: float | None = option(
        None,
        "Judge decisions too: 0.1% may change.",
        "P",
        "share",
        doc="Judge as well whether more than this share of the decisions on the inputs (or images) changes.",
    )
    verify: VerifyOptions | None = argument(VerifyOptions(), "The proof: compare outputs before and after.")
    bench: BenchOptions | None = argument(None, "Measure the latency of both models; the folded one may not be slower.")
    removal: RemovalOptions | None = argument(
        None,
        "Let the weights make up for biases that matter. The result decides alike within the budget on data like "
        "that, and is not equal.",
    )


@dataclass(frozen=True, kw_only=True)
class TorchOptions:
    """How a torch model is made."""

    weights: str | Path | None = option(
        None,
        "State dict: torch.save's or safetensors.",
        "FILE",
        "path",
        doc="A state dict; see `converter.torch_models.spec.loader`.",
    )
    strict: bool = option(
        True,
        "Whether odd keys and odd modules are errors.  [strict]",
        flag="--strict/--no-strict",
        doc="Whether keys of `weights` that do not fit, batch norms without statistics and parameters that are not "
        "finite are errors.",
    )
    inputs: Sequence[Any] = option(
        (),
        "Shape of input X; repeatable.",
        "X=1,3,8,8[:TYPE]",
        "example_inputs",
        flag="--input",
        doc="``x=1,3,224,224:float32`` for each input.",
    )
    example: Any = option(
        None,
        "Function that returns example inputs.",
        "FILE.py:FN",
        doc="``file.py:function`` that makes the inputs; or, for a module, the inputs themselves.",
    )
    seed: int = option(0, "Seed of everything random.  [0]", "N", "natural", doc="Of random weights and inputs.")
    progress: Progress | None = argument(None, "Told in a few words what is being done.")


@dataclass(frozen=True, kw_only=True)
class LintOptions(TorchOptions):
    """How to look for biases that cannot matter in training."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions(TorchOptions):
    """How to export a torch model, and how to make sure of the result."""

    dynamic: Any = option(
        (),
        "batch, or X=0:batch,2:h.",
        "SIZES",
        "open_sizes",
        doc="``batch``, or ``x=0:batch,2:height``: the sizes to leave open.",
    )
    opset: int | None = option(
        None, "ONNX operator set.  [the exporter's own]", "N", "count", doc="The exporter's own default otherwise."
    )
    exporter: str | None = option(
        None, "Which of torch's.  [dynamo]", kind=EXPORTERS, doc="dynamo, except for a TorchScript file."
    )
    fuse_bn: bool = option(
        False, "Let the exporter fuse BatchNorm itself.", doc="Let the exporter fuse Conv and BatchNorm itself."
    )
    folded: bool = option(
        False,
        "Fold the exported model, as `biasopt fold` does.",
        flag="--fold",
        doc="Go on to the folded model, as `fold` does.",
    )
    force: bool = option(False, "Replace an OUT that exists.", doc="Replace an existing output.")
    verify: bool = option(
        True,
        "Write without comparing outputs.",
        flag="--no-verify",
        doc="Compare with torch, and if `folded`, the folded model with the exported one.",
    )
    on_inconclusive: str = option(
        "fail", "Outcome if undecided.  [fail]", kind=OUTCOMES, doc="What an undecided comparison counts as."
    )
    quick: bool = option(False, "Compare on one input only.", doc="Fewer inputs for the comparisons.")
    trust: bool = option(
        False,
        "Load a TorchScript or .pt2 file even if it can run code as you.",
        doc="Load a TorchScript file or a ``.pt2`` even if it holds what may run as code.",
    )


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """How to check a certificate."""

    force: bool = option(False, "Replace an OUT that exists.", doc="Replace an existing output.")
    data: str | Path | None = argument(None, "Directory of the original's external data; its own by default.")
    progress: Progress | None = argument(None, "Told what is being done, in a few words.")


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Which nets to train, on what, and for how long."""

    dataset: str = option("digits", "What to train on.  [digits]", kind=DATASETS)
    data_dir: str | Path | None = option(
        None,
        "Its files; nothing is downloaded. Not needed for digits.",
        "DIR",
        "path",
        doc="Folder with the files of any but the first; nothing is downloaded.",
    )
    full: bool = option(False, "Do not halve the images.", doc="Keep the size of the images; else it is halved.")
    blocks: Sequence[str] = option(
        (), "Only these parts.  [all]", "LIST", "study_blocks", doc="Of `converter.study.plan.BLOCKS`: only these."
    )
    seeds: int | None = option(
        None,
        "Seeds of every part.  [4 to 32]",
        "N",
        "several",
        doc="As many in every part; each draws a split, initial weights and an order of batches.",
    )
    seed: int = option(0, "Seed of the seeds.  [0]", "N", "natural", doc="That all others are mixed with.")
    margin: float = option(
        0.5,
        "Points of accuracy that count as none.  [0.5]",
        "P",
        "seconds",
        flag="--accuracy-margin",
        old="--margin",
        doc="Percentage points: the difference in accuracy that counts as none.",
    )
    no_bias_anywhere: bool = option(
        False,
        "A third arm, without biases in the head either.",
        doc="A third arm, in which the head has no bias either.",
    )
    quick: bool = option(False, "In a minute: few widths, few seeds.", doc="Few widths, few seeds.")
    max_time: float | None = option(
        None,
        "Seconds; fewer seeds to fit the time.  [300; quick: 60]",
        "S",
        "seconds",
        doc="Seconds: 300, or 60 if quick. Fewer seeds are trained to fit into it; nothing starts after it.",
    )
    jobs: int = argument(1, "Stacks of nets trained side by side, each on one core.")
    device: str = option("cpu", "Where to train.  [cpu]", kind=DEVICES)
    out: str | Path | None = option(
        None,
        "Keep all rows there; another run goes on with them.",
        "DIR",
        "path",
        doc="Folder that keeps the rows; another run goes on with them.",
    )
    progress: Progress | None = argument(None, "Told what is being done.")


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """By which limits a report is judged again; those that are not given are the report's own."""

    rethreshold: bool = option(False, "Judge again by the limits below, without running.")
    max_ratio: float | None = option(None, "Error on onnxruntime, of the original's own.", "R", "seconds")
    fail_ratio: float | None = option(None, "Above it the error fails outright.", "R", "seconds")
    max_algebra: float | None = option(None, "Change in float64, of what rounding explains.", "R", "seconds")
    max_local: float | None = option(None, "Error of one place, of what rounding allows.", "R", "seconds")
    accuracy_margin: float | None = option(None, "Share of decisions that may change.", "P", "share")
    latency_margin: float | None = option(None, "Slow-down that counts as none.", "P", "share")
    alpha: float | None = option(None, "Chance of error of each bound.", "P", "share")
