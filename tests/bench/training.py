"""Training steps: the language model, and the gradients of larger models without the models."""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import Bench, Usage, spread, table


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
    bench.run(*bench.launched(*train_lm_flags(bench, model, out)))
    return steps_per_second(out, model)


def train_alone(bench: Bench, model: Model) -> float:
    """As many processes as ranks, at the same time, each a world of its own: no communication."""
    folders = [bench.fresh("lm") for _ in range(bench.ranks)]
    processes = [bench.start(*train_lm_flags(bench, model, folder)) for folder in folders]
    for process in processes:
        bench.finish(process)
    return min(steps_per_second(folder, model) for folder in folders)


def train_with_python(bench: Bench, model: Model) -> dict[str, float]:
    """DDP, Khorus and neither, in the same processes one after the other."""
    turns = bench.peer("peer_lm.py", *model.flags())
    return {name: len(turn[0]) / sum(turn[0]) for name, turn in turns.items()}


def bench_lm(bench: Bench) -> Any:
    """train_lm against DDP, and both against the same processes without communication."""
    models = [
        Model("10M, 8 x 128", 6, 384, 6, 128, batch=8, steps=14),
        Model("10M, 1 x 64", 6, 384, 6, 64, batch=1, steps=30),
    ]
    if bench.smoke:
        models = [Model("tiny", 2, 32, 2, 32, batch=2, steps=8)]
    results: dict[str, Any] = {}
    rows = []
    for model in models:
        pairs = []
        for _ in range(bench.pairs):
            pair = {"khorus": train_with_khorus(bench, model)}
            python = train_with_python(bench, model)
            pair |= {"ddp": python["ddp"], "alone": train_alone(bench, model)}
            pair |= {"python_khorus": python["khorus"], "python_alone": python["alone"]}
            pairs.append(pair)
        results[model.name] = pairs
        rows.append(
            [
                model.name,
                *[spread([pair[name] for pair in pairs]) for name in pairs[0]],
                spread([pair["khorus"] / pair["ddp"] for pair in pairs]),
                spread([pair["khorus"] / pair["alone"] for pair in pairs]),
                spread([pair["python_khorus"] / pair["ddp"] for pair in pairs]),
                spread([pair["python_khorus"] / pair["python_alone"] for pair in pairs]),
            ]
        )
    table(
        f"language model, float32, {bench.ranks} ranks with one thread each: steps/s",
        [
            *["model", "Khorus (C++)", "DDP", "alone (C++)", "Khorus (Python)", "alone (Python)"],
            *["C++ / DDP", "C++ / alone", "Python / DDP", "Python / alone"],
        ],
        rows,
    )
    return results


def bench_cost(bench: Bench) -> Any:
    """Processor time and memory that communication adds to the language model, Khorus and DDP.

    The same run without communication is taken off: the launcher, loading and training cancel out.
    """
    model = Model("10M, 1 x 64", 6, 384, 6, 64, batch=1, steps=40)
    if bench.smoke:
        model = Model("tiny", 2, 32, 2, 32, batch=2, steps=8)

    def khorus() -> Usage:
        return bench.measured(*bench.launched(*train_lm_flags(bench, model, bench.fresh("lm"))))

    def alone() -> Usage:
        once = train_lm_flags(bench, model, bench.fresh("lm"))
        return bench.measured(*bench.launched(*once, ranks=1))

    def python(contestant: str) -> Usage:
        store, result = bench.fresh("store"), bench.fresh("json")
        script = Path(__file__).with_name("peer_lm.py")
        words = ["--store", store, "--json", result, *model.flags(), "--contestants", contestant]
        words += ["--warm-up", 0]
        return bench.measured(*bench.launched(sys.executable, script, *words))

    pairs = []
    for _ in range(min(bench.pairs, 3)):
        ours, one, ddp, plain = khorus(), alone(), python("ddp"), python("alone")
        per_step = bench.ranks * model.steps * 1e-3
        pairs.append(
            {
                "khorus_cpu_ms": (ours.cpu_s - bench.ranks * one.cpu_s) / per_step,
                "ddp_cpu_ms": (ddp.cpu_s - plain.cpu_s) / per_step,
                "khorus_mib": ours.peak_mib - one.peak_mib,
                "ddp_mib": ddp.peak_mib - plain.peak_mib,
            }
        )
    keys = ("khorus_cpu_ms", "ddp_cpu_ms", "khorus_mib", "ddp_mib")
    table(
        f"what communication costs {model.name}, per rank: CPU time of a step, peak memory",
        ["Khorus CPU ms", "DDP CPU ms", "Khorus MiB", "DDP MiB"],
        [[spread([pair[key] for pair in pairs], 1) for key in keys]],
    )
    return pairs


def bench_traces(bench: Bench) -> Any:
    """The gradients of ResNet-50, BERT-base and GPT-2 124M: khorus.torch against DDP."""
    results: dict[str, Any] = {}
    rows = []
    for model in ["resnet50"] if bench.smoke else ["resnet50", "bert_base", "gpt2"]:
        flags = ["--model", model, "--steps", 2 if bench.smoke else 4, "--pairs", bench.pairs]
        turns = bench.peer("peer_trace.py", *flags)
        pairs = [
            {name: statistics.median(turns[name][i]) for name in turns} for i in range(bench.pairs)
        ]
        results[model] = pairs
        rows.append(
            [
                model,
                *[spread([1e3 * p[name] for p in pairs], 0) for name in ("khorus", "ddp", "alone")],
                spread([pair["khorus"] / pair["ddp"] for pair in pairs]),
                spread([1 - pair["alone"] / pair["ddp"] for pair in pairs]),
            ]
        )
    table(
        f"traces of gradients, {bench.ranks} ranks: ms per step",
        ["model", "Khorus", "DDP", "alone", "Khorus / DDP", "share of communication in DDP"],
        rows,
    )
    return results
