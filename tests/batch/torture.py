"""`python -m tests.batch.torture [MODELS] [KILLS]`: a batch with models that crash, hang and eat memory, killed at
random moments and started again, against the same batch left alone.

Prints the counts; exits 1 where the two differ, a file is left over, or a row is wrong. Ten kills on 200 models take
about two minutes on two cores, so that no suite runs it.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.batch.zoo import FAULTS, make_zoo, read_models, tell

ROOT = Path(__file__).resolve().parents[2]
_CODE = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['biasopt', *sys.argv[1:]]\n"
    f"from converter.batch import workers; workers.START = {FAULTS!r}\nimport cli; sys.exit(cli.run())"
)


def make_command(zoo: Path, out: Path) -> list[str]:
    options = ["--jobs", "2", "--quick", "-q", "--timeout", "15", "--max-memory", "1GiB"]
    return [sys.executable, "-c", _CODE, "batch", str(zoo), *options, "-o", str(out)]


def main() -> int:
    count, kills = (int(text) for text in (*sys.argv[1:3], "200", "10")[:2]) if len(sys.argv) > 2 else (200, 10)
    rng = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="biasopt-torture-") as folder:
        zoo = make_zoo(Path(folder) / "zoo", count - 3, "crash.onnx", "hang.onnx", "eat.onnx")
        whole, out = Path(folder) / "whole", Path(folder) / "out"
        code = subprocess.run(make_command(zoo, whole)).returncode
        began = []
        for _ in range(kills):
            started = subprocess.Popen(make_command(zoo, out))
            time.sleep(rng.uniform(0.5, 6))
            started.kill()
            started.wait()
            journal = out / "batch" / "journal.jsonl"
            began.append(journal.read_bytes().count(b"\n") if journal.exists() else 0)
        assert subprocess.run(make_command(zoo, out)).returncode == code
        rows, counts, exit_code = tell(out / "batch" / "summary.json")
        same = json.loads(json.dumps([rows, counts, exit_code]).replace(str(out), str(whole)))
        wanted = json.loads(json.dumps(tell(whole / "batch" / "summary.json")))
        stray = [str(p) for p in out.rglob("*") if ".tmp" in p.name or p.name.endswith(".part")]
        print(f"{count} models, {dict(Counter(row['outcome'] for row in rows))}, exit code {code}")
        print(f"killed {kills} times, with {began} models done each time; then run to its end")
        print(f"summaries are {'the same' if same == wanted else 'DIFFERENT'}; {len(stray)} stray files")
        models = read_models(out) == read_models(whole)
        print(f"{len(read_models(out))} models, {'byte for byte the same' if models else 'DIFFERENT'}")
        right = counts == {"folded": count - 3, "crashed": 1, "timeout": 1, "memory": 1} and code == 3
        return 0 if same == wanted and not stray and models and right else 1


if __name__ == "__main__":
    sys.exit(main())
