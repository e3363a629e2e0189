"""The benchmark tables: Khorus against its peers, side by side.

python run.py --bin build/release/bin [--out bench.json] [--only allreduce,many,idle,lm] [--pairs 5]

Machines are shared and noisy, so a figure is a ratio: the contestants run alternately, A B A B,
and the table shows the median over the pairs with the smallest and the largest. The peers (torch's
Gloo, DDP) come from the Python that runs this file. All numbers of all runs go to --out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 240


@dataclass
class Bench:
    """Where the programs are, how many ranks and pairs, a scratch folder."""

    binaries: Path
    scratch: Path
    ranks: int
    pairs: int
    smoke: bool
    runs: int = 0

    def fresh(self, suffix: str) -> Path:
        self.runs += 1
        return self.scratch / f"{self.runs}.{suffix}"

    def start(self, *command: object, launched: bool = True) -> subprocess.Popen[str]:
        words = [str(word) for word in command]
        if launched:
            words = [str(self.binaries / "khorusrun"), "-np", str(self.ranks), *words]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("KHORUS_")}
        environment |= {"OMP_NUM_THREADS": "1", "KHORUS_BACKEND": "gloo"}
        if not launched:
            del environment["KHORUS_BACKEND"]
        return subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def finish(self, process: subprocess.Popen[str]) -> None:
        try:
            output, _ = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        if process.returncode != 0:
            raise SystemExit(f"{process.args!r} failed ({process.returncode}):\n{output}")

    def run(self, *command: object) -> None:
        self.finish(self.start(*command))

    def peer(self, script: str, *flags: object) -> Any:
        result = self.fresh("json")
        store = self.fresh("store")
        self.run(sys.executable, HERE / script, "--store", store, "--json", result, *flags)
        return json.loads(result.read_text())

    def ours(self, *flags: object) -> Any:
        result = self.fresh("json")
        self.run(self.binaries / "bench_allreduce", "--json", result, *flags)
        return json.loads(result.read_text())


def spread(values: Sequence[float], digits: int = 2) -> str:
    """median (smallest .. largest)"""
    return (
        f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} .. "
        f"{max(values):.{digits}f})"
    )


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    print(f"\n{title}")
    for row in [header, *rows]:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    sys.stdout.flush()


def bench_allreduce(bench: Bench) -> Any:
    """One tensor through the public C++ API against torch.distributed on torch's Gloo."""
    seconds = 0.02 if bench.smoke else 0.2
    pairs = []
    for _ in range(bench.pairs):
        ours = bench.ours("--mode", "sizes", "--seconds", seconds)
        theirs = bench.peer("peer_allreduce.py", "--seconds", seconds)
        pairs.append({"khorus": ours, "torch": theirs})
        if any(row["wrong"] for row in ours):
            raise SystemExit(f"bench_allreduce: wrong sums: {ours}")
    rows = []
    for i, first in enumerate(pairs[0]["khorus"]):
        mine = [pair["khorus"][i]["p50_us"] for pair in pairs]
        other = [pair["torch"][i]["p50_us"] for pair in pairs]
        ratio = [a / b for a, b in zip(mine, other, strict=True)]
        bus = first["bytes"] * 2 * (bench.ranks - 1) / bench.ranks / statistics.median(mine) / 1e3
        rows.append(
            [str(first["bytes"]), spread(mine, 0), spread(other, 0), spread(ratio), f"{bus:.3f}"]
        )
    print_table(
        f"all-reduce, float32, {bench.ranks} ranks, Gloo below both; median time of an operation",
        ["bytes", "Khorus us", "torch Gloo us", "Khorus / torch", "busbw GB/s"],
        rows,
    )
    return pairs


def bench_many(bench: Bench) -> Any:
    """160 tensors of 4 KB, submitted together (fused) against one after the other."""
    rounds = [pair for _ in range(bench.pairs) for pair in bench.ours("--mode", "many")]
    together = [pair[0] for pair in rounds]
    single = [pair[1] for pair in rounds]
    ratio = [b / a for a, b in rounds]
    print_table(
        "160 tensors of 4 KB",
        ["together us", "one by one us", "one by one / together"],
        [[spread(together, 0), spread(single, 0), spread(ratio, 1)]],
    )
    return rounds


def bench_idle(bench: Bench) -> Any:
    """Processor time of an engine without work, and of a process blocked in a collective."""
    seconds = 1 if bench.smoke else 3
    runs = [bench.ours("--mode", "idle", "--seconds", seconds) for _ in range(bench.pairs)]
    print_table(
        "processor time, per cent of a core",
        ["idle engine", "blocked in wait()"],
        [[spread([100 * run[key] for run in runs], 3) for key in ("idle", "blocked")]],
    )
    return runs


