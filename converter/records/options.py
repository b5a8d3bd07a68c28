"""What each command may be asked: one frozen record a command, a field an option.

A field is an option of the command line and of the API, or if it has no help an argument of the API alone; see
`converter.records.option`. A record has the fields of its last base first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.dataclass import dataclass
from converter.records.choices import StageId
from converter.records.option import OptionRecord, argument, option

Progress = Callable[[str], None]
Names = Mapping[str, str]
Shapes = Mapping[str, tuple[int, ...]]

OUTCOMES = ("fail", "pass")
PREPROCESS = ("imagenet", "unit", "tanh", "none")
LEVELS = ("A", "P", "B", "C", "D")
PROVIDERS = ("cpu", "cuda", "tensorrt")
DEVICES = ("cpu", "cuda")
OPT_LEVELS = ("all", "basic", "off")
PRECISIONS = ("strict", "as-deployed", "both")
STAGES = tuple(stage.value for stage in StageId if stage.optional)
PROBES = ("contrast", "offset", "noise")
DATASETS = ("digits", "mnist", "fashion-mnist", "cifar10", "synthetic")
PRESETS = ("laptop", "cifar", "gpu")
EXPORTERS = ("dynamo", "torchscript")


# -- what several commands share ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, repr=False)
class InspectOptions(OptionRecord):
    """Which passes there are, and what they may do: `inspect`, `explain`, and `fold` as well."""

    only: Iterable[str] | None = option(None, "Only this pass; repeatable.", "PASS", "only")
    skip: Iterable[str] = option((), "Not this pass; repeatable.", "PASS", "passes")
    allow: Iterable[str] = argument((), "Passes that assume something, by name.")
    keep_bn: bool = option(False, "Keep BatchNormalization and move biases into it, to train on.")
    allow_growth: float = option(
        0.0,
        "How much larger the file may get: 10%.  [0%]",
        "P",
        "percentage",
        doc="By how much the file may grow, as a share of it: 0.1 for a tenth, ``math.inf`` for any.",
    )
    no_growth: bool = option(False, "No rewrite copies or enlarges a tensor, even if others make up for it.")
    freeze_overridable: bool = option(False, "Make inputs that have a default value constants.")
    data_dir: str | Path | None = argument(None, "Directory of the external data of a proto.", was="data")
    progress: Progress | None = argument(None, "Told what is being done, in a few words.")


@dataclass(frozen=True, kw_only=True, repr=False)
class DataOptions(OptionRecord):
    """The user's inputs, and what is right for them."""

    inputs: Any = option(
        None,
        ".npz, .npy, .json, a folder, or script.py:function.",
        "DATA",
        "data",
        doc="Path, ``script.py:function``, mapping of input name to array, or a sequence of these; see "
        "`converter.referee.inputs.files`. Seeded random ones otherwise, where that will do.",
    )
    images: str | Path | None = option(None, "Run on these images; class folders are labels.", "DIR", "path")
    preprocess: str = option("imagenet", "How images are scaled.  [imagenet]", kind=PREPROCESS)
    labels: Any = option(
        None,
        "Right classes: .npy, or a number per line.",
        "F",
        "path",
        doc="Path or integer array: the right class of every row of the inputs.",
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class RuntimeOptions(OptionRecord):
    """How a model is run: what a proof and a benchmark of it have in common."""

    shapes: Shapes | None = option(
        None, "Shape of input X.", "X=1,3,8,8", "shapes", flag="--shape", doc="Sizes that the model leaves open."
    )
    seed: int = option(0, "Seed of everything random.  [0]", "N", "natural")
    quick: bool = option(False, "One input, no decisions, not as deployed.")
    provider: str = option("cpu", "Where to run; that it ran there is proved.  [cpu]", kind=PROVIDERS)
    provider_options: Names | None = option(
        None, "One of its options.", "K=V", "pairs", flag="--provider-option", trusted=True
    )
    opt_level: str = option("all", "onnxruntime's own, as deployed.  [all]", kind=OPT_LEVELS)
    custom_ops: str | Path | None = option(
        None, "Library of custom operators for onnxruntime.", "LIB", "library", trusted=True
    )
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


@dataclass(frozen=True, kw_only=True, repr=False)
class DecisionOptions(OptionRecord):
    """By what the decisions of two models are judged."""

    decision: Sequence[str] = option((), "Output that decides.  [floats of shape [N, C]]", "OUT", "texts")
    decide: bool = option(
        True,
        "Do not judge decisions.",
        flag="--no-decision",
        doc="Judge what the models decide on the user's inputs as well, where there are some.",
    )
    metric: str = option("top1", "top1, or script.py:function of outputs, labels.  [top1]", "M", "metric")
    margin: float | None = option(
        None,
        "Judge decisions by it.  [0.1%, told only]",
        "P",
        "margin",
        flag="--accuracy-margin",
        old="--margin",
        doc="The loss that is tolerated, as a share. Without it, what the inputs say is told beside 0.1 %, and fails "
        "nothing.",
    )
    alpha: float = option(0.05, "Chance to miss a larger one.  [0.05]", "P", "share")


# -- one record a command ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, repr=False)
class VerifyOptions(DecisionOptions, RuntimeOptions, DataOptions):
    """How to compare two models: `converter.compare`, and the proof of a fold."""

    provider_a: str | None = option(None, "Where A runs.  [--provider]", kind=PROVIDERS)
    provider_b: str | None = option(None, "Where B runs.  [--provider]", kind=PROVIDERS)
    partial: bool = option(
        False,
        "TensorRT may leave nodes to CUDA.",
        doc="TensorRT may leave arithmetic to CUDA, which is told; without it that is refused.",
    )
    samples: int | None = option(None, "How many inputs.  [2 random, or all there are]", "N", "count")
    ranges: Mapping[str, tuple[float, float]] | None = option(
        None, "Random values of input X.", "X=-2:2", "ranges", flag="--input-range", old="--range"
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
    require_level: str | None = option(None, "A weaker claim is inconclusive.", kind=LEVELS)
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
    data_dir: str | Path | None = argument(
        None, "Directory of the external data of the original; by default its own, where it is a file.", was="data"
    )
    got_data_dir: str | Path | None = argument(
        None,
        "The same of the rewritten model; by default its own, where it is a file, else that of the original.",
        was="got_data",
    )
    failing: str | Path | None = argument(None, "A folder to save inputs into on which the models differ.")
    made_here: bool = argument(
        False, "The rewritten model is this tool's own fold of the original, whatever it says of itself."
    )
    timed: bool = argument(False, "Record how long every stage took; without it the same models give the same record.")
    progress: Progress | None = argument(None, "Told what is being done, in a few words.")


@dataclass(frozen=True)
class Advice:
    """What the options that a measurement may advise are called where it was asked for."""

    time: str = "--max-time"
    margin: str = "--latency-margin"


@dataclass(frozen=True, kw_only=True, repr=False)
class BatchOptions(OptionRecord):
    """How many models are folded: `batch`; what is done to each is asked as of `fold`."""

    jobs: int | None = option(None, "Models at a time.  [one a core]", "N", "count")
    scheduler: str | None = option(None, "Run on a Dask cluster.", "tcp://HOST:8786", trusted=True)
    upload: bool = option(False, "Send files to the workers.  [if they do not see them]")
    triton: bool = option(False, "The folder is a Triton model repository; so is OUT.")
    again: bool = option(False, "Also what an earlier run into OUT has done.")
    bench: bool = option(False, "Measure latency; one model at a time a machine.")
    certificate: bool = option(False, "Write certificates, too.")
    max_memory: int | None = option(None, "Memory for each model.  [free / jobs]", "SIZE", "size")
    timeout: float = option(1200.0, "Seconds for each model.  [1200]", "S", "seconds")


@dataclass(frozen=True, kw_only=True, repr=False)
class BenchOptions(RuntimeOptions):
    """How to measure whether one model is slower than another."""

    gate: str = option("not-slower", "not-slower, faster:5%, equivalent or none.  [not-slower]", "GATE", "gate")
    margin: float = option(
        0.02, "Slow-down that counts as none.  [2%]", "P", "margin", flag="--latency-margin", old="--margin"
    )
    alpha: float = option(0.05, "Error of each bound.  [0.05]", "P", "share")
    sessions: int | None = option(None, "Times that both are loaded anew.  [5]", "N", "count")
    blocks: int | None = option(None, "Blocks of each session.  [4]", "N", "count")
    pairs: int | None = option(None, "Pairs of runs of each block.  [20]", "N", "count")
    max_time: float | None = option(None, "Seconds to measure for.  [120]", "S", "seconds")
    quick: bool = option(False, "At most about 20 seconds, and a wide interval.")
    inputs: Any = option(
        None,
        "Run on these.",
        "X.npz",
        "arrays",
        doc="One set of inputs by name; random ones otherwise, of ``shapes`` or ``batch`` where sizes are open.",
    )
    batch: int | None = option(None, "Batch size, where a model leaves it open.  [1]", "N", "count")
    show_unoptimised: bool = option(False, "Measure without onnxruntime's optimisations too.")
    threads: int | None = option(None, "Threads of one model.  [all cores]", "N", "count")
    cuda_graph: bool = option(False, "Launch the whole model as one CUDA graph.")
    include_h2d: bool = option(False, "Time the copy of the inputs too.")
    flush_l2: bool = option(False, "Empty the caches before every sample.")
    data_dirs: tuple[Path | None, Path | None] = argument(
        (None, None), "Directories of external data of models that are no files.", was="data"
    )
    samples: Path | None = argument(None, "An .npz for every single time.")
    advice: Advice = argument(Advice(), "What the options that its result may advise are called.")
    progress: Progress | None = argument(None, "Told the present stage.")


@dataclass(frozen=True, kw_only=True, repr=False)
class LayerOptions(DataOptions):
    """What the layers of a model are looked at on: ablation and the removal of biases go by the user's data."""

    inputs: Any = option(
        None,
        ".npz, .npy, .json, a folder, or script.py:function.",
        "DATA",
        "data",
        old="--data",
        doc="Path, ``script.py:function``, mapping of input name to array, or a sequence of these; see "
        "`converter.referee.inputs.files`.",
    )
    samples: int | None = option(None, "How many inputs.  [all there are]", "N", "count")
    shapes: Shapes | None = option(None, "Shape of images.", "X=1,3,8,8", "shapes", flag="--shape")
    output: str | None = option(None, "Output to look at.  [the first that decides]", "OUT")
    provider: str = option("cpu", "Where to run.  [cpu]", kind=DEVICES)
    custom_ops: str | Path | None = option(
        None, "Library of custom operators for onnxruntime.", "LIB", "library", trusted=True
    )
    seed: int = option(0, "Seed of everything random.  [0]", "N", "natural")
    max_memory: int | None = option(None, "Memory to work in.  [half of what is free]", "SIZE", "size")
    data_dir: str | Path | None = argument(None, "Directory of the external data of a proto.", was="data")
    progress: Progress | None = argument(None, "Told what is being done, in a few words.")


@dataclass(frozen=True, kw_only=True, repr=False)
class AblateOptions(LayerOptions):
    """How to find out what each bias is worth."""

    only: Sequence[str] = option((), "Only this layer's bias; repeatable.", "NODE", "texts")
    probe: Sequence[str] = option((), "Also off the data: contrast, offset, noise.", "KIND", "probes")
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
    max_time: float = option(120.0, "Seconds; what was begun is finished.  [120]", "S", "seconds")


@dataclass(frozen=True, kw_only=True, repr=False)
class RemovalOptions(LayerOptions):
    """How to remove biases by data, after all that folds exactly."""

    inputs: Any = option(None, "What remove-biases goes by; as --inputs.", "DATA", "data")
    budget: float = option(
        1e-3,
        "Decisions that it may change.  [0.1%]",
        "P",
        "margin",
        doc="The accuracy that may be lost, as a share; without labels, the rows that may be decided differently.",
    )
    keep: Sequence[str] = option(
        (), "Bias that it must leave; repeatable.", "NODE", "texts", flag="--keep-bias", old="--keep"
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
    timeout: float = argument(1200.0, "Seconds after which it is given up, where it is `isolated`.")
    isolated: bool = argument(False, "Run the models in a child process (Linux only). The command does.")


@dataclass(frozen=True, kw_only=True, repr=False)
class FoldOptions(InspectOptions):
    """How to fold, and how to make sure of the result: ``None`` for what is not to be done."""

    allow: Iterable[str] = option((), "What assumes: remove-biases.", "PASS", "allowed")
    in_place: bool = option(
        False,
        "Replace MODEL itself.",
        trusted=True,
        doc="Replace the input, atomically; follows symbolic links and keeps the mode.",
    )
    force: bool = option(False, "Replace an OUT, and the reports of another run, that exist.", trusted=True)
    link: bool = option(
        False,
        "Leave unchanged weights in MODEL's data files.",
        doc="Write changed tensors alone, and refer to the input's data files, with their checksums, for the rest.",
    )
    stop_after: int | None = option(None, "Stop after N rewrites.", "N", "natural")
    certificate: str | Path | None = option(None, "Write every rewrite as data, for replay to check.", "CERT", "path")
    on_inconclusive: str = option(
        "fail",
        "Outcome if undecided.  [fail]",
        kind=OUTCOMES,
        doc="What an undecided proof counts as: with fail, `exit_code` is 4 and nothing is written.",
    )
    accuracy_margin: float | None = option(None, "Judge decisions: 0.1% may change; remove-biases, too.", "P", "margin")
    reports: Sequence[Path] = argument(
        (), "Files that the caller writes, so that none of them is the output or an input."
    )
    conclude: Callable[[Any], None] | None = argument(
        None, "Called with the result before it is put in its place; what it raises keeps that from happening."
    )
    verify: VerifyOptions | None = argument(VerifyOptions(), "The proof: compare outputs before and after.")
    bench: BenchOptions | None = argument(None, "Measure the latency of both models; the folded one may not be slower.")
    removal: RemovalOptions | None = argument(
        None,
        "Let the weights make up for biases that matter. The result decides alike within the budget on data like "
        "that, and is not equal.",
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class TorchOptions(OptionRecord):
    """How a torch model is made."""

    weights: str | Path | None = option(None, "State dict: torch.save's or safetensors.", "FILE", "path")
    strict: bool = option(
        True,
        "Whether odd keys and odd modules are errors.  [strict]",
        flag="--strict/--no-strict",
        doc="Whether keys of `weights` that do not fit, batch norms without statistics and parameters that are not "
        "finite are errors.",
    )
    shapes: Sequence[Any] = option(
        (),
        "Shape of input X; repeatable.",
        "X=1,3,8,8[:TYPE]",
        "example_inputs",
        flag="--shape",
        old="--input",
        was="inputs",
        doc="``x=1,3,224,224:float32`` for each input.",
    )
    example: Any = option(
        None,
        "Function that returns example inputs.",
        "FILE.py:FN",
        trusted=True,
        doc="``file.py:function`` that makes the inputs; or, for a module, the inputs themselves.",
    )
    seed: int = option(0, "Seed of everything random.  [0]", "N", "natural")
    progress: Progress | None = argument(None, "Told in a few words what is being done.")


@dataclass(frozen=True, kw_only=True, repr=False)
class LintOptions(TorchOptions):
    """How to look for biases that cannot matter in training."""


@dataclass(frozen=True, kw_only=True, repr=False)
class ExportOptions(TorchOptions):
    """How to export a torch model, and how to make sure of the result."""

    dynamic: Any = option((), "batch, or X=0:batch,2:h.", "SIZES", "open_sizes")
    opset: int | None = option(None, "ONNX operator set.  [the exporter's own]", "N", "count")
    exporter: str | None = option(None, "Which of torch's.  [dynamo]", kind=EXPORTERS)
    fuse_bn: bool = option(False, "Let the exporter fuse BatchNorm itself.")
    folded: bool = option(False, "Fold the exported model, as `biasopt fold` does.", flag="--fold")
    force: bool = option(False, "Replace an OUT that exists.", trusted=True)
    verify: bool = option(
        True,
        "Write without comparing outputs.",
        flag="--no-verify",
        doc="Compare with torch, and if `folded`, the folded model with the exported one.",
    )
    on_inconclusive: str = option("fail", "Outcome if undecided.  [fail]", kind=OUTCOMES)
    quick: bool = option(False, "Compare on one input only.")
    trust: bool = option(
        False,
        "Load a TorchScript or .pt2 file even if it can run code as you.",
        trusted=True,
        doc="Load a TorchScript file or a ``.pt2`` even if it holds what may run as code.",
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class ReplayOptions(OptionRecord):
    """How to check a certificate."""

    force: bool = option(False, "Replace an OUT that exists.", trusted=True)
    data_dir: str | Path | None = argument(
        None, "Directory of the original's external data; its own by default.", was="data"
    )
    progress: Progress | None = argument(None, "Told what is being done, in a few words.")


@dataclass(frozen=True, kw_only=True, repr=False)
class StudyOptions(OptionRecord):
    """Which nets to train, on what, and for how long."""

    dataset: str = option("digits", "What to train on.  [digits]", kind=DATASETS)
    data_dir: str | Path | None = option(
        None, "Its files; nothing is downloaded. Not needed for digits and synthetic.", "DIR", "path"
    )
    full: bool = option(False, "Do not halve the images.")
    preset: str = option(
        "laptop",
        "How large a study.  [laptop]",
        kind=PRESETS,
        doc="laptop: everything, on images of about 8 pixels. cifar: the main parts, on images of 16 pixels. gpu: nets "
        "of 8 layers, with residual ones among them, on images of 32 pixels. Of each the numbers of seeds are fixed.",
    )
    blocks: Sequence[str] = option(
        (), "Only these parts.  [all]", "LIST", "study_blocks", doc="Of `converter.study.plan.BLOCKS`: only these."
    )
    seeds: int | None = option(
        None,
        "Seeds of every part.  [4 to 96]",
        "N",
        "several",
        doc="As many in every part, in place of the plan's; each draws a split, weights and an order of batches.",
    )
    seed: int = option(0, "Seed of the seeds.  [0]", "N", "natural")
    margin: float = option(
        0.5,
        "Points of accuracy that count as none.  [0.5%]",
        "P",
        "points",
        flag="--accuracy-margin",
        old="--margin",
        doc="Percentage points: the difference in accuracy that counts as none.",
    )
    no_bias_anywhere: bool = option(False, "A third arm, without biases in the head either.")
    quick: bool = option(False, "In about a minute: few widths, and only the claims that they can judge.")
    max_time: float | None = option(
        None,
        "Seconds; parts that do not fit are not run.  [1200; quick: 240]",
        "S",
        "seconds",
        doc="Seconds: 1200, or 240 if quick. Parts that do not fit are left out whole; nothing starts after it.",
    )
    jobs: int = argument(1, "Stacks of nets trained side by side, each on one core.")
    device: str = option("cpu", "Where to train.  [cpu]", kind=DEVICES)
    out: str | Path | None = option(None, "Keep all rows there; another run goes on with them.", "DIR", "path")
    progress: Progress | None = argument(None, "Told what is being done.")


@dataclass(frozen=True, kw_only=True, repr=False)
class ReportOptions(OptionRecord):
    """By which limits a report is judged again; those that are not given are the report's own."""

    rethreshold: bool = option(False, "Judge again by the limits below, without running.")
    max_ratio: float | None = option(None, "Error on onnxruntime, of the original's own.", "R", "seconds")
    fail_ratio: float | None = option(None, "Above it the error fails outright.", "R", "seconds")
    max_algebra: float | None = option(None, "Change in float64, of what rounding explains.", "R", "seconds")
    max_local: float | None = option(None, "Error of one place, of what rounding allows.", "R", "seconds")
    accuracy_margin: float | None = option(None, "Share of decisions that may change.", "P", "margin")
    latency_margin: float | None = option(None, "Slow-down that counts as none.", "P", "margin")
    alpha: float | None = option(None, "Chance of error of each bound.", "P", "share")
