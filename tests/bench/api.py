"""Operations: the backend by itself, and the public C++ API, beside their peers."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import statistics
import sys
from typing import Any

from harness import HERE, Bench, spread, table

MIB = 1 << 20


def open_mpi(bench: Bench) -> Any:
    """Times of blocking MPI_Allreduce, or None where there is no mpi4py or mpirun."""
    if importlib.util.find_spec("mpi4py") is None or shutil.which("mpirun") is None:
        return None
    result = bench.fresh("json")
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    flags = ["--json", result, "--seconds", 0.02 if bench.smoke else 0.1]
    bench.run(
        *["mpirun", *root, "--oversubscribe", "--bind-to", "none", "-np", bench.ranks],
        *[sys.executable, HERE / "peer_mpi.py", *flags],
    )
    return {row["bytes"]: row["p50_us"] for row in json.loads(result.read_text())}


def raw_backend(bench: Bench, most: int, arena: int) -> dict[int, dict[str, float]]:
    """Times of bench_backend, in memory that shm lends or in the user's."""
    seconds = 0.02 if bench.smoke else 0.2
    text = bench.run(
        *[bench.binaries / "bench_backend", "--backend", "shm", "--ranks", bench.ranks],
        *["--least", 65536, "--most", most, "--seconds", seconds, "--arena", arena],
    )
    rows = [line.split() for line in text.splitlines() if line.strip()[:1].isdigit()]
    if any(row[7] != "0" for row in rows):
        raise SystemExit(f"bench_backend: wrong results:\n{text}")
    return {
        int(row[0]): {"us": float(row[4]), "memcpy_us": float(row[8]), "ratio": float(row[9])}
        for row in rows
    }


def bench_raw(bench: Bench) -> Any:
    """The shm backend without the engine, against memcpy and against Open MPI."""
    most = MIB if bench.smoke else 25 * MIB  # what DDP takes for a bucket
    pairs = [
        {
            "arena": raw_backend(bench, most, arena=1),
            "user": raw_backend(bench, most, arena=0),
            "mpi": open_mpi(bench),
        }
        for _ in range(bench.pairs)
    ]
    has_mpi = pairs[0]["mpi"] is not None
    rows = []
    for size in pairs[0]["arena"]:
        arena = [pair["arena"][size] for pair in pairs]
        mpi = [pair["mpi"][size] for pair in pairs] if has_mpi else []
        rows.append(
            [
                f"{size:,}",
                spread([row["us"] for row in arena], 1),
                spread([row["ratio"] for row in arena]),
                spread([pair["user"][size]["us"] for pair in pairs], 1),
                spread([pair["user"][size]["ratio"] for pair in pairs]),
                spread(mpi, 1) if has_mpi else "not installed",
                spread([b / a["us"] for a, b in zip(arena, mpi, strict=True)]) if has_mpi else "",
            ]
        )
    table(
        f"all-reduce on the shm backend itself, float32, {bench.ranks} ranks, in place: in memory "
        "that it lends (arena) and in the user's; memcpy is of the same bytes by all ranks at once",
        [
            *["bytes", "arena us", "arena / memcpy", "user's us", "user's / memcpy"],
            *["Open MPI us", "Open MPI / arena"],
        ],
        rows,
    )
    return pairs


def bench_allreduce(bench: Bench) -> Any:
    """One tensor through the public C++ API against torch.distributed on torch's Gloo."""
    seconds = 0.02 if bench.smoke else 0.2
    pairs = [
        {
            "khorus": bench.ours("--seconds", seconds),
            "torch": bench.peer("peer_allreduce.py", "--seconds", seconds),
        }
        for _ in range(bench.pairs)
    ]
    rows = []
    for i, first in enumerate(pairs[0]["khorus"]):
        mine = [pair["khorus"][i]["time_us"]["p50"] for pair in pairs]
        copies = [pair["khorus"][i]["memcpy_us"]["p50"] for pair in pairs]
        other = [pair["torch"][i]["p50_us"] for pair in pairs]
        rows.append(
            [
                f"{first['bytes']:,}",
                spread(mine, 0),
                spread(other, 0),
                spread([b / a for a, b in zip(mine, other, strict=True)]),
                spread([a / b for a, b in zip(mine, copies, strict=True)], 1)
                if first["bytes"] >= 65536
                else "",
                f"{statistics.median(pair['khorus'][i]['busbw'] for pair in pairs):.3f}",
            ]
        )
    table(
        f"all-reduce through the public C++ API, float32, {bench.ranks} ranks; of an operation",
        [
            *["bytes", "Khorus us", "torch Gloo us", "torch / Khorus", "Khorus / memcpy"],
            "busbw GB/s",
        ],
        rows,
    )
    return pairs


