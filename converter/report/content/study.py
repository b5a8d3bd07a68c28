"""What a study says: the answer, the claims, the controls, and part by part its pictures and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from converter.records import Verdict
from converter.records.study import Claim, Stamp, StudyResult
from converter.report.blocks import (
    Block,
    Chart,
    Code,
    Column,
    Details,
    KeyValues,
    ListBlock,
    Medium,
    Only,
    Paragraph,
    Picture,
    Report,
    Section,
    Span,
    Style,
    Table,
    Warnings,
    Words,
    quiet,
    strong,
)
from converter.report.content import Run
from converter.report.content.study_figures import draw_figures
from converter.report.content.study_tables import TITLES, Grid, format_percent, format_span, tabulate
from converter.report.figures import Figure
from converter.study.answer import format_points, list_advice

FIGURES = "figures"  # the folder beside a Markdown report
QUESTION = "Does bias in the convolutional layer make a difference?"
_CLAIM_STYLES = {
    Stamp.CONFIRMED: Style.PASS,
    Stamp.CONDITION: Style.PASS,
    Stamp.UNSUPPORTED: Style.FAIL,
    Stamp.FALSE: Style.FAIL,
    Stamp.UNDECIDED: Style.OPEN,
    Stamp.NOT_RUN: Style.SKIP,
}
_STAMPS = {
    Stamp.CONFIRMED: "what was measured or proved says so",
    Stamp.CONDITION: "it does under a condition, which the reason names",
    Stamp.UNSUPPORTED: "the evidence speaks against it on this data",
    Stamp.FALSE: "the evidence shows the contrary",
    Stamp.UNDECIDED: "the evidence is for neither; the reason says how many seeds would tell",
    Stamp.NOT_RUN: "a part that it needs did not get all of its seeds; the reason is the command that runs it",
}
_CONTROLS = {
    True: Span("passed", Style.PASS),
    False: Span("FAILED", Style.FAIL),
    None: Span("not run", Style.OPEN),
}
_COLOURS = {"a": "a", "b": "b", "warm": "open", "good": "pass", "bad": "fail"}  # of a figure, on the page


def study_report(result: StudyResult, run: Run, figures: str = FIGURES) -> Report:
    """What a study found; Markdown shows the drawings that lie in the folder ``figures``, none if it is empty."""
    verdict = result.verdict
    parts = list(_parts(result, figures))
    return Report(
        command="study",
        name=result.facts["dataset"],
        status=_status(result),
        headline=verdict.sentence,
        lede=verdict.more,
        claims=[("Controls", _count_controls(result))],
        warnings=result.warnings,
        version=run.version,
        schema=run.schema,
        sections=(
            Section("", (Paragraph((strong(verdict.sentence),)), Paragraph(verdict.more)), media=~Medium.PAGE),
            Section("", (Warnings(result.warnings),), media=~Medium.PAGE),
            _build_brief_section(result),
            *_picture_section(result, figures),
            _claims_section(result, parts),
            _controls_section(result),
            _advice_section(result),
            *(section for _, section in parts),
            Section(
                "What this does not show",
                (ListBlock(result.limits),),
                about="So that nobody reads more into it.",
                id="limits",
                media=Medium.FILES,
            ),
            _sources_section(),
            _build_again_section(result, run),
            Section("", (Paragraph(describe_cost(result), small=True),), media=~Medium.PAGE),
        ),
    )


def _status(result: StudyResult) -> Verdict:
    """A failure if the run is invalid, a pass if there is an answer."""
    if result.valid is False:
        return Verdict.FAIL
    return Verdict.PASS if result.verdict.answered else Verdict.INCONCLUSIVE


def _count_controls(result: StudyResult) -> str:
    states = [check.passed for check in result.checks]
    return f"{states.count(True)} of {len(states)} passed"


def _build_brief_section(result: StudyResult) -> Section:
    """The main comparison, for a screen."""
    found = result.results.get("widths")
    rows = [
        (
            c["input"],
            f"{c['width']}",
            f"{c['n']}",
            format_percent(c["with"]["mean"]),
            format_percent(c["without"]["mean"]),
            format_points(c["mean"]),
            format_span(c["low90"], c["high90"], format_points),
            c["verdict"].lower(),
        )
        for c in (found["comparisons"] if found else ())
    ]
    heads = ("channels", "n", "with", "without", "\u0394", "90 % interval")
    columns = (Column("input"), *(Column(head, right=True) for head in heads), Column())
    title = "Accuracy in per cent, with and without biases in the convolutions"
    return Section(title, (Table(columns, rows),), media=Medium.SCREEN)


def _picture_section(result: StudyResult, figures: str) -> Iterator[Section]:
    """The answer in one picture, on top."""
    figure = draw_figures(result).get("answer")
    if figure:
        yield Section("In one picture", tuple(_show(figure, figures)), id="picture", media=Medium.FILES)


def _claims_section(result: StudyResult, parts: Sequence[tuple[str, Section]]) -> Section:
    rows = [
        (
            claim.id,
            f"\u201c{claim.quoted}\u201d" if claim.quoted else "",
            claim.said,
            Span(claim.stamp, _CLAIM_STYLES[claim.stamp]),
            claim.because,
            seen,
        )
        for claim in result.claims
        for seen in ["; ".join(section.title for section in _places(claim, parts))]
    ]
    below = Medium.SCREEN | Medium.PAGE
    columns = (
        Column(right=True),
        Column("as it was answered", media=Medium.FILES),
        Column("as it is tested"),
        Column("here", under=below),
        Column("because", under=below),
        Column("see", media=Medium.PAGE, under=below),
    )
    seen = {claim.stamp for claim in result.claims}
    legend = Table(
        (Column("here"), Column("means")),
        [(Span(stamp, _CLAIM_STYLES[stamp]), said) for stamp, said in _STAMPS.items() if stamp in seen],
    )
    return Section(
        "What was claimed",
        (Table(columns, rows, headless=Medium.SCREEN), Only(Medium.FILES, legend)),
        about="The answers that were given to the question (Stack Overflow, 2018), each with what became of it here. "
        "The verdicts are derived from the results below.",
        id="claims",
    )


def _advice_section(result: StudyResult) -> Section:
    advice = list_advice(result.results, result.margin)
    return Section("What to do", (ListBlock(advice),), about="In five lines.", id="advice", media=Medium.FILES)


# By claim: what kind of answer this is, and the papers behind it.
_SOURCES = (
    ("1", "proved, measured", "Kingma & Ba 2015 (Adam, arXiv 1412.6980)"),
    (
        "2",
        "proved, measured",
        "Mohan et al. 2020 (bias-free denoising, arXiv 1906.05478); Geng et al. 2023 (arXiv 2211.08486)",
    ),
    ("3", "measured", "Nagel et al. 2019 (bias absorption, arXiv 1906.04721)"),
    ("4", "proved, measured", "Zhang, Saxe & Latham 2025 (bias-free ReLU nets, arXiv 2406.12615)"),
    (
        "5",
        "published, measured",
        "Gers, Schmidhuber & Cummins 2000; Jozefowicz et al. 2015; Tallec & Ollivier 2018 (arXiv 1804.11188)",
    ),
    ("6", "proved, published", "Ioffe & Szegedy 2015 (arXiv 1502.03167), section 3.2"),
    ("7a", "proved, measured", "Zhang, Saxe & Latham 2025"),
    ("7b", "measured", "Metta et al. 2024 (biases in place of weights, arXiv 2301.00924)"),
    ("7c", "measured", "Brock et al. 2021 (nets without norms keep their biases, arXiv 2102.06171)"),
    ("8", "published, measured", "Loshchilov & Hutter 2019 (decoupled weight decay, arXiv 1711.05101)"),
    ("9", "proved", "any textbook"),
)


def _sources_section() -> Section:
    columns = (Column("claim"), Column("here"), Column("published"))
    about = "proved: follows from the mathematics, and checked; measured: by this study; published: by others before."
    return Section("Sources", (Paragraph(about), Table(columns, _SOURCES)), id="sources", media=Medium.FILES)


def _controls_section(result: StudyResult) -> Section:
    rows = [(_CONTROLS[check.passed], check.name, check.said) for check in result.checks]
    columns = (Column(), Column("control"), Column("found"))
    about = "Without which nothing else counts."
    return Section("Controls", (Table(columns, rows, headless=Medium.SCREEN),), about=about, id="controls")


def _parts(result: StudyResult, folder: str) -> Iterator[tuple[str, Section]]:
    """The parts for which there are results, by name: what each asks, and which pictures and tables answer it."""
    drawn, grids = draw_figures(result), tabulate(result.results)
    for key, title, lead, pictures, tables in _ORDER:
        blocks: list[Block] = []
        for figure in (drawn[name] for name in pictures if name in drawn):
            blocks += _show(figure, folder)
        for k, name in enumerate(name for name in tables if name in grids):
            laid = tuple(_blocks_of(grids[name]))
            blocks += [Details(TITLES[name], laid)] if k else laid
        if blocks:
            yield key, Section(title, (Only(Medium.COMMENT, Paragraph(lead)), *blocks), lead, key, Medium.FILES)


def _show(figure: Figure, folder: str) -> Iterator[Block]:
    keys = [(_COLOURS[class_.rpartition(" ")[2]], said) for class_, said in figure.keys]
    yield Chart(figure.draw, f"{figure.title}.", figure.caption, keys)
    if folder:
        yield Picture(f"{folder}/{figure.name}.svg", figure.title, figure.caption)


def _places(claim: Claim, parts: Sequence[tuple[str, Section]]) -> list[Section]:
    """The parts that a claim's verdict is read from."""
    wanted: Sequence[str] = _SEEN_IN.get(claim.id) or claim.blocks
    return [section for key, section in parts if key in wanted]


