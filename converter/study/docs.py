"""Write docs/study.md, its figures, and the sentences that other documents take from it, from docs/study/report.json.

``python -m converter.study.docs [--check]``. Nothing on that page is written by hand: what it says of the method stands
here, all numbers come from the report, and what the report concludes is concluded again from its rows. README.md and
docs/ablate.md hold sentences between markers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.records.study import StudyResult
from converter.report.content.study import QUESTION, study_report
from converter.report.content.study_figures import draw_figures
from converter.report.docs import ROOT, fill
from converter.report.documents import run_of
from converter.report.render.markdown import render_markdown
from converter.report.serialize import dumps, encode, study_of
from converter.study.answer import describe_zeroing, list_advice, summarize_study
from converter.study.run import StudyRun

PAGE, FOLDER = Path("docs/study.md"), Path("docs/study")
ANSWER = Path("converter/report/templates/study-answer.json")  # what `biasopt ask` shows beside a user's net
QUOTING = (Path("README.md"), Path("docs/ablate.md"))
_HEAD = """# biasopt study

```bash
pip install '.[torch]'                           # in the repository's folder
biasopt study                                    # digits of scikit-learn, no network, {minutes} minutes of one core
                                                 # (with fewer than two free ones give --max-time 3600)
biasopt study --quick                            # in about a minute: few widths, and the claims that they can judge
biasopt study --out rows --report report         # keep the rows, and go on with them next time; HTML, Markdown, JSON
biasopt study --dataset cifar10 --data-dir D --preset cifar   # files that are already there, 16 pixels
biasopt study --dataset synthetic --preset gpu --device cuda  # 32 pixels, nets of 8 layers, residual ones among them
```

An old question, and what is answered to it: *does the bias in a convolutional layer make a difference to the test
accuracy?* Here small nets are trained with biases and without, and each of the answers gets a verdict that is
derived from the results. If a control fails (something that is certain and does not show), the run is invalid and
the exit code is 1; it is 4 where the time did not do for the question.

**How.** A seed is a split of the data, initial weights and an order of batches; both arms of a seed share all
three, and their difference is what is judged. All nets of one shape are trained as one net, their channels side by
side in groups, which gives the same numbers as one by one. The same `--seed` gives the same rows on the same CPU
and versions.

**How many.** Each part has a fixed number of seeds, whatever the machine. A part that did not get all of them is
*not run*: it says nothing, and `--out` lets another run go on with it. Nobody can add seeds until a verdict
pleases: a folder is for one number of them.

**How it is judged.** *Equivalent*: the 90 % interval of the mean difference lies within the margin (two one-sided
tests, `--accuracy-margin`). *Different*: a t-test says so after Holm's correction over its table. *Inconclusive*:
neither, with the number of seeds that would tell. "From w channels on" is tested from the widest down to the first
failure, which needs no correction. What is claimed of small nets, of depth and of the mechanism is judged by
contrasts that were fixed before the rows were made. Solved or not is compared by Fisher's test, never by means.

"""


def conclude(document: Mapping[str, Any]) -> dict[str, Any]:
    """A study's document with all that follows from its rows and facts made anew."""
    before = study_of(document)
    run = before.run
    done = StudyRun(
        before.rows, run.jobs, run.left_out, run.not_run, run.resumed, run.seconds, run.cpu_seconds, before.facts
    )
    made = summarize_study(done, before.margin, StudyResult, quick=run.quick, preset=run.preset)
    return {**document, **encode(made), "exit_code": made.exit_code}


_REMOVED = {"zero": "zeroed", "head": "zeroed, head corrected", "sequential": "imitated, one after the other"}


def _tabulate_removal(nets: Sequence[Mapping[str, Any]]) -> str:
    """What folded nets are worth without their biases, and how replaceable these were, as Markdown."""
    heads = ("channels", "nets", "original", *_REMOVED.values(), "r of each layer", "mean \\|b\\|/sd")
    lines = [f"| {' | '.join(heads)} |", "|" + "--:|" * (3 + len(_REMOVED)) + "---|---|"]
    for net in nets:
        if net["norm"] != "batch":
            continue
        made = net["methods"]
        changed = [f"{made[m]['accuracy']['mean']:.1f} ({made[m]['error']['mean']:.2g})" for m in _REMOVED]
        layers = (", ".join(f"{layer[key]:.{n}f}" for layer in net["layers"]) for key, n in (("r", 3), ("size", 2)))
        first = (f"{net['width']}", f"{net['n']}", f"{made['original']['accuracy']['mean']:.1f}")
        lines.append(f"| {' | '.join((*first, *changed, *layers))} |")
    return "\n".join(lines)


def generated(root: Path = ROOT) -> dict[Path, str]:
    """Every generated file and what it should hold."""
    path = root / FOLDER / "report.json"
    document = conclude(json.loads(path.read_text(encoding="utf-8")))
    result = study_of(document)
    whole = render_markdown(study_report(result, run_of(document), FOLDER.name))
    head = _HEAD.format(minutes=round(result.run.cpu_seconds / 60))
    page = f"{head}## {QUESTION}\n{whole.partition(chr(10))[2]}"
    quoted = {
        "study": f"{result.verdict.sentence} {result.verdict.more}",
        "zeroing": describe_zeroing(result.results["ablation"]["zeroing"]),
        "removal": _tabulate_removal(result.results["ablation"]["nets"]),
    }
    answer = {
        "sentence": result.verdict.sentence,
        "more": result.verdict.more,
        "advice": list_advice(result.results, result.margin),
    }
    made = {
        path: dumps(document),
        root / PAGE: page,
        root / ANSWER: json.dumps(answer, indent=1, ensure_ascii=False) + "\n",
    }
    for path in QUOTING:
        text = (root / path).read_text(encoding="utf-8")
        for name, said in quoted.items():
            if f"<!-- BEGIN:{name} -->" in text:
                text = fill(text, name, said)
        made[root / path] = text
    drawn = {root / FOLDER / f"{name}.svg": figure.render_file() for name, figure in draw_figures(result).items()}
    return made | drawn


def main(argv: list[str]) -> int:
    """Write them, or with ``--check`` say which are out of date; figures that are no more go."""
    wanted = generated()
    stale = [path for path in (ROOT / FOLDER).glob("*.svg") if path not in wanted]
    old = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in argv:
        for path in (*old, *stale):
            sys.stderr.write(f"{path} is out of date; run python -m converter.study.docs\n")
        return 1 if old or stale else 0
    for path in old:
        path.write_text(wanted[path], encoding="utf-8", newline="\n")
    for path in stale:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
