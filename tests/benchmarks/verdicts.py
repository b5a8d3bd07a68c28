"""How often is a verdict on two models wrong? Pairs that are the same by construction, and pairs that are not.

``python -m tests.benchmarks.verdicts [--seeds 0-9] [--nets a,b] [--changes x,y] [--jobs N] [--kept F] [--write]`` makes
every change of `verdict_same` and every bug of `verdict_bugs` to the nets of `verdict_nets`, to models/ and to the
folder that BIASOPT_CORPUS names, adds the pairs of `verdict_traps`, and asks `biasopt verify` and three usual
tolerances about each pair. It prints what was judged wrongly, and the table that ``--write`` puts into docs/verify.md;
exit code 1 where `verify` was wrong. Tools that are not installed are left out, and said. ``--kept F`` adds a line of
JSON to F for every answer and takes what is there already from it: so the study can be run in pieces.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from converter.records import Verdict
from converter.report.docs import fill
from converter.report.render.markdown import table
from tests.benchmarks.verdict_bugs import BUGS, UNREACHED
from tests.benchmarks.verdict_nets import NETS
from tests.benchmarks.verdict_same import list_changes, number
from tests.benchmarks.verdict_traps import TRAPS

TRAP = "trap"
ROOT = Path(__file__).resolve().parents[2]
BASE_SEED = 7
# Of real models those that a verdict does not take long for.
REAL = ("basic_pitch", "dtln_model_1", "mesonet", "micro_kws_fp32", "micro_kws_qdq", "ultraface_slim320", "yunet_n_320")
_OF_REAL = ("biasopt", "onnxruntime basic", "onnxruntime extended", "version converter", "renamed", "reordered")
# onnxscript 0.7 leaves out what is added in front of a logarithm: where that is 1e-10, silence becomes -inf.
_NOT_SAME = {("basic_pitch", "onnxscript")}
_TOOLS = ("onnxslim", "onnxsim", "onnxoptimizer", "onnxscript")
METHODS = ("biasopt verify", "np.allclose", "Polygraphy", "cosine")


@dataclass(frozen=True, slots=True)
class Pair:
    """What is compared: a net, what was done to it, and whether that leaves it the same."""

    net: str
    change: str
    same: bool

    def __str__(self) -> str:
        return f"{self.net}: {self.change}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said of one pair with one seed."""

    pair: Pair
    seed: int
    said: dict[str, str]
    why: str
    seconds: float


def find_real() -> dict[str, Path]:
    """The models of models/ and of the corpus."""
    found = {p.stem: p for p in sorted((ROOT / "models").glob("*.onnx"))}
    if corpus := os.environ.get("BIASOPT_CORPUS"):
        found |= {name: path for name in REAL if (path := Path(corpus) / f"{name}.onnx").exists()}
    return found


def load(net: str) -> ModelProto:
    return NETS[net](BASE_SEED) if net in NETS else onnx.load(find_real()[net])


def build(pair: Pair) -> tuple[ModelProto, ModelProto] | None:
    """The two models; None where the net has nothing to be changed so."""
    if pair.net == TRAP:
        return TRAPS[pair.change].make()
    first = load(pair.net)
    if pair.change.startswith("numbered"):
        first = number(first)
    change = (list_changes()[0] | BUGS)[pair.change]
    second = change(copy.deepcopy(first))
    return None if second is None else (first, second)


def list_pairs(nets: Sequence[str], changes: Sequence[str]) -> Iterator[Pair]:
    """Every pair that may be; some cannot be built."""
    there, _ = list_changes()
    for net in (*NETS, *find_real()):
        real = net not in NETS
        for same, names in ((True, there), (False, {} if real else BUGS)):
            for change in names:
                if real and change not in (*_OF_REAL, *_TOOLS):
                    continue
                if (not nets or net in nets) and (not changes or change in changes):
                    yield Pair(net, change, same and (net, change) not in _NOT_SAME)
    if not nets or TRAP in nets:
        yield from (Pair(TRAP, name, False) for name in TRAPS if not changes or name in changes)


