"""Mutated models, run through the commands: ``python -m tests.hostile.mutate N SEED [--ops ...] [--keep DIR]``.

Before them come the reproducers of earlier attacks, as they are and changed once more, where BIASOPT_REPORTS or
BIASOPT_CORPUS leads to them. Each of N files is a small valid model with a few changes, of bytes or of fields, and goes
through every operation in a worker process with a time and a memory limit. What counts as right: exit 0, 3 or 4 (1
where two models are compared), one line of error at most, and no output beside an error. BAD is a traceback (70), a
worker that died or hung, 2 GB of memory, a control character, a file left behind, a fold that fails its proof, or a
folded model whose outputs are others in onnxruntime. The numbers follow from N and SEED. Exit code 1 after BAD.
With ``--log FILE`` the counts are added to it, a line of JSON; ``--write`` makes the table of docs/reliability.md.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import re
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from google.protobuf.message import DecodeError, Message
from onnx import ModelProto, numpy_helper

SECONDS = 60.0  # of one operation
MEMORY = 6 << 30  # bytes of address space of a worker
RESIDENT = 2 << 30  # bytes that a command and its children may hold
ROOT = Path(__file__).resolve().parents[2]
LOG = Path(__file__).with_name("fuzz.jsonl")
_END = ("--timeout", "30")  # of a model that never ends
_COMPARE = "compare"  # no command: run both, with nobody's proof between
_MAY_FAIL = ("versus",)  # operations in which exit 1 is right
OPERATIONS: dict[str, Callable[[str, str], list[list[str]]]] = {
    "inspect": lambda m, d: [["inspect", m]],
    "fold": lambda m, d: [["fold", m, "-o", f"{d}/out.onnx", "--no-verify", "--force"]],
    "prove": lambda m, d: [["fold", m, "-o", f"{d}/out.onnx", "--force", "--quick", "--max-time", "5", *_END]],
    "verify": lambda m, d: [["verify", m, m, *_END]],
    "versus": lambda m, d: [["verify", f"{d}/valid.onnx", m, "--max-time", "5", *_END]],
    "certify": lambda m, d: [
        ["fold", m, "-o", f"{d}/out.onnx", "--no-verify", "--force", "--certificate", f"{d}/cert.json"],
        [_COMPARE, m, f"{d}/out.onnx"],
    ],
}

_TEXTS = [
    """<ir_version: 9, opset_import: ["" : 17]> g (float[2,3,8,8] x) => (float[2,4,6,6] y) {
      c = Conv(x, w, b)
      y = BatchNormalization<epsilon = 0.001>(c, s, o, m, v)
    }""",
    """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3] x) => (float[N,4] y) {
      h = Gemm<transB = 1, alpha = 1.0>(x, w2, b)
      r = Relu(h)
      n = BatchNormalization(r, s, o, m, v)
      t = Transpose<perm = [1, 0]>(n)
      y = Transpose<perm = [1, 0]>(t)
    }""",
    """<ir_version: 8, opset_import: ["" : 13]> g (float[2,6,3] x) => (float[2,6,4] y, float[2,6,4] z) {
      p = MatMul(x, w3)
      a = Add(p, b)
      m2 = ReduceMean<axes = [2], keepdims = 1>(a)
      d = Sub(a, m2)
      y = Softmax<axis = -1>(d)
      k = Constant<value = float[1] {2.5}>()
      q = Mul(a, k)
      z = Add(q, b)
    }""",
    """<ir_version: 8, opset_import: ["" : 14]> g (float[3,2,5] x) => (float[3,1,2,4] y) {
      y, h, c = LSTM<hidden_size = 4>(x, lw, lr, lb)
    }""",
    """<ir_version: 9, opset_import: ["" : 16]> g (float[2,3,8,8] x, bool f) => (float[2,4,6,6] y) {
      c = Conv<kernel_shape = [3, 3]>(x, w, b)
      y = If (f) <
        then_branch = t () => (float[2,4,6,6] a) { a = BatchNormalization(c, s, o, m, v) },
        else_branch = e () => (float[2,4,6,6] a2) { a2 = Identity(c) }
      >
    }""",
    """<ir_version: 9, opset_import: ["" : 17, "d" : 1]> g (float[2,3,8,8] x) => (float[2,4,6,6] y) {
      y = d.block(x, w, b, s, o, m, v)
    }
    <domain: "d", opset_import: ["" : 17]> block (x, w, b, s, o, m, v) => (y) {
      c = Conv(x, w, b)
      y = BatchNormalization(c, s, o, m, v)
    }""",
    """<ir_version: 9, opset_import: ["" : 17]> g (float[2,3,8,8] x) => (float[2,4,36] y) {
      c = Conv(x, w, b)
      sh = Shape(c)
      two = Constant<value_ints = [0, 1]>()
      h = Gather<axis = 0>(sh, two)
      l = Constant<value_ints = [-1]>()
      n = Concat<axis = 0>(h, l)
      r = Reshape(c, n)
      k = Unsqueeze(s, l)
      y = Mul(r, k)
    }""",
    """<ir_version: 9, opset_import: ["" : 17]> g (float[2,4,6] x, int64[2,6] i) => (float[2,4,6] y, float[2,6,3] e) {
      t = Transpose<perm = [0, 2, 1]>(x)
      q = LayerNormalization<axis = -1>(t, s, o)
      a = Add(q, b)
      z = InstanceNormalization(x, s, o)
      u = Transpose<perm = [0, 2, 1]>(a)
      y = Add(u, z)
      e = Gather(w2, i)
    }""",
    """<ir_version: 9, opset_import: ["" : 17]> g (float[2,3,8,8] x) => (float[2,4,6,6] y) {
      xs = Constant<value_float = 0.02>()
      zp = Constant<value = int8 {0}>()
      xq = QuantizeLinear(x, xs, zp)
      xd = DequantizeLinear(xq, xs, zp)
      c = Conv(xd, w, b)
      p = PRelu(c, pk)
      y = Clip(p)
    }""",
]


def valid_models() -> list[bytes]:
    """Small models that between them reach most of the passes and of the referee."""
    rng = np.random.default_rng(7)
    shapes = {
        "w": (4, 3, 3, 3), "w2": (4, 3), "w3": (3, 4), "pk": (4, 1, 1),
        "lw": (1, 16, 5), "lr": (1, 16, 4), "lb": (1, 32),
    } | dict.fromkeys("bsomv", (4,))  # fmt: skip
    made = []
    for text in _TEXTS:
        model = onnx.parser.parse_model(text)
        used = {name for node in model.graph.node for name in node.input}
        used |= {n for node in model.graph.node for a in node.attribute for inner in a.g.node for n in inner.input}
        for name in sorted(used & shapes.keys()):
            values = rng.uniform(0.5, 2.0, shapes[name]).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(values, name))
        made.append(model.SerializeToString())
    return made


def find_reproducers() -> list[Path]:
    """Files of earlier attacks, that are handed on and not in the repository; none where they are not there.

    In ``hostile`` of the folder that BIASOPT_REPORTS names, else of ``reports`` beside the one of BIASOPT_CORPUS.
    """
    corpus, named = os.environ.get("BIASOPT_CORPUS"), os.environ.get("BIASOPT_REPORTS")
    folder = Path(named) if named else Path(corpus).parent / "reports" if corpus else None
    return sorted((folder / "hostile").iterdir()) if folder and (folder / "hostile").is_dir() else []


# -- mutations -------------------------------------------------------------------------------

_NUMBERS = (0, 1, -1, 2, 3, 7, 64, 255, 2**31 - 1, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63))
_WORDS = ("", "x", "y", "w", "\x00", "Conv", "BatchNormalization", "Loop", "a" * 300, "../x", "é", "::error::", "1e999")


def mutate(valid: bytes, rng: np.random.Generator) -> bytes:
    """The model with one to three changes."""
    data = valid
    for _ in range(int(rng.integers(1, 4))):
        with contextlib.suppress(DecodeError, ValueError, TypeError):
            data = _of_fields(data, rng) if rng.random() < 0.6 else _of_bytes(data, rng)
    return data


def _of_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    raw = bytearray(data)
    at = int(rng.integers(0, max(1, len(raw))))
    n = int(rng.integers(1, 9))
    match int(rng.integers(0, 6)):
        case 0:
            raw[at : at + 1] = bytes([int(rng.integers(0, 256))])
        case 1:
            del raw[at : at + n]
        case 2:
            raw[at:at] = rng.bytes(n)
        case 3:
            raw[at:at] = raw[at : at + 4 * n]
        case 4:
            raw[at : at + n] = b"\xff" * n
        case _:
            del raw[at:]
    return bytes(raw)


def _of_fields(data: bytes, rng: np.random.Generator) -> bytes:
    model = ModelProto.FromString(data)
    messages = list(_messages(model))
    for _ in range(20):
        message = messages[int(rng.integers(0, len(messages)))]
        fields = list(message.DESCRIPTOR.fields)
        chosen = fields[int(rng.integers(0, len(fields)))]
        if chosen.name in ("doc_string", "metadata_props", "raw_data") and rng.random() < 0.7:
            continue
        _change(message, chosen, rng)
        break
    return model.SerializeToString()


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for inner in value if _is_repeated(descriptor) else [value]:
                yield from _messages(inner)


def _is_repeated(descriptor: Any) -> bool:
    return bool(descriptor.is_repeated if hasattr(descriptor, "is_repeated") else descriptor.label == 3)


def _change(message: Any, descriptor: Any, rng: np.random.Generator) -> None:
    name, repeated = descriptor.name, _is_repeated(descriptor)
    if rng.random() < 0.2:
        message.ClearField(name)
        return
    held = getattr(message, name)
    if descriptor.message_type is not None:
        if not repeated:
            held.SetInParent()
        elif len(held) and rng.random() < 0.8:
            at = int(rng.integers(0, len(held)))
            if rng.random() < 0.5:
                del held[at]
            else:
                held.append(held[at])
        else:
            held.add()
        return
    value = _value(descriptor, rng)
    if not repeated:
        setattr(message, name, value)
    elif len(held) and rng.random() < 0.6:
        at = int(rng.integers(0, len(held)))
        if rng.random() < 0.5:
            held[at] = value
        else:
            del held[at]
    else:
        held.append(value)


def _value(descriptor: Any, rng: np.random.Generator) -> Any:
    kind = descriptor.cpp_type
    if kind in (descriptor.CPPTYPE_INT32, descriptor.CPPTYPE_INT64):
        return int(_NUMBERS[int(rng.integers(0, len(_NUMBERS)))])
    if kind in (descriptor.CPPTYPE_UINT32, descriptor.CPPTYPE_UINT64):
        return abs(int(_NUMBERS[int(rng.integers(0, len(_NUMBERS)))]))
    if kind in (descriptor.CPPTYPE_FLOAT, descriptor.CPPTYPE_DOUBLE):
        return float(rng.choice([0.0, -1.0, 1e30, np.inf, np.nan, 1e-30]))
    if kind == descriptor.CPPTYPE_ENUM:
        values = descriptor.enum_type.values
        return values[int(rng.integers(0, len(values)))].number
    word = _WORDS[int(rng.integers(0, len(_WORDS)))]
    return word.encode() if descriptor.type == descriptor.TYPE_BYTES else word


# -- workers ---------------------------------------------------------------------------------

_DONE = "@@done "
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def work() -> None:
    """Run the commands that come in, a line each; answer with the exit code, the memory, and what went to stderr."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    from cli import run

    answers = sys.stdout
    for line in sys.stdin:
        errors, shown = io.StringIO(), io.StringIO()
        arguments = line.rstrip("\n").split("\t")
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(shown):
            try:
                code = compare(*arguments[1:]) if arguments[0] == _COMPARE else run(arguments)
            except BaseException as exc:  # what even the command line did not catch
                code = 70
                errors.write(f"\n{type(exc).__name__}: {exc}")
        whole = shown.getvalue() + errors.getvalue()
        if code != 70 and _CONTROL.search(whole):
            code = 71
        told = errors.getvalue()[-4000:].encode("unicode_escape", "backslashreplace").decode()
        who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        answers.write(f"{_DONE}{code} {max(resource.getrusage(w).ru_maxrss for w in who) << 10} {told}\n")
        answers.flush()


