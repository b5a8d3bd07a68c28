"""``report``: a report made again, in other formats; or judged again, by other limits (``--rethreshold``).

With other limits, a comparison is judged again only where its verdict followed from its score: one that failed for
another reason (a tolerance, integers that differ, another batch size), or passed by a floor, keeps its verdict.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from converter.dataclass import dataclass
from converter.errors import DataError
from converter.records import Latency, OutputCheck, Parity, Stage, Verdict, exit_code_of
from converter.records.evidence import worst_verdict
from converter.report import serialize, terminal, wording
from converter.report.content.verify import worst
from converter.report.save import FORMATS, NAMES, check_formats, prepare_folder, render_document, save_reports
from converter.report.serialize import DOCUMENTS, latency_of, parity_of, read

if TYPE_CHECKING:
    from converter.referee.verify.decisions import AgreementCounts

FAIL_RATIO, ALGEBRA_FAIL = 10.0, 10.0  # above it a runtime score fails; that many times the limit an algebra score


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that replace those of the run; None leaves one as it was."""

    max_ratio: float | None = None  # runtime: the error, of the original's own
    fail_ratio: float | None = None  # runtime: what fails outright
    max_algebra: float | None = None  # algebra and segments: of what rounding the weights explains
    max_local: float | None = None  # local: of what rounding allows in one place
    accuracy_margin: float | None = None  # decisions: 0.001 for 0.1 %
    latency_margin: float | None = None  # 0.02 for 2 %
    alpha: float | None = None  # of each bound, of decisions and of latency

    def list_set(self) -> dict[str, float]:
        """Those that are set."""
        found = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in found if value is not None}