def judge(pair: Pair, seed: int) -> Answer | None:
    """What `verify` and the usual tolerances say."""
    from converter.commands.verify import judge as ask
    from converter.records.options import VerifyOptions

    models = build(pair)
    if models is None:
        return None
    a, b = models
    begun = time.process_time()
    parity = ask(a, b, VerifyOptions(seed=seed))
    taken = time.process_time() - begun
    said = {METHODS[0]: parity.verdict.value} | _ask_others(a, b, seed)
    return Answer(pair, seed, said, parity.why, taken)


def _ask_others(a: ModelProto, b: ModelProto, seed: int) -> dict[str, str]:
    """Both models on onnxruntime with two random inputs, as a script would: does each pair of outputs agree?"""
    try:
        left, right = (_run(m, a, seed) for m in (a, b))
    except Exception:  # whatever stops them
        return dict.fromkeys(METHODS[1:], Verdict.FAIL.value)
    rules: dict[str, Callable[[Any, Any], bool]] = {
        "np.allclose": lambda x, y: x.shape == y.shape and bool(np.allclose(x, y, equal_nan=True)),
        "Polygraphy": _within_polygraphy,
        "cosine": _has_cosine,
    }
    return {
        name: (Verdict.PASS if len(left) == len(right) and all(map(rule, left, right)) else Verdict.FAIL).value
        for name, rule in rules.items()
    }


def _run(model: ModelProto, like: ModelProto, seed: int) -> list[Any]:
    import onnxruntime as ort

    from converter.referee.proto.random_inputs import guess_shapes, make_feeds

    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[Any] = []
    for k in range(2):
        for guess in guess_shapes(like, None, 1):
            try:
                found += session.run(None, make_feeds(like, guess, seed + k))
                break
            except Exception:  # a size that the model does not take
                continue
    if not found:
        raise ValueError("no size is taken")
    return found


def _within_polygraphy(x: Any, y: Any) -> bool:
    """Polygraphy's elementwise default: an absolute or a relative difference of at most 1e-5."""
    if x.shape != y.shape:
        return False
    x, y = x.astype(np.float64), y.astype(np.float64)
    with np.errstate(all="ignore"):
        apart = np.abs(x - y)
        return bool(np.all((apart <= 1e-5) | (apart / np.abs(y) <= 1e-5) | (np.isnan(x) & np.isnan(y))))


def _has_cosine(x: Any, y: Any) -> bool:
    x, y = x.astype(np.float64).reshape(-1), y.astype(np.float64).reshape(-1)
    size = np.linalg.norm(x) * np.linalg.norm(y) if x.shape == y.shape else 0.0
    return bool(size and x @ y / size >= 0.999) or bool(np.array_equal(x, y))


def is_wrong(answer: Answer, method: str = METHODS[0]) -> bool:
    """FAIL of what is the same, PASS of what is not."""
    return answer.said[method] == (Verdict.FAIL if answer.pair.same else Verdict.PASS).value


def _is_hidden(pair: Pair) -> bool:
    """Whether no usual input tells the two apart."""
    return pair.net == TRAP or pair.change in UNREACHED


def _count(answers: Sequence[Answer], method: str) -> tuple[str, ...]:
    same = [a for a in answers if a.pair.same]
    bugs = [a for a in answers if not a.pair.same]
    unseen = [a for a in bugs if _is_hidden(a.pair)]
    doubts = sum(a.said[method] == Verdict.INCONCLUSIVE.value for a in same)
    doubted = sum(a.said[method] == Verdict.INCONCLUSIVE.value for a in bugs)
    wrong = [sum(is_wrong(a, method) for a in group) for group in (same, bugs, unseen)]
    return method, *(str(n) for n in (wrong[0], doubts, wrong[1], wrong[2], doubted))