@dataclass
class Model:
    name: str
    layers: int
    width: int
    heads: int
    context: int
    batch: int
    steps: int

    def flags(self) -> list[object]:
        return [
            *["--layers", self.layers, "--width", self.width, "--heads", self.heads],
            *["--context", self.context, "--batch", self.batch, "--steps", self.steps],
        ]

    def first(self) -> int:
        """Steps before this one warm up."""
        return max(1, self.steps // 4)


def train_lm_flags(bench: Bench, model: Model, out: Path) -> list[object]:
    text = bench.scratch / "text.txt"
    if not text.exists():
        text.write_text(
            "".join(f"line {i} of a text that costs no time to read\n" for i in range(9999))
        )
    return [
        *[bench.binaries / "train_lm", *model.flags(), "--data", text, "--out", out],
        *["--log-every", model.first(), "--eval-every", 10**6, "--eval-windows", 2],
        *["--checkpoint-every", 10**6],
    ]


def steps_per_second(folder: Path, model: Model) -> float:
    """From the metrics of a train_lm run, between the end of the warm-up and the last step."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    marks = [line for line in lines if "seconds" in line]
    first, last = marks[0], marks[-1]
    return float((last["step"] - first["step"]) / (last["seconds"] - first["seconds"]))


def train_with_khorus(bench: Bench, model: Model) -> float:
    out = bench.fresh("lm")
    bench.run(*train_lm_flags(bench, model, out))
    return steps_per_second(out, model)


def train_alone(bench: Bench, model: Model) -> float:
    """As many processes as ranks, at the same time, each a world of its own: no communication."""
    folders = [bench.fresh("lm") for _ in range(bench.ranks)]
    processes = [
        bench.start(*train_lm_flags(bench, model, folder), launched=False) for folder in folders
    ]
    for process in processes:
        bench.finish(process)
    return min(steps_per_second(folder, model) for folder in folders)


def train_with_python(bench: Bench, model: Model, *flags: str) -> float:
    times = bench.peer("peer_lm.py", *model.flags(), *flags)[model.first() :]
    return float(len(times) / sum(times))


def bench_lm(bench: Bench) -> Any:
    """train_lm against DDP, and both against the same processes without communication."""
    models = [
        Model("10M, 8 x 128", 6, 384, 6, 128, batch=8, steps=8),
        Model("10M, 1 x 64", 6, 384, 6, 64, batch=1, steps=40),
    ]
    if bench.smoke:
        models = [Model("tiny", 2, 32, 2, 32, batch=2, steps=8)]
    contestants: dict[str, Callable[[Model], float]] = {
        "khorus": lambda model: train_with_khorus(bench, model),
        "ddp": lambda model: train_with_python(bench, model),
        "alone": lambda model: train_alone(bench, model),
        "python_alone": lambda model: train_with_python(bench, model, "--alone"),
    }
    results: dict[str, Any] = {}
    rows = []
    for model in models:
        pairs = [
            {name: contestant(model) for name, contestant in contestants.items()}
            for _ in range(bench.pairs)
        ]
        results[model.name] = pairs
        rows.append(
            [
                model.name,
                *[spread([pair[name] for pair in pairs]) for name in contestants],
                spread([pair["khorus"] / pair["ddp"] for pair in pairs]),
                spread([pair["khorus"] / pair["alone"] for pair in pairs]),
            ]
        )
    print_table(
        f"language model, float32, {bench.ranks} ranks with one thread each: steps/s",
        ["model", "Khorus", "DDP", "alone", "Python alone", "Khorus / DDP", "Khorus / alone"],
        rows,
    )
    return results


BENCHMARKS: dict[str, Callable[[Bench], Any]] = {
    "allreduce": bench_allreduce,
    "many": bench_many,
    "idle": bench_idle,
    "lm": bench_lm,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=Path, required=True, help="folder with the built programs")
    parser.add_argument("--out", type=Path, default=Path("out/bench.json"))
    parser.add_argument("--only", default=",".join(BENCHMARKS), help="comma-separated names")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="one tiny pair of each: does it work?")
    options = parser.parse_args()
    names = options.only.split(",")
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"--only knows {', '.join(BENCHMARKS)}, not {', '.join(unknown)}")

    start = time.monotonic()
    results: dict[str, Any] = {"ranks": options.ranks, "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory(prefix="khorus-bench-") as scratch:
        pairs = 1 if options.smoke else options.pairs
        bench = Bench(options.bin.resolve(), Path(scratch), options.ranks, pairs, options.smoke)
        for name in names:
            results[name] = BENCHMARKS[name](bench)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\n{time.monotonic() - start:.0f} s; every number is in {options.out}")


if __name__ == "__main__":
    main()
