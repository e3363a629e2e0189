"""The benchmark tables: Khorus against its peers, side by side.

python run.py --bin build/release/bin [--out bench.json] [--only raw,lm,...] [--pairs 5]

Tables go to standard output (harness.py says what a cell is), all numbers of all runs to --out, and
plots beside it. The peers come from the Python that runs this file: torch's Gloo and DDP, Open MPI
through mpi4py; matplotlib draws. What is not installed is left out, with a line that says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import api
import training
from harness import Bench, Benchmark
from plots import draw

BENCHMARKS: dict[str, Benchmark] = {
    "raw": api.bench_raw,
    "allreduce": api.bench_allreduce,
    "latency": api.bench_latency,
    "stages": api.bench_stages,
    "many": api.bench_many,
    "order": api.bench_order,
    "crowd": api.bench_crowd,
    "idle": api.bench_idle,
    "lm": training.bench_lm,
    "cost": training.bench_cost,
    "traces": training.bench_traces,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=Path, required=True, help="folder with the built programs")
    parser.add_argument("--out", type=Path, default=Path("out/bench.json"))
    parser.add_argument("--only", default=",".join(BENCHMARKS), help="comma-separated names")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--backend", default="", help="instead of the one Khorus chooses")
    parser.add_argument("--smoke", action="store_true", help="one tiny pair of each: does it work?")
    options = parser.parse_args()
    names = options.only.split(",")
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"--only knows {', '.join(BENCHMARKS)}, not {', '.join(unknown)}")

    start = time.monotonic()
    results: dict[str, Any] = {"ranks": options.ranks, "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory(prefix="khorus-bench-") as scratch:
        bench = Bench(
            binaries=options.bin.resolve(),
            scratch=Path(scratch),
            ranks=options.ranks,
            pairs=1 if options.smoke else options.pairs,
            smoke=options.smoke,
            backend=options.backend,
        )
        for name in names:
            results[name] = BENCHMARKS[name](bench)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\n{time.monotonic() - start:.0f} s; every number is in {options.out}")
    if importlib.util.find_spec("matplotlib") is None:
        print("no plots: matplotlib is not installed")
    else:
        print("plots:", *draw(results, options.out.parent))


if __name__ == "__main__":
    main()
