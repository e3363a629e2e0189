"""Timelines of a job of real processes, whole and after SIGKILL."""

from __future__ import annotations

import os
import signal
import unittest

from launching import LaunchTest, khorusrun, running
from trace_reader import Trace

WORKER = os.environ["KHORUS_TEST_WORKER"]
STEPS = 10
KILLS = 20 if os.environ.get("KHORUS_TEST_SOAK") == "1" else 3


class Timeline(LaunchTest):
    def test_events_of_every_rank(self) -> None:
        path = self.folder / "trace.json"
        done = khorusrun(
            *("-np", "3", "--timeline-filename", str(path), "--timeline-mark-cycles"),
            *(WORKER, str(STEPS)),
            KHORUS_BACKEND="gloo",
        )
        self.assertEqual(done.code, 0, done.err)
        for rank, file in enumerate((path, path.with_name("trace.json.1"))):
            trace = Trace(file)
            self.assertEqual(trace.rows[0], f"rank {rank}")
            for layer in range(4):
                events = trace.begun[f"layer.{layer}"]
                self.assertEqual(events.count("NEGOTIATE_ALLREDUCE"), STEPS)
                self.assertEqual(events[:3], ["NEGOTIATE_ALLREDUCE", "ALLREDUCE", "QUEUE"])
                self.assertEqual(events.count("GLOO_ALLREDUCE"), STEPS)
            self.assertEqual(trace.begun["rows"].count("GLOO_ALLGATHER"), STEPS)
            self.assertEqual(trace.begun["weights"].count("GLOO_BROADCAST"), STEPS)
            self.assertEqual(trace.begun["end of step"], ["NEGOTIATE_BARRIER"] * STEPS)
            self.assertGreaterEqual(trace.instants["CYCLE_START"], 4 * STEPS)
            self.assertEqual(trace.arguments["ALLGATHER"], {"dtype": "float32", "shape": "[100]"})
            # Only rank 0 hears of all.
            arrivals = sorted(trace.ticks["rows"])
            self.assertEqual(arrivals, sorted(["0", "1", "2"] * STEPS) if rank == 0 else [])

    def test_a_killed_rank_leaves_a_whole_file(self) -> None:
        for kill in range(KILLS):
            path = self.folder / f"trace.{kill}.json"
            with running(
                "-np", "2", "--timeline-filename", str(path), WORKER, "-1", KHORUS_BACKEND="gloo"
            ) as job:
                ready = [line.split() for line in job.lifeline.wait_for("ready", 2)]
                victim = kill % 2
                pid = next(int(pid) for _, rank, pid in ready if int(rank) == victim)
                os.kill(pid, signal.SIGKILL)
                self.assertEqual(job.wait().code, 128 + signal.SIGKILL)
            files = [path, path.with_name(f"{path.name}.1")]
            dead = Trace(files[victim], whole=False)
            self.assertIn("ALLREDUCE", dead.begun["layer.0"])
            survivor = Trace(files[1 - victim])
            self.assertIn("ALLREDUCE", survivor.begun["layer.0"])


if __name__ == "__main__":
    unittest.main()
