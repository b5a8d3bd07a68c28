"""A model beside itself, over and over: a benchmark that ever calls it FASTER or SLOWER is wrong.

    python tests/benchmarks/aa.py models/digits_cnn_bn.onnx --runs 20 --max-time 30

Exit code 1 if any run says so. INCONCLUSIVE is an answer: that of a machine with too much else to do.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from converter.commands.bench import measure_latency


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("model", type=Path)
    asked.add_argument("--runs", type=int, default=20)
    asked.add_argument("--max-time", type=float, default=30.0)
    asked.add_argument("--threads", type=int)
    asked.add_argument("--quick", action="store_true")
    given = asked.parse_args()
    outcomes: Counter[str] = Counter()
    for seed in range(given.runs):
        found = measure_latency(
            given.model, given.model, seed=seed, max_time=given.max_time, threads=given.threads, quick=given.quick
        )
        outcomes[found.outcome] += 1
        print(f"{seed:3} {found.outcome:12} {found.why}", flush=True)
    print(dict(outcomes))
    return 1 if outcomes["FASTER"] or outcomes["SLOWER"] else 0


if __name__ == "__main__":
    sys.exit(main())