def rejudge(document: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """The document as it would be had the run had these limits.

    Raises
    ------
    DataError
        It holds no verdict.
    """
    if document["schema"] not in serialize.DOCUMENTS:
        raise DataError(f"a {document['schema']} passes or fails nothing; make its report without --rethreshold")
    parity, latency = parity_of(document), latency_of(document)
    judged = None if parity is None else _parity(parity, limits)
    timed = None if latency is None else _latency(latency, limits)
    was, now = worst(parity, latency), worst(judged, timed)
    made = dict(document) | {"exit_code": exit_code_of(now)}
    made["rejudged"] = {"limits": limits.list_set(), "was": was.value}
    if judged is not None:
        made |= _update_verdict(document, judged)
    if timed is not None:
        made["bench"] = serialize.encode(timed)
        if judged is None and "counts" not in document:
            made |= {"verdict": timed.verdict.value, "outcome": timed.outcome, "why": timed.why}
    return _with_warning(made, limits, was)


def _update_verdict(document: Mapping[str, Any], parity: Parity) -> dict[str, Any]:
    if "counts" in document:
        return {"parity": dict(document["parity"]) | serialize.encode(parity)}
    stages = [serialize.encode(stage) for stage in parity.stages]
    return {"verdict": parity.verdict.value, "why": parity.why, "stages": stages}


def _with_warning(made: dict[str, Any], limits: Limits, was: Verdict) -> dict[str, Any]:
    set_ = limits.list_set().items()
    said = ", ".join(
        f"{n.replace('_', ' ')} {wording.percent(x) if n.endswith('margin') else f'{x:g}'}" for n, x in set_
    )
    warning = f"judged again from the stored numbers, with {said or 'no other limits'}; the run itself said {was.value}"
    if "counts" not in made:
        made["warnings"] = [*made.get("warnings", ()), warning]
    part = "bench" if "stages" not in made and not made.get("parity") else "parity"
    if made.get(part):
        made[part] = made[part] | {"warnings": [*made[part].get("warnings", ()), warning]}
    return made


def _parity(parity: Parity, limits: Limits) -> Parity:
    stages = tuple(_stage(stage, limits) for stage in parity.stages)
    if stages == parity.stages:
        return parity
    before, after = (_of_stages(found) for found in (parity.stages, stages))
    # a verdict that its stages did not explain (a level that was required) is not lifted by them
    verdict = after if parity.verdict is before else worst_verdict((parity.verdict, after), nothing=Verdict.SKIPPED)
    bad = next((stage for stage in stages if stage.status is verdict), None)
    why = parity.why if verdict is parity.verdict else "" if bad is None else f"{bad.id}: {bad.why}"
    return replace(parity, stages=stages, verdict=verdict, why=why)


def _of_stages(stages: tuple[Stage, ...]) -> Verdict:
    return worst_verdict((stage.status for stage in stages), nothing=Verdict.SKIPPED)


def _stage(stage: Stage, limits: Limits) -> Stage:
    checks = tuple(_check(stage.id, check, limits) for check in stage.outputs)
    if checks == stage.outputs:
        return stage
    status = worst_verdict((check.status for check in checks), nothing=Verdict.SKIPPED)
    if {c.status for c in stage.outputs}.isdisjoint({stage.status}):
        status = stage.status  # what the stage says was never what its outputs say
    worst = next((check for check in checks if check.status is status), checks[0])
    why = f"{worst.name}: {worst.why}" if worst.why else stage.why if status is stage.status else ""
    return replace(stage, outputs=checks, status=status, why=why)


def _check(stage: str, check: OutputCheck, limits: Limits) -> OutputCheck:
    if stage in wording.DECIDES:
        return _recount(check, limits.accuracy_margin, limits.alpha)
    wanted = _find_limits(stage, check, limits)
    if wanted is None or check.score is None or check.limit is None or not math.isfinite(check.score):
        return check
    if (check.status is Verdict.PASS) != (check.score <= check.limit):
        return check
    limit, fails = wanted
    status = Verdict.PASS if check.score <= limit else Verdict.FAIL if check.score > fails else Verdict.INCONCLUSIVE
    why = "" if status is Verdict.PASS else f"its score is {check.score:.3g}, the limit {limit:g}"
    return replace(check, status=status, limit=limit, why=check.why if status is check.status else why)


def _recount(found: OutputCheck, margin: float | None, alpha: float | None) -> OutputCheck:
    """One output's decisions by another margin or level, from the counts in the document; as it was without these."""
    from converter.referee.verify.decisions import decide, decide_by_interval
    from converter.referee.verify.options import DecisionRequest

    detail = found.detail
    if (margin is None and alpha is None) or "n" not in detail or "margin" not in detail:
        return found
    ask = DecisionRequest(
        margin=detail["margin"] if margin is None else margin, alpha=detail["alpha"] if alpha is None else alpha
    )
    if "k" in detail:
        again = decide(found.name, _read_counts(detail), ask)
        return replace(again, detail=detail | again.detail)
    if alpha is not None or "lower" not in detail or "upper" not in detail or found.score is None:
        return found  # a bootstrap at another level needs the samples
    bounds = (float(detail["lower"]), float(detail["upper"]))
    return decide_by_interval(
        found.name,
        found.score,
        bounds,
        ask,
        detail | {"margin": ask.margin, "alpha": ask.alpha},
        f"changes by {found.score:+.3g}",
        "give more inputs",
    )


def _read_counts(detail: dict[str, Any]) -> AgreementCounts:
    from converter.referee.verify.decisions import AgreementCounts

    n, labelled = int(detail["n"]), "gained" in detail
    return AgreementCounts(
        rows=n,
        differ=float(detail["k"]),
        maps=detail.get("metric") == "pixel_disagreement",
        right_a=n * float(detail.get("accuracy_a", 0.0)),
        right_b=n * float(detail.get("accuracy_b", 0.0)),
        gained=int(detail.get("gained", 0)),
        lost=int(detail.get("lost", 0)),
        labelled=n if labelled else 0,
    )


def _find_limits(stage: str, check: OutputCheck, limits: Limits) -> tuple[float, float] | None:
    """The new limit, and what fails outright; None where none is given, or the score is no such measure."""
    local, algebra, ratio = limits.max_local, limits.max_algebra, limits.max_ratio
    if stage == "local":
        return None if local is None else (local, local)
    if "e_pert" in check.detail or stage == "algebra":
        return None if algebra is None else (algebra, ALGEBRA_FAIL * algebra)
    if "error_after" not in check.detail or (ratio is None and limits.fail_ratio is None):
        return None
    limit = ratio if ratio is not None else check.limit or 0.0
    return limit, max(limit, FAIL_RATIO if limits.fail_ratio is None else limits.fail_ratio)


def _latency(latency: Latency, limits: Limits) -> Latency:
    if limits.latency_margin is None and limits.alpha is None:
        return latency
    from converter.bench import design as gates
    from converter.stats import estimate_interval

    margin = latency.margin if limits.latency_margin is None else limits.latency_margin
    low, high = math.log(latency.low) if latency.low > 0 else -math.inf, math.log(latency.high)
    counted = [block for block in latency.blocks if not block.discarded]
    if limits.alpha is not None and len(counted) > 1:
        found = estimate_interval([b.log_ratio for b in counted], [b.session for b in counted], limits.alpha)
        low, high = found.low, found.high
    gate = gates.parse_gate(latency.gate)
    noise = _noise(latency, margin)
    sure = gates.widen_interval(low, high, noise)
    outcome, verdict = gates.conclude_outcome(*sure, margin, gate), gates.judge_gate(*sure, margin, gate)
    why = f"{latency.ratio:.3f}x [{math.exp(low):.3f}, {math.exp(min(high, 700.0)):.3f}], margin {100 * margin:g} %"
    if noise and verdict is Verdict.INCONCLUSIVE:
        outcome, why = "INCONCLUSIVE", f"{why}: machine too noisy for this margin"
    said = (math.exp(low), math.exp(min(high, 700.0)))  # above, exp overflows
    return replace(latency, low=said[0], high=said[1], margin=margin, outcome=outcome, verdict=verdict, why=why)


def _noise(latency: Latency, margin: float) -> float:
    """How far A beside itself may be off, as a log; 0 if that is little for the margin, or there was no control."""
    ratio, half = latency.aa.get("ratio"), latency.aa.get("half_width")
    if not isinstance(ratio, float | int) or not isinstance(half, float | int) or ratio <= 0:
        return math.inf if latency.aa and latency.outcome == "INCONCLUSIVE" else 0.0
    off, limit = abs(math.log(ratio)), math.log1p(margin)
    return 0.0 if off <= limit / 2 and half <= limit else off + half


def run(document: Path, folder: Path | None, formats: Sequence[str], *, force: bool, **limits: Any) -> int:
    """The command: read the document, write or print it, and return the exit code."""
    import click

    if not folder and len(formats) > 1:
        raise click.UsageError("several --formats need a folder: give --output.")
    with _blame_document(document):
        return _make_again(document, folder, formats, force=force, **limits)


@contextmanager
def _blame_document(document: Path) -> Iterator[None]:
    """What a document's measurements, which no schema holds, make of their drawing is the document's own fault."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as exc:
        why = f"{type(exc).__name__}: {' '.join(str(exc).split())[:100]}"
        raise DataError(
            f"{document}: no whole report: what it measured cannot be shown ({why}); make it again"
        ) from exc


def _make_again(document: Path, folder: Path | None, formats: Sequence[str], *, force: bool, **limits: Any) -> int:
    made = read_report(document, formats, **limits)
    forms = formats or FORMATS
    same = _is_of_one_run(made.document, folder)
    prepare_folder(folder, [NAMES[form] for form in forms], force=force or same)
    kept = [document.name] if limits["rethreshold"] else NAMES.values()  # by other limits, the other forms are not so
    save_reports(made.document, folder, forms, kept if same else ())
    if not folder:
        terminal.say(_render(made, formats[0] if formats else "text", sys.stdout))
    return int(made.exit_code)


def _is_of_one_run(document: Mapping[str, Any], folder: Path | None) -> bool:
    """Whether the report that is in the folder tells of the same run, perhaps by other limits."""
    earlier = folder and folder / NAMES["json"]
    if earlier is None or not earlier.is_file():
        return False
    with suppress(DataError):
        found = read(earlier)
        return all(found.get(key) == document.get(key) for key in ("schema", "tool", "models", "inputs", "repro"))
    return False


@dataclass(frozen=True, slots=True)
class ReadReport:
    """A document, and with what the command ends."""

    document: dict[str, Any]
    exit_code: int  # 0, or that of the new verdict
    verbose: bool = False


def read_report(
    path: Path,
    formats: Sequence[str] = (),
    *,
    rethreshold: bool,
    verbose: bool = False,
    margin: float | None = None,
    **limits: Any,
) -> ReadReport:
    """Read the document, and judge it again if that is asked for.

    Raises
    ------
    DataError
        The file is no document of a known schema, or the limits do not fit it.
    """
    document = read(path)
    if document["schema"] not in DOCUMENTS:
        check_formats(formats)
    given = {name: value for name, value in limits.items() if value is not None}
    if margin is not None:
        given.setdefault(_margin(path, document), margin)
    if given and not rethreshold:
        raise DataError(f"{path}: a limit was given, but not --rethreshold; give both, or neither")
    if not rethreshold:
        return ReadReport(document, 0, verbose)

    judged = rejudge(document, Limits(**given))
    return ReadReport(judged, judged["exit_code"], verbose)


def _margin(path: Path, document: Mapping[str, Any]) -> str:
    """Which margin ``--margin`` means: that of what the document holds."""
    latency = document.get("bench") is not None
    stages = (document.get("parity") or document).get("stages") or ()
    decision = any(stage["id"] in wording.DECIDES for stage in stages)
    if latency == decision:
        what = "both" if latency else "neither"
        raise DataError(f"{path}: holds {what} of decisions and latency; give --accuracy-margin or --latency-margin")
    return "latency_margin" if latency else "accuracy_margin"


def _render(report: ReadReport, form: str, stream: TextIO) -> str:
    """One report as text for a stream."""
    if form == "text":
        from converter.report.documents import report_of
        from converter.report.render.text import render_text

        return render_text(report_of(report.document), stream, verbose=report.verbose)
    return render_document(report.document, form)