def markdown(answers: Sequence[Answer], missing: Sequence[str]) -> str:
    """The table of docs/verify.md."""
    head = ("", "same: wrong FAIL", "same: undecided", "different: wrong PASS", "of those hard to reach", "undecided")
    rows = [_count(answers, method) for method in METHODS]
    pairs = {a.pair for a in answers}
    same, unseen = sum(p.same for p in pairs), sum(map(_is_hidden, pairs))
    seeds = sorted({a.seed for a in answers})
    note = f"{same} pairs that are the same, {len(pairs) - same} that are not ({unseen} of them hard to reach)"
    note += f", each with the seeds {seeds[0]} to {seeds[-1]}." if len(seeds) > 1 else f", seed {seeds[0]}."
    if missing:
        note += f" Without {', '.join(missing)}, not installed."
    return table(head, rows, right=(1, 2, 3, 4, 5)) + f"\n\n{note} (`python -m tests.benchmarks.verdicts`)"


def _report(answers: Sequence[Answer], write: Callable[[str], Any]) -> bool:
    """What was judged wrongly or not the same with every seed; whether `verify` was right."""
    wrong = [a for a in answers if is_wrong(a)]
    doubts = [a for a in answers if a.pair.same and a.said[METHODS[0]] == Verdict.INCONCLUSIVE.value]
    for what, found in (("WRONG", wrong), ("doubted", doubts)):
        for a in found:
            write(f"{what}: {a.pair} (seed {a.seed}): {a.said[METHODS[0]]}: {a.why[:200]}\n")
    verdicts: dict[Pair, Counter[str]] = {}
    for a in answers:
        verdicts.setdefault(a.pair, Counter())[a.said[METHODS[0]]] += 1
    for pair, said in verdicts.items():
        if len(said) > 1:
            write(f"seeds differ: {pair}: {dict(said)}\n")
    slow = sorted(answers, key=lambda a: -a.seconds)[:3]
    write("slowest: " + ", ".join(f"{a.pair} {a.seconds:.1f} s" for a in slow) + "\n")
    return not wrong and all(len(said) == 1 for said in verdicts.values())


def _read_kept(path: Path | None) -> list[Answer]:
    """The answers of earlier runs."""
    lines = path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else []
    return [Answer(Pair(**row.pop("pair")), **row) for row in map(json.loads, lines)]


def _judge_all(pair: Pair, seeds: Sequence[int], known: frozenset[tuple[Pair, int]]) -> list[Answer] | str:
    found = []
    try:
        for seed in seeds:
            if (pair, seed) in known:
                continue
            answer = judge(pair, seed)
            if answer is None:
                return []
            found.append(answer)
    except Exception as exc:  # a tool that cannot do it is no answer
        return f"{pair}: left out: {type(exc).__name__}: {' '.join(str(exc).split())[:150]}"
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0", help="one, or first-last")
    parser.add_argument("--nets", default="", help="names, with commas between")
    parser.add_argument("--changes", default="", help="names, with commas between")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--kept", type=Path, help="a file of answers, read and added to")
    parser.add_argument("--write", action="store_true", help="the table into docs/verify.md")
    asked = parser.parse_args(argv)
    first, _, last = asked.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    nets, changes = ([n.strip() for n in text.split(",") if n.strip()] for text in (asked.nets, asked.changes))
    pairs = list(list_pairs(nets, changes))
    answers = [a for a in _read_kept(asked.kept) if a.seed in seeds and a.pair in pairs]
    known = frozenset((a.pair, a.seed) for a in answers)
    with ProcessPoolExecutor(asked.jobs) as pool:
        for found in pool.map(partial(_judge_all, seeds=seeds, known=known), pairs):
            if isinstance(found, str):
                sys.stderr.write(found + "\n")
                continue
            answers += found
            if asked.kept is not None:
                with asked.kept.open("a", encoding="utf-8") as out:
                    out.writelines(json.dumps(asdict(a)) + "\n" for a in found)
    missing = list_changes()[1]
    made = markdown(answers, missing)
    right = _report(answers, sys.stdout.write)
    sys.stdout.write(f"\n{made}\n")
    if asked.write:
        page = ROOT / "docs" / "verify.md"
        page.write_text(fill(page.read_text(encoding="utf-8"), "verdicts", made), encoding="utf-8", newline="\n")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