def bench_stages(bench: Bench) -> Any:
    """Where the time of a small and of a large operation goes, of every kind."""
    results = {}
    rows = []
    for op in ("allreduce", "allgather", "broadcast", "reducescatter", "alltoall", "sendrecv"):
        flags = ["--op", op, "--min", 4, "--max", 4 * MIB, "--factor", MIB]
        results[op] = bench.ours(*flags, "--seconds", 0.02 if bench.smoke else 0.5)
        for row in results[op]:
            cells = [f"{row['bytes']:,}", f"{row['time_us']['p50']:.1f}"]
            cells += [
                f"{row[stage]['p50']:.1f} / {row[stage]['p99']:.1f}"
                for stage in ("agreed_us", "dispatched_us", "done_us")
            ]
            rows.append([op, *cells, f"{row['control_messages']:.2f}"])
    table(
        f"where the time goes, {bench.ranks} ranks: us, p50 / p99 of each stage",
        ["operation", "bytes", "time", "until agreed", "until dispatched", "done", "messages"],
        rows,
    )
    return results


def bench_latency(bench: Bench) -> Any:
    """4 bytes: under a new name, under a known one, and torch's Gloo."""
    flags = ["--seconds", 0.02 if bench.smoke else 0.5]
    pairs = [
        {
            "khorus": bench.ours("--mode", "latency", *flags),
            "python": bench.peer("peer_allreduce.py", "--khorus", "--most", 4, *flags)[0],
            "torch": bench.peer("peer_allreduce.py", "--most", 4, *flags)[0],
        }
        for _ in range(bench.pairs)
    ]
    rows = []
    for key in ("new_us", "cached_us", "python_us"):
        if key == "python_us":
            mine = [pair["python"]["p50_us"] for pair in pairs]
        else:
            mine = [pair["khorus"][key]["p50"] for pair in pairs]
        other = [pair["torch"]["p50_us"] for pair in pairs]
        ratio = [a / b for a, b in zip(mine, other, strict=True)]
        rows.append(
            [
                key.removesuffix("_us").replace("python", "cached, from Python"),
                spread(mine, 1),
                spread(other, 1),
                spread(ratio),
            ]
        )
    table(
        f"4 bytes from submit to done, {bench.ranks} ranks, p50",
        ["name", "Khorus us", "torch Gloo us", "Khorus / torch"],
        rows,
    )
    return pairs


def bench_many(bench: Bench) -> Any:
    """Many small tensors: submitted together, and therefore fused, against one after the other."""
    runs = [bench.ours("--mode", "many") for _ in range(bench.pairs)]
    rows = []
    for i, first in enumerate(runs[0]):
        pairs = [pair for run in runs for pair in run[i]["pairs"]]
        rows.append(
            [
                f"{first['tensors']} x {first['bytes']:,}",
                spread([pair["together_us"] for pair in pairs], 0),
                spread([pair["one_by_one_us"] for pair in pairs], 0),
                spread([pair["one_by_one_us"] / pair["together_us"] for pair in pairs], 1),
            ]
        )
    table(
        "many tensors", ["tensors", "together us", "one by one us", "one by one / together"], rows
    )
    return runs


def bench_order(bench: Bench) -> Any:
    """120 tensors at once: all ranks in one order, and each rank in its own."""
    runs = [bench.ours("--mode", "order") for _ in range(bench.pairs)]
    pairs = [pair for run in runs for pair in run["pairs"]]
    table(
        f"{runs[0]['tensors']} tensors, 31 MiB, submitted at once",
        ["same order us", "each rank its own us", "own / same", "messages per step", "bytes"],
        [
            [
                spread([pair["same_us"] for pair in pairs], 0),
                spread([pair["shuffled_us"] for pair in pairs], 0),
                spread([pair["shuffled_us"] / pair["same_us"] for pair in pairs]),
                spread([run["control_messages_per_step"] for run in runs], 1),
                spread([run["control_bytes_per_step"] for run in runs], 0),
            ]
        ],
    )
    return runs


def bench_crowd(bench: Bench) -> Any:
    """Twice as many ranks as cores: the bandwidth must not collapse."""
    flags = ["--min", MIB, "--max", 16 * MIB, "--factor", 16]
    flags += ["--seconds", 0.02 if bench.smoke else 0.5]
    pairs = [
        {"two": bench.ours(*flags), "four": bench.ours(*flags, ranks=2 * bench.ranks)}
        for _ in range(bench.pairs)
    ]
    rows = []
    for i, first in enumerate(pairs[0]["two"]):
        two = [pair["two"][i]["busbw"] for pair in pairs]
        four = [pair["four"][i]["busbw"] for pair in pairs]
        ratio = [b / a for a, b in zip(two, four, strict=True)]
        rows.append([f"{first['bytes']:,}", spread(two), spread(four), spread(ratio)])
    table(
        "all-reduce with more ranks than cores: busbw, GB/s",
        ["bytes", f"{bench.ranks} ranks", f"{2 * bench.ranks} ranks", "ratio"],
        rows,
    )
    return pairs


def bench_idle(bench: Bench) -> Any:
    """Processor time of an engine without work, and of a process blocked in a collective."""
    seconds = 1 if bench.smoke else 3
    runs = [bench.ours("--mode", "idle", "--seconds", seconds) for _ in range(bench.pairs)]
    table(
        "processor time, per cent of a core",
        ["idle engine", "blocked in wait()"],
        [[spread([100 * run[key] for run in runs], 3) for key in ("idle", "blocked")]],
    )
    return runs