def compare(before: str, after: str) -> int:
    """Run both models of two files in onnxruntime as they are: 1 if outputs are others, 4 where that is not told."""
    from converter.isolation import Died, run_isolated

    if not Path(after).exists():
        return 4
    try:
        return run_isolated(lambda tell: _compare(before, after), int, seconds=30, n_bytes=RESIDENT)
    except Died:  # onnxruntime ends on files of this kind; what it does not run is not compared
        return 4


def _compare(before: str, after: str) -> int:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    rng = np.random.default_rng(11)
    dtypes: dict[str, Any] = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}
    try:
        first = ort.InferenceSession(before, options, providers=["CPUExecutionProvider"])
        feeds = {}
        for x in first.get_inputs():
            shape = [d if isinstance(d, int) else 2 for d in x.shape]
            feeds[x.name] = (
                rng.standard_normal(shape) if x.type == "tensor(float)" else rng.integers(0, 2, shape)
            ).astype(dtypes[x.type])
        wanted = dict(zip([y.name for y in first.get_outputs()], first.run(None, feeds), strict=True))
    except Exception:  # the input does not run
        return 4
    second = ort.InferenceSession(after, options, providers=["CPUExecutionProvider"])
    feeds = {x.name: feeds[x.name] for x in second.get_inputs()}
    found = dict(zip([y.name for y in second.get_outputs()], second.run(None, feeds), strict=True))
    for name, value in wanted.items():
        other = found[name]
        if value.dtype != other.dtype or value.shape != other.shape:
            return 1
        if value.dtype != np.float32:
            if not np.array_equal(value, other):
                return 1
            continue
        finite = np.isfinite(value)  # what is no number, or beyond float32, may be a number after a fold
        size = float(np.abs(value[finite]).max(initial=0.0))
        if not np.allclose(other[finite], value[finite], rtol=1e-2, atol=1e-3 * size):
            return 1
    return 0


