"""SIGKILL to a rank: the survivors' dumps name what the job was doing, also to torch's tools."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import unittest
from pathlib import Path
from typing import Any

from launching import LaunchTest, khorusrun, running

WORKER = os.environ["KHORUS_TEST_WORKER"]
LAYERS = {f"layer.{i}" for i in range(4)}
OPERATIONS = LAYERS | {"rows", "weights", "end of step"}

# The keys of an entry in torch's format 2.10.
KEYS = {
    *("record_id", "pg_id", "process_group", "collective_seq_id", "p2p_seq_id", "op_id"),
    *("profiling_name", "time_created_ns", "time_discovered_started_ns"),
    *("time_discovered_completed_ns", "duration_ms", "input_sizes", "input_dtypes"),
    *("output_sizes", "output_dtypes", "state", "is_p2p", "retired", "timeout_ms"),
}


class FlightRecorder(LaunchTest):
    def kill_one_of_three(self) -> dict[int, dict[str, Any]]:
        """Runs a job, kills the rank that all wait for; the dumps of the others by rank."""
        with running(
            *("-np", "3", "--flight-recorder-path", str(self.folder / "rank_"), WORKER, "stuck"),
            KHORUS_BACKEND="gloo",
        ) as job:
            ready = [line.split() for line in job.lifeline.wait_for("ready", 3)]
            pids = {int(rank): int(pid) for _, rank, pid in ready}
            os.kill(pids[1], signal.SIGKILL)
            done = job.wait()
        self.assertEqual(done.code, 128 + signal.SIGKILL)
        names = sorted(path.name for path in self.folder.iterdir())
        self.assertEqual(names, ["rank_0", "rank_2"], done.err)
        return {r: json.loads((self.folder / f"rank_{r}").read_text()) for r in (0, 2)}

    def test_survivors_name_the_last_operations(self) -> None:
        dumps = self.kill_one_of_three()
        for rank, dump in dumps.items():
            self.assertEqual((dump["version"], dump["rank"]), ("2.10", rank))
            self.assertIn("rank 1", dump["khorus_reason"])
            self.assertEqual(dump["pg_config"]["0"]["ranks"], "[0, 1, 2]")
            entries = dump["entries"]
            self.assertGreaterEqual(len(entries), 3 * len(OPERATIONS))
            for entry in entries:
                self.assertLessEqual(KEYS, entry.keys())
                self.assertIn(entry["khorus_name"], OPERATIONS)
            agreed = [entry for entry in entries if entry["collective_seq_id"] > 0]
            order = [entry["collective_seq_id"] for entry in agreed]
            self.assertEqual(order, sorted(order))
            # All layers were submitted, and rank 1 died without.
            waiting = [e for e in entries if not e["retired"] or e["khorus_error"] == "peer lost"]
            self.assertEqual({e["khorus_name"] for e in waiting}, LAYERS)
            complete = [entry for entry in entries if entry["state"] == "completed"]
            self.assertGreater(len(complete), 2 * len(OPERATIONS))
        # What was agreed is the same everywhere, whatever the order of submission.
        of_rank = [
            {e["collective_seq_id"]: e["khorus_name"] for e in dump["entries"]}
            for dump in dumps.values()
        ]
        both = (of_rank[0].keys() & of_rank[1].keys()) - {0}
        self.assertGreater(len(both), 2 * len(OPERATIONS))
        self.assertTrue(all(of_rank[0][number] == of_rank[1][number] for number in both))

    @unittest.skipUnless(importlib.util.find_spec("torch"), "the analyzer is torch's")
    def test_torch_matches_every_operation(self) -> None:
        from torch.distributed.flight_recorder.components.builder import build_db

        steps = 5
        prefix = str(self.folder / "rank_")
        done = khorusrun("-np", "3", WORKER, str(steps), prefix, KHORUS_BACKEND="gloo")
        self.assertEqual(done.code, 0, done.err)
        dumps = {rank: json.loads(Path(f"{prefix}{rank}").read_text()) for rank in range(3)}
        options = argparse.Namespace(
            verbose=False, just_print_entries=False, allow_incomplete_ranks=False, mismatch_cap=10
        )
        details = {f"rank_{rank}": dump for rank, dump in dumps.items()}
        database = build_db(details, options, "2.10")
        self.assertEqual([group.size for group in database.groups], [3])
        self.assertEqual(len(database.collectives), steps * len(OPERATIONS))
        for collective in database.collectives:
            self.assertTrue(collective.pass_check, collective)
            self.assertEqual(collective.collective_state, "completed")


if __name__ == "__main__":
    unittest.main()
