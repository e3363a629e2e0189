"""Metrics of a job of real processes, read by Prometheus' own parser."""

from __future__ import annotations

import json
import os
import unittest
from pathlib import Path

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from launching import LaunchTest, khorusrun

WORKER = os.environ["KHORUS_TEST_WORKER"]
STEPS = 20
KINDS = {"allreduce": 4 * STEPS, "allgather": STEPS, "broadcast": STEPS, "barrier": STEPS}


def families_of(path: Path) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(path.read_text())}


def value_of(family: Metric, name: str, **labels: str) -> float:
    """The value of the one sample with these labels."""
    found: list[float] = [
        sample.value
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


class Metrics(LaunchTest):
    def test_prometheus_text(self) -> None:
        done = khorusrun(
            *("-np", "3", "--metrics-filename", str(self.folder / "m_{rank}.prom")),
            *(WORKER, str(STEPS)),
            KHORUS_BACKEND="gloo",
        )
        self.assertEqual(done.code, 0, done.err)
        names = sorted(path.name for path in self.folder.iterdir())
        self.assertEqual(names, ["m_0.prom", "m_1.prom", "m_2.prom"])
        for rank in range(3):
            self.check_page(families_of(self.folder / f"m_{rank}.prom"), str(rank))

    def check_page(self, families: dict[str, Metric], rank: str) -> None:
        for name, family in families.items():
            self.assertRegex(name, "^khorus_[a-z_]+$")
            self.assertTrue(family.documentation.endswith("."), name)
            self.assertIn(family.type, ("counter", "gauge", "histogram"))
            for sample in family.samples:
                self.assertEqual(sample.labels["rank"], rank)
                # What is counted ends in _total, and only that.
                self.assertEqual(family.type == "counter", sample.name.endswith("_total"))
            if family.type == "histogram":
                self.check_histogram(family)
        for kind, count in KINDS.items():
            labels = {"kind": kind, "backend": "gloo"}
            done = families["khorus_operations"]
            self.assertEqual(value_of(done, "khorus_operations_total", **labels), count)
            negotiation = families["khorus_negotiation_seconds"]
            self.assertEqual(
                value_of(negotiation, "khorus_negotiation_seconds_count", **labels), count
            )
        info = families["khorus_info"].samples[0]
        self.assertEqual((info.value, info.labels["size"]), (1, "3"))
        in_flight = families["khorus_operations_in_flight"].samples[0]
        self.assertEqual(in_flight.value, 0)
        epoch = families["khorus_epoch"].samples[0]
        self.assertGreater(epoch.value, 0)

    def check_histogram(self, family: Metric) -> None:
        last: dict[str, float] = {}
        for sample in family.samples:
            if not sample.name.endswith("_bucket"):
                continue
            kind = sample.labels.get("kind", "")
            self.assertGreaterEqual(sample.value, last.get(kind, 0.0), family.name)
            last[kind] = sample.value
        self.assertTrue(last, family.name)
        for kind, count in last.items():
            labels = {"kind": kind} if kind else {}
            self.assertEqual(value_of(family, family.name + "_count", **labels), count)

    def test_json_lines_at_intervals(self) -> None:
        path = self.folder / "metrics.jsonl"
        done = khorusrun(
            *("-np", "2", "--metrics-json-filename", str(path), "--metrics-interval", "0.01"),
            *(WORKER, "1000"),
        )
        self.assertEqual(done.code, 0, done.err)
        for rank, file in enumerate((path, self.folder / "metrics.jsonl.1")):
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            self.assertGreater(len(lines), 1)
            times = [line["time"] for line in lines]
            self.assertEqual(times, sorted(times))
            key = f'khorus_decisions_total{{rank="{rank}"}}'
            counts = [line["samples"][key] for line in lines]
            self.assertEqual(counts, sorted(counts))
            self.assertGreater(counts[-1], 1000)

    def test_nothing_is_written_unasked(self) -> None:
        done = khorusrun("-np", "2", WORKER, "3", cwd=str(self.folder))
        self.assertEqual((done.code, list(self.folder.iterdir())), (0, []))

    def test_a_path_that_cannot_be_written_is_a_warning(self) -> None:
        done = khorusrun("-np", "1", "--metrics-filename", "no/such/folder/m", WORKER, "3")
        self.assertEqual(done.code, 0)
        self.assertIn("no/such/folder/m", done.err)


if __name__ == "__main__":
    unittest.main()