class Worker:
    """One process that runs commands; a new one after a crash or a hang."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.peak = 0  # bytes, the most that a command or a child of its held

    def run(self, arguments: list[str]) -> tuple[int | str, str]:
        """The exit code, or how it died, and its stderr."""
        if self.process is None:
            command = [sys.executable, "-m", "tests.hostile.mutate", "--work"]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        process = self.process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write("\t".join(arguments) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return self._died("a worker that was gone"), ""
        end = time.monotonic() + SECONDS
        while (left := end - time.monotonic()) > 0:
            if not select.select([process.stdout], [], [], left)[0]:
                break
            line = process.stdout.readline()
            if not line:
                return self._died(""), ""
            if line.startswith(_DONE):
                code, held, told = line.removeprefix(_DONE).split(" ", 2)
                if arguments[0] == _COMPARE:  # what onnxruntime takes for it is its own
                    if int(held) > self.peak + (1 << 28):
                        self.close()  # else it would count for the next
                    return int(code), told.encode().decode("unicode_escape")
                self.peak = int(held)
                if self.peak > RESIDENT:
                    process.kill()
                    return self._died("over 2 GB"), ""
                return int(code), told.encode().decode("unicode_escape")
        process.kill()
        return self._died("hang"), ""

    def _died(self, why: str) -> str:
        assert self.process is not None
        code = self.process.wait()
        self.close()
        return why or f"died, {code}"

    def close(self) -> None:
        """End the process."""
        if self.process is None:
            return
        process, self.process = self.process, None
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


@dataclass
class Tally:
    """How the runs ended, and the smallest file of each BAD ending."""

    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    bad: dict[str, bytes] = field(default_factory=dict)
    how_often: collections.Counter[str] = field(default_factory=collections.Counter)
    told: dict[str, str] = field(default_factory=dict)
    peak: int = 0  # bytes

    def add(self, operation: str, content: bytes, code: int | str, told: str, left: list[str]) -> None:
        """Classify one run."""
        ending = _bad_ending(code, told, left)
        if code == 1 and not ending and operation not in _MAY_FAIL:
            ending = "wrong outputs" if operation == _COMPARE else "FAIL"
        if not ending:
            self.counts[f"{operation} exit {code}"] += 1
            return
        key = f"{operation}-{ending}"
        self.counts[f"{operation} BAD"] += 1
        self.how_often[key] += 1
        if key not in self.bad or len(content) < len(self.bad[key]):
            self.bad[key], self.told[key] = content, told


def _bad_ending(code: int | str, told: str, left: list[str]) -> str:
    if isinstance(code, str):
        return code.replace(", ", "")
    if code == 71:
        return "control character"
    if code not in (0, 1, 3, 4):
        frames = re.findall(r'File "[^"]*/(?:converter|cli)[^"]*?(\w+)\.py", line \d+, in (\w+)', told)
        error = re.findall(r"^([\w.]+(?:Error|Exception|Violation|Iteration))\b", told, re.MULTILINE)
        place = "_".join(frames[-1]) if frames else "unknown"
        return f"{place}-{error[-1].rpartition('.')[2] if error else code}"
    if code == 3 and len(told.strip().splitlines()) != 1:
        return "more than one line of error"
    return "left " + ",".join(sorted(left)) if code != 0 and left else ""


def _run(jobs: list[tuple[int, bytes, bytes]], operations: list[str], tally: Tally) -> None:
    worker = Worker()
    for _, valid, content in jobs:
        for operation in operations:
            with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
                model = Path(folder) / "model.onnx"
                model.write_bytes(content)
                (Path(folder) / "valid.onnx").write_bytes(valid)
                for arguments in OPERATIONS[operation](str(model), folder):
                    if arguments[0] == _COMPARE and not Path(arguments[-1]).exists():
                        continue  # nothing was written
                    code, told = worker.run(arguments)
                    tally.peak = max(tally.peak, worker.peak)
                    left = [p.name for p in Path(folder).iterdir() if p.name not in ("model.onnx", "valid.onnx")]
                    if arguments[0] == _COMPARE:
                        tally.add(_COMPARE, content, code, told, [])
                        continue
                    if model.read_bytes() != content:
                        left.append("model.onnx (changed)")
                    tally.add(operation, content, code, told, left)
    worker.close()


def fuzz(n: int, seed: int, operations: list[str], n_workers: int = 2, reproducers: Sequence[bytes] = ()) -> Tally:
    """Run `reproducers`, as they are and mutated, and `n` mutated models through `operations`."""
    valid = valid_models()
    jobs = [(k, valid[0], content) for k, content in enumerate(reproducers)]
    jobs += [(k, valid[0], mutate(content, np.random.default_rng([seed, 1, k]))) for k, _, content in jobs]
    for k in range(n):
        rng = np.random.default_rng([seed, k])
        base = valid[int(rng.integers(0, len(valid)))]
        jobs.append((k, base, mutate(base, rng)))
    tally = Tally()
    with ThreadPoolExecutor(n_workers) as pool:
        list(pool.map(lambda k: _run(jobs[k::n_workers], operations, tally), range(n_workers)))
    return tally


def make_table(log: str) -> str:
    """The counts of a log as a table, a row for each set of operations and one for each kind of BAD."""
    rows = [json.loads(line) for line in log.splitlines()]
    lines = [
        "| operations | files | seeds | runs | exit 0 | exit 3 | exit 4 | outputs compared | BAD | most memory | time |"
    ]
    lines.append("|---|" + "---:|" * 10)
    kinds: collections.Counter[str] = collections.Counter()
    for ops in dict.fromkeys(row["ops"] for row in rows):
        those = [row for row in rows if row["ops"] == ops]
        counts: collections.Counter[str] = collections.Counter()
        for row in those:
            kinds.update(row["bad"])
            for name, n in row["counts"].items():
                kind, _, ending = name.partition(" ")
                counts[name if kind == _COMPARE and ending != "BAD" else ending] += n
        n_files = sum(row["models"] + row["reproducers"] for row in those)
        seeds = sorted(row["seed"] for row in those)
        told = [f"{counts[key]:,}" for key in ("exit 0", "exit 3", "exit 4", f"{_COMPARE} exit 0", "BAD")]
        most, time_taken = max(row["peak"] for row in those) / 1e9, sum(row["seconds"] for row in those) / 60
        cells = [
            ops.replace(",", ", "),
            f"{n_files:,}",
            ", ".join(map(str, seeds)),
            f"{sum(n for key, n in counts.items() if not key.startswith(_COMPARE)):,}",
            *told,
        ]
        lines.append(f"| {' | '.join(cells)} | {most:.2f} GB | {time_taken:.0f} min |")
    bad = [f"* {n}: `{kind}`" for kind, n in kinds.most_common()]
    return "\n".join([*lines, *(["", "What was BAD, at the time of the run:", "", *bad] if bad else [])])


def write_table() -> None:
    """Put the table of the log into docs/reliability.md."""
    from converter.report.docs import fill

    page = ROOT / "docs" / "reliability.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(fill(text, "fuzz", make_table(LOG.read_text(encoding="utf-8"))), encoding="utf-8")


def main() -> int:
    """The command line of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("n", type=int, nargs="?", default=1000)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--ops", default="inspect,fold,prove,verify,certify", help="of " + ", ".join(OPERATIONS))
    parser.add_argument("--keep", type=Path, help="folder for the smallest file of each BAD ending")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--plain", action="store_true", help="no reproducers of earlier attacks first")
    parser.add_argument("--log", type=Path, help="file that the counts are added to")
    parser.add_argument("--write", action="store_true", help="make the table of docs/reliability.md, and run nothing")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work()
        return 0
    if asked.write:
        write_table()
        return 0
    started = time.monotonic()
    reproducers = [] if asked.plain else [p.read_bytes() for p in find_reproducers() if p.suffix == ".onnx"]
    tally = fuzz(asked.n, asked.seed, asked.ops.split(","), asked.workers, reproducers)
    for name, count in sorted(tally.counts.items()):
        print(f"{count:7}  {name}")
    for key, count in tally.how_often.most_common():
        print(f"BAD {count:5}  {key}: {(tally.told[key].strip().splitlines() or [''])[-1][:150]}")
        if asked.keep:
            asked.keep.mkdir(parents=True, exist_ok=True)
            (asked.keep / f"{re.sub('[^A-Za-z0-9_.-]+', '_', key)}.onnx").write_bytes(tally.bad[key])
    n_bad = sum(tally.how_often.values())
    print(f"{2 * len(reproducers)} files from reproducers,", end=" ")
    print(f"{asked.n} models, seed {asked.seed}: {n_bad} BAD of {sum(tally.counts.values())} runs", end=" ")
    seconds = time.monotonic() - started
    print(f"in {seconds:.0f} s, at most {tally.peak / 1e9:.2f} GB")
    if asked.log:
        row = {"seed": asked.seed, "models": asked.n, "reproducers": 2 * len(reproducers), "ops": asked.ops}
        row |= {"seconds": round(seconds), "peak": tally.peak, "counts": tally.counts, "bad": tally.how_often}
        with asked.log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(row, sort_keys=True) + "\n")
    return int(n_bad > 0)


if __name__ == "__main__":
    sys.exit(main())
