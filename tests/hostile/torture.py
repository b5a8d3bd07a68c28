"""Folds killed, interrupted, at once, and refused by the system: ``python -m tests.hostile.torture``.

``[N] [SEED] [--mb 300] [--folder DIR] [--data inside|external]``: N moments of SIGKILL with and N without external
data, a quarter as many of Ctrl-C and of SIGTERM, then what the system refuses, and folds of one file at a time. After
each the model must be the whole old or the whole new one, to the bit, and the next run must leave no stray file. The
reproducers of earlier attacks are folded in place as well, where they are. Exit code 1 if anything was BAD.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import filecmp
import hashlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hostile.mutate import find_reproducers

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 2.0  # from a signal that asks to the end
_PR_CAPBSET_DROP = 24  # linux/prctl.h


def build(path: Path, megabytes: float, *, external: bool) -> None:
    """A model of about that size, of convolutions with batch norms: half of its weights change in a fold."""
    rng = np.random.default_rng(0)
    channels = max(8, int((megabytes * 1e6 / 4 / 8 / 9) ** 0.5))
    nodes, tensors, last = [], [], "x"
    for k in range(8):
        weight = rng.standard_normal((channels, channels, 3, 3), np.float32) / (3 * channels**0.5)
        tensors.append(numpy_helper.from_array(weight, f"w{k}"))
        nodes.append(helper.make_node("Conv", [last, f"w{k}"], [f"c{k}"], f"conv{k}", pads=[1] * 4))
        last = f"c{k}"
        if k % 2:
            for name in "somv":
                values = rng.uniform(0.5, 2, channels).astype(np.float32)
                tensors.append(numpy_helper.from_array(values, f"{name}{k}"))
            nodes.append(helper.make_node("BatchNormalization", [last, *(f"{n}{k}" for n in "somv")], [f"b{k}"]))
            last = f"b{k}"
        nodes.append(helper.make_node("Relu", [last], [f"r{k}"]))
        last = f"r{k}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 4, 4]) for name in ("x", last)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    kept = {"save_as_external_data": True, "location": f"{path.name}.data"} if external else {}
    onnx.save(model, path, **kept)


def digest(path: Path) -> str:
    """What the model is, whatever its data file is called; an exception where it cannot be loaded."""
    model = onnx.load(path)
    held = hashlib.sha256()
    for tensor in model.graph.initializer:
        held.update(tensor.name.encode() + bytes(tensor.raw_data))
    del model.graph.initializer[:]
    held.update(model.SerializeToString(deterministic=True))
    return held.hexdigest()


def start(*argv: str, cwd: Path, **more: Any) -> subprocess.Popen[bytes]:
    """Begin a command."""
    command = [sys.executable, str(ROOT / "biasopt.py"), *argv]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} | more
    return subprocess.Popen(command, cwd=cwd, **streams)


@dataclass
class Bench:
    """One model, as it was and as it is folded."""

    folder: Path
    external: bool
    megabytes: float
    bad: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pristine, self.place = self.folder / "pristine", self.folder / "work"
        for folder in (self.pristine, self.place):
            folder.mkdir(parents=True)
        build(self.pristine / "m.onnx", self.megabytes, external=self.external)
        self.model = self.place / "m.onnx"
        self.restore()
        self.old = digest(self.model)
        begun = time.monotonic()
        with start("fold", "m.onnx", "--in-place", "--no-verify", cwd=self.place) as process:
            assert process.wait() == 0
        self.seconds = time.monotonic() - begun
        self.new = digest(self.model)
        assert self.new != self.old
        self.folded = self.place.rename(self.folder / "folded")  # to compare with, which is quicker than to hash
        self.place.mkdir()

    def restore(self) -> None:
        """The model as it was, and nothing beside it."""
        self.place.chmod(0o755)
        shutil.rmtree(self.place)
        shutil.copytree(self.pristine, self.place)

    def check(self, what: str) -> str:
        """Whether it is the old or the new model, whole."""
        for kind, whole in (("old", self.pristine), ("new", self.folded)):
            names = [path.name for path in whole.iterdir()]
            filecmp.clear_cache()
            if filecmp.cmpfiles(whole, self.place, names, shallow=False)[0] == names:
                return kind
        try:
            found = digest(self.model)
        except Exception as exc:  # whatever a torn file makes of it
            self.bad.append(f"{what}: cannot be loaded ({type(exc).__name__}: {exc})")
            return "torn"
        if found not in (self.old, self.new):
            self.bad.append(f"{what}: neither the old nor the new model")
            return "torn"
        return "old" if found == self.old else "new"

    def check_strays(self, what: str) -> None:
        """Whether there is nothing but the model and one data file."""
        names = sorted(p.name for p in self.place.iterdir())
        data = [n for n in names if n.endswith(".data")]
        if names != sorted(["m.onnx", *data]) or len(data) > int(self.external):
            self.bad.append(f"{what}: stray files {names}")

    def run_next(self, what: str) -> None:
        """The run after it, which clears up."""
        with start("fold", "m.onnx", "--in-place", "--no-verify", cwd=self.place) as process:
            told = process.communicate(timeout=300)[1].decode(errors="replace")
        if process.returncode:
            self.bad.append(f"{what}: the next run exits {process.returncode}: {told[-200:]}")
        if self.check(f"{what}, then run again") == "old":
            self.bad.append(f"{what}, then run again: still the old model")
        self.check_strays(f"{what}, then run again")


def kill(bench: Bench, n: int, rng: np.random.Generator) -> dict[str, int]:
    """SIGKILL at random moments of a fold in place: of all of it, of the one with a proof, and from when it writes."""
    seen = {"old": 0, "new": 0, "torn": 0, "with leavings": 0}
    for k in range(n):
        bench.restore()
        judged, writes = k % 3 == 0, k % 3 == 1
        moment = float(rng.uniform(0, bench.seconds * (2.0 if judged else 0.5 if writes else 1.1)))
        argv = ["fold", "m.onnx", "--in-place", *(["--quick"] if judged else ["--no-verify"])]
        with start(*argv, cwd=bench.place) as process:
            while writes and process.poll() is None and not any(bench.place.glob(".*.tmp")):
                time.sleep(0.001)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment)
            process.kill()
        what = f"killed after {moment:.2f} s"
        seen[bench.check(what)] += 1
        names = {p.name for p in bench.place.iterdir()}
        seen["with leavings"] += len(names) > 1 + bench.external
        bench.run_next(what)
    return seen


def ask(bench: Bench, n: int, rng: np.random.Generator, number: signal.Signals, code: int) -> dict[str, float]:
    """A signal that asks, at random moments of a fold with its proof."""
    slowest, ended = 0.0, 0
    for _ in range(n):
        bench.restore()
        moment = float(rng.uniform(0.1, bench.seconds * 3))
        with start("fold", "m.onnx", "--in-place", cwd=bench.place) as process:
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                begun = time.monotonic()
                process.send_signal(number)
                told = process.communicate(timeout=60)[1].decode(errors="replace")
                took = time.monotonic() - begun
                slowest, ended = max(slowest, took), ended + 1
                what = f"{number.name} after {moment:.2f} s"
                early = moment < 0.5 and process.returncode == -number  # the interpreter itself was starting
                done = process.returncode == 0 and bench.check(what) == "new"  # it had nothing left to do
                if process.returncode != code and not early and not done:
                    bench.bad.append(f"{what}: exit {process.returncode}: {told[-200:]}")
                if took > SECONDS + 0.5:
                    bench.bad.append(f"{what}: {took:.1f} s until the end")
                bench.check(what)
                if not early:
                    bench.check_strays(what)
    return {"ended": ended, "slowest, s": round(slowest, 2)}


def refuse(bench: Bench) -> dict[str, int]:
    """What the system refuses: exit 3, one line, and everything as it was."""

    def limit_size() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    def give_up_rights() -> None:
        for right in (1, 2):  # to write where the mode says no, which root has until it gives it up
            ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, right)
        bench.place.chmod(0o555)

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (6, 6))

    cases: list[tuple[str, Callable[[], None], Sequence[int]]] = [("no room for the file", limit_size, (3,))]
    cases.append(("few open files", limit_files, (3,)))
    cases.append(("a folder that is read-only", give_up_rights, (3,)))
    for what, prepare, codes in cases:
        bench.restore()
        with start("fold", "m.onnx", "--in-place", "--no-verify", cwd=bench.place, preexec_fn=prepare) as process:
            told = process.communicate(timeout=300)[1].decode(errors="replace")
        if process.returncode not in codes or told.count("\n") != 1:
            bench.bad.append(f"{what}: exit {process.returncode}: {told[-300:]}")
        if bench.check(what) != "old":
            bench.bad.append(f"{what}: not the old model")
        bench.check_strays(what)
    for what, to in (("a closed pipe", "| true"), ("a full device", "> /dev/full"), ("no streams", ">&- 2>&-")):
        bench.restore()
        shell = f'"{sys.executable}" "{ROOT / "biasopt.py"}" fold m.onnx --in-place --no-verify {to}'
        subprocess.run(["/bin/sh", "-c", shell], cwd=bench.place, capture_output=True, timeout=300, check=False)
        bench.check(what)
        bench.run_next(what)
    return {"ways": len(cases) + 3}


def race(bench: Bench, n: int) -> dict[str, int]:
    """Five folds of one file at once, in place, and into one output: one at least ends well, the rest say why not."""
    counts = {"rounds": n, "ended well": 0, "exit 3": 0}
    for k in range(n):
        bench.restore()
        where = ["--in-place"] if k % 2 else ["-o", "m.onnx.out", "--force"]
        running = [start("fold", "m.onnx", "--no-verify", *where, cwd=bench.place) for _ in range(5)]
        told = [process.communicate(timeout=300)[1].decode(errors="replace") for process in running]
        codes = [process.returncode for process in running]
        what = f"five at once, {where[0]}"
        counts["ended well"] += codes.count(0)
        counts["exit 3"] += codes.count(3)
        if not codes.count(0) or set(codes) - {0, 3}:
            bench.bad.append(f"{what}: exits {codes}: {told}")
        if k % 2 == 0:
            for path in bench.place.glob("m.onnx.out*"):  # as if it had been folded in place
                if path.suffix != ".data":
                    model = digest(path)
                    if model != bench.new:
                        bench.bad.append(f"{what}: the output is not the folded model")
                    path.unlink()
            data = list(bench.place.glob("m.onnx.out*.data"))
            if len(data) != int(bench.external):
                bench.bad.append(f"{what}: stray data {data}")
            for path in data:
                path.unlink()
        bench.check(what)
        bench.check_strays(what)
    return counts


def fold_reproducers(paths: Sequence[Path], folder: Path, seconds: float = 30) -> tuple[dict[str, int], list[str]]:
    """Each folded in place with its proof: the exit codes, and what was BAD."""
    counts: dict[str, int] = {"files": len(paths)}
    bad = []
    folder.mkdir()
    model = folder / "m.onnx"
    for path in paths:
        content = path.read_bytes()
        model.write_bytes(content)
        with start("fold", "m.onnx", "--in-place", "--quick", "--timeout", str(seconds), cwd=folder) as process:
            try:
                told = process.communicate(timeout=seconds + 60)[1].decode(errors="replace")
            except subprocess.TimeoutExpired:
                process.kill()
                told = "never ended"
        code = process.returncode
        counts[f"exit {code}"] = counts.get(f"exit {code}", 0) + 1
        if code not in (0, 1, 3, 4) or told.count("\n") > 1:
            bad.append(f"{path.name}: exit {code}: {told[-200:]}")
        if code and model.read_bytes() != content:
            bad.append(f"{path.name}: exit {code}, and the model was changed")
        if not code:
            onnx.load(model)
        if names := sorted(p.name for p in folder.iterdir() if p != model):
            bad.append(f"{path.name}: stray files {names}")
    return counts, bad


def torture(n: int, seed: int, megabytes: float, folder: Path, kinds: Sequence[bool] = (False, True)) -> list[str]:
    """All of it; what was BAD."""
    bad = []
    for external in kinds:
        rng = np.random.default_rng([seed, external])
        bench = Bench(folder / ("external" if external else "inside"), external, megabytes)
        kind = f"{megabytes:.0f} MB, {'with' if external else 'without'} external data"
        for name, found in (
            ("SIGKILL", partial(kill, bench, n, rng)),
            ("Ctrl-C", partial(ask, bench, max(2, n // 4), rng, signal.SIGINT, 130)),
            ("SIGTERM", partial(ask, bench, max(2, n // 4), rng, signal.SIGTERM, 143)),
            ("refused", partial(refuse, bench)),
            ("at once", partial(race, bench, max(2, n // 20))),
        ):
            before, begun = len(bench.bad), time.monotonic()
            said = ", ".join(f"{key} {value}" for key, value in found().items())
            took = time.monotonic() - begun
            print(f"{name:8}  {kind}: {said}; {len(bench.bad) - before} BAD ({took:.0f} s)", flush=True)
        bad += bench.bad
    models = [path for path in find_reproducers() if path.suffix == ".onnx"]
    counts, strange = fold_reproducers(models, folder / "reproducers")
    print(
        f"reproducers: {', '.join(f'{key} {value}' for key, value in counts.items())}; {len(strange)} BAD", flush=True
    )
    return bad + strange


def main() -> int:
    """The command line of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("n", type=int, nargs="?", default=200)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--mb", type=float, default=300)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder otherwise")
    parser.add_argument("--data", choices=("inside", "external"), help="models of that kind alone")
    asked = parser.parse_args()
    kinds = (False, True) if asked.data is None else (asked.data == "external",)
    with tempfile.TemporaryDirectory(prefix="torture-", dir=asked.folder) as folder:
        bad = torture(asked.n, asked.seed, asked.mb, Path(folder), kinds)
    for line in bad:
        print(f"BAD  {line}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
