"""`khorus trace merge`: the timelines of real ranks, whose clocks are then set apart."""

from __future__ import annotations

import json
import os
import random
import runpy
import subprocess
import sys
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launching import LaunchTest, khorusrun

WORKER = os.environ["KHORUS_TEST_WORKER"]
TOOL = Path(__file__).resolve().parents[2] / "python" / "khorus" / "trace.py"
RANKS = 3
STEPS = 30

Event = dict[str, Any]


def merge(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), "merge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def set_apart(path: Path, name: str, ahead: Callable[[int], float]) -> None:
    """Gives a timeline a clock of its own, which is `ahead(t)` ahead at the time t."""
    events: list[Event] = json.loads(path.read_text())
    about = next(e["args"] for e in events if e["name"] == "khorus_clock")
    origin = about["origin_us"]
    for event in events:
        if "ts" in event:
            event["ts"] += round(ahead(origin + event["ts"]) - ahead(origin))
    about["clock"] = about["host"] = name
    about["origin_us"] += round(ahead(origin))
    path.write_text(json.dumps(events))


class Merge(LaunchTest):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.folder / "trace.json"
        done = khorusrun(
            *("-np", str(RANKS), "--timeline-filename", str(self.path), WORKER, str(STEPS))
        )
        self.assertEqual(done.code, 0, done.err)
        self.out = self.folder / "merged.json"

    def merged(self) -> tuple[list[str], list[Event]]:
        done = merge(self.path, "-o", self.out)
        self.assertEqual(done.returncode, 0, done.stderr)
        trace = json.loads(self.out.read_text())
        return trace["otherData"]["clocks"], trace["traceEvents"]

    def times(self, events: list[Event]) -> list[tuple[int, int, str, float]]:
        return [(e["pid"], e["tid"], e["ph"], e["ts"]) for e in events if e["ph"] != "M"]

    def test_ranks_of_one_host_need_no_alignment(self) -> None:
        notes, events = self.merged()
        self.assertEqual(notes, [])
        names = {
            e["args"]["name"]
            for e in events
            if e["name" if "name" in e else "ph"] == "process_name"
        }
        self.assertEqual(
            {name.split(" (")[0] for name in names}, {f"rank {r}" for r in range(RANKS)}
        )
        depth: dict[tuple[int, int], int] = {}
        for pid, tid, phase, time in self.times(events):
            self.assertGreaterEqual(time, 0)
            if phase in "BE":
                depth[pid, tid] = depth.get((pid, tid), 0) + (1 if phase == "B" else -1)
                self.assertGreaterEqual(depth[pid, tid], 0)
        self.assertFalse(any(depth.values()))
        threads = {e["args"]["name"] for e in events if e.get("name") == "thread_name"}
        self.assertIn("layer.0", threads)

    def check_alignment(self, notes: list[str], events: list[Event], truth: list[Event]) -> float:
        """Every time is as wrong as the notes admit at most; returns the largest admission."""
        errors = [float(note.split("+-")[1].split(" us")[0]) for note in notes]
        self.assertEqual(len(errors), 2)
        for ours, exact in zip(self.times(events), self.times(truth), strict=True):
            self.assertEqual(ours[:3], exact[:3])
            # Both traces begin at their earliest event, hence twice; 1 us is rounding.
            self.assertLessEqual(abs(ours[3] - exact[3]), 2 * max(errors) + 2, ours)
        return max(errors)

    def test_clocks_hours_apart_are_aligned(self) -> None:
        _, truth = self.merged()
        set_apart(self.path.with_name("trace.json.1"), "one", lambda _: 3600e6)
        set_apart(self.path.with_name("trace.json.2"), "two", lambda _: -12.3e6)
        notes, events = self.merged()
        self.assertRegex(notes[0], r"^the clock of one is 3(600|599)\.\d+ s ahead of that of ")
        self.assertRegex(notes[1], r"^the clock of two is -12\.[23]\d+ s ahead of that of ")
        self.check_alignment(notes, events, truth)

    def test_a_rank_in_a_time_namespace_is_aligned(self) -> None:
        """The kernel's own second clock: it needs the right to make one."""
        apart = "unshare --time --monotonic 5000 --fork"
        probe = subprocess.run([*apart.split(), "true"], capture_output=True, check=False)
        if probe.returncode != 0:
            self.skipTest(f"no time namespace can be made here: {probe.stderr!r}")
        program = self.script(f'[ "$KHORUS_RANK" = 2 ] && exec {apart} "$@"\nexec "$@"\n')
        trace = ("--timeline-filename", str(self.path))
        done = khorusrun("-np", str(RANKS), *trace, program, WORKER, str(STEPS))
        self.assertEqual(done.code, 0, done.err)
        (note,), _ = self.merged()
        ahead, error = (
            float(note.split(" is ")[1].split()[0]),
            float(note.split("+-")[1].split()[0]),
        )
        self.assertLessEqual(abs(ahead - 5000) * 1e6, error + 1, note)

    def test_a_clock_that_drifts_is_followed(self) -> None:
        """Checked on a made-up job of ten minutes: real ones of that length are rare in tests."""
        files = [self.folder / "long.json", self.folder / "long.json.1"]
        noise = random.Random(7)
        lines: list[list[Event]] = [[], []]
        for rank in (0, 1):
            args = {
                "rank": rank,
                "host": f"h{rank}",
                "clock": str(rank),
                "origin_us": 0,
                "unix_us": 0,
            }
            lines[rank].append({"name": "khorus_clock", "ph": "M", "pid": 0, "args": args})
        drift = 1.0 + 50e-6
        for number in range(1, 6001):
            submitted = [number * 100_000 + noise.randrange(300) for _ in range(2)]
            for rank in (0, 1):
                agreed = max(submitted) + 20 + noise.randrange(80)
                times = [submitted[rank], agreed]
                if rank == 1:
                    times = [round(5e6 + time * drift) for time in times]
                lines[rank].append({"name": "N", "ph": "B", "pid": 1, "tid": 0, "ts": times[0]})
                end = {"ph": "E", "pid": 1, "tid": 0, "ts": times[1], "args": {"seq": number}}
                lines[rank].append(end)
        for file, events in zip(files, lines, strict=True):
            file.write_text(json.dumps(events))
        trace = runpy.run_path(str(TOOL))
        timelines = [trace["read"](file) for file in files]
        alignment, clocks = trace["align"](timelines)
        (note,) = trace["describe"](alignment, clocks)
        error = float(note.split("+-")[1].split(" us")[0])
        self.assertLess(error, 500, "a window of ten seconds at 50 ppm, less what was exact")
        for time in range(0, 600_000_000, 1_000_000):
            self.assertLessEqual(abs(alignment.aligned("1", 5e6 + time * drift) - time), error + 50)

    def test_what_cannot_be_merged_is_named(self) -> None:
        other = self.folder / "other.json"
        for text, why in (("[", "not a timeline"), ("[]", "does not say which rank")):
            other.write_text(text)
            done = merge(self.path, other, "-o", self.out)
            self.assertEqual(done.returncode, 1)
            self.assertIn(f"{other}: {why}", done.stderr)
            self.assertFalse(self.out.exists())
        done = merge(self.path, self.path)
        self.assertIn("both are of rank 0", done.stderr)
        done = merge(self.folder / "none.json")
        self.assertIn("none.json: No such file", done.stderr)


if __name__ == "__main__":
    unittest.main()