def describe_cost(result: StudyResult) -> str:
    """How many models, on what, in which time."""
    run, facts = result.run, result.facts
    minutes, cpu = run.seconds / 60, run.cpu_seconds / 60
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"{run.models:,} models, {minutes:.1f} minutes on the clock, {cpu:.1f} of processor time; "
        f"seed {facts['seed']}; {versions}"
    )


def _build_again_section(result: StudyResult, run: Run) -> Section:
    facts = result.facts
    split = f"{facts['train']} to train on, {facts['test']} to test on per seed"
    data: Words = (f"{facts['dataset']}, {facts['images']:,} images; {split} ", quiet(f"sha256 {facts['digest']}"))
    rows: list[tuple[str, Words]] = [
        ("run", describe_cost(result)),
        ("data", data),
        ("machine", f"{facts['machine']['os']}, {facts['device']}"),
    ]
    command = (Code(run.command_line),) if run.command_line else ()
    about = "The same seed gives the same rows; every one of them is in the JSON."
    return Section("See it again", (*command, KeyValues(rows)), about=about, id="again", media=Medium.PAGE)


def _blocks_of(grid: Grid) -> Iterator[Block]:
    columns = tuple(Column(head, right=k in grid.right) for k, head in enumerate(grid.header))
    yield Table(columns, grid.rows)
    if grid.note:
        yield Paragraph(grid.note, small=True)


# ---- the parts, in their order -------------------------------------------------------------------------

_ORDER: tuple[tuple[str, str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "widths",
        "Does it make a difference?",
        (
            "The same nets trained twice, with biases in their convolutions and without: same split, weights, batches. "
            "The head keeps its bias."
        ),
        ("accuracy-raw", "accuracy-centred", "differences", "multiplier"),
        ("widths", "widths, statistics", "multiplier"),
    ),
    (
        "contrast",
        "Where a level is the answer",
        "A control that must come out so: a net without biases is the same function at every brightness, however wide.",
        ("contrast",),
        ("contrast",),
    ),
    (
        "points",
        "Nets so small that it can be proved",
        "Dense nets of a few units on one number or on points of the plane: what no net without any bias can do.",
        ("points",),
        ("points",),
    ),
    (
        "identity",
        "Before batch norm",
        "The other control: what a norm subtracts again cannot matter. Where it does not subtract it, it does.",
        ("norms",),
        ("dead", "identity", "norms"),
    ),
    (
        "exact",
        "Why: other weights make the bias",
        (
            "Inputs with positive means imitate a bias: the more, the better, if they vary independently. "
            "What is left is r."
        ),
        ("replaceability", "centring"),
        ("replaceability", "first layer"),
    ),
    (
        "mechanism",
        "Is that how they do it?",
        (
            "If weights make the bias, then a bias must be worth more where they cannot: with filters whose weights "
            "add up to 0, and on inputs that have no mean."
        ),
        ("mechanism",),
        ("more", "imitated"),
    ),
    (
        "ablation",
        "Out of trained nets",
        (
            "Batch norm, once folded, leaves large biases behind. Left out, they are missed; moved into the weights, "
            "they are not, and that works better the wider the net."
        ),
        ("removal", "error"),
        ("ablation", "layers", "off the data"),
    ),
    (
        "recall",
        "The forget gate",
        "An LSTM that is to recall what it saw first: its forget gate must be open at the start.",
        ("recall",),
        ("recall",),
    ),
    (
        "depth",
        "Channels and depth",
        "By one yardstick: what moving the biases of a trained net into its weights costs.",
        ("depth",),
        ("depth", "deeper", "depth, trained"),
    ),
    (
        "capacity",
        "More than needed",
        "The fewest channels that do, then twice and four times their parameters, with and without weight decay.",
        ("capacity",),
        ("capacity", "capacity, all"),
    ),
    (
        "drift",
        "How a bias learns",
        "Its step is its delta times the rate, for plain SGD. A dead bias has no gradient but rounding.",
        (),
        ("update", "drift"),
    ),
    (
        "constant",
        "A neuron that is always 1",
        "A bias is the weight of one more channel that is constant, but for what padding does to that channel.",
        (),
        ("constant channel",),
    ),
    (
        "rates",
        "Is the learning rate fair?",
        (
            "If one arm liked another rate better, an effect of the bias could be one of the rate. Accuracy on a third "
            "of the training images; and, for the widths whose rate was lowered, on the test images with the other."
        ),
        (),
        ("rates", "rates, tested"),
    ),
)

_SEEN_IN: dict[str, tuple[str, ...]] = {
    "1": ("drift",),
    "3": ("exact", "mechanism"),
    "6": ("identity",),
    "9": ("constant",),
}
