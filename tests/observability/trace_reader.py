"""A strict reader of timelines: what a trace viewer takes for granted, checked.

The format is the JSON array of the Trace Event Format: events "B" and "E" that nest on their row,
instants "i", complete events "X", metadata "M" that names a row before it is used.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

REQUIRED: dict[str, dict[str, type]] = {
    "M": {"name": str, "pid": int, "args": dict},
    "B": {"name": str, "pid": int, "tid": int, "ts": int},
    "E": {"pid": int, "tid": int, "ts": int},
    "X": {"name": str, "pid": int, "tid": int, "ts": int, "dur": int},
    "i": {"name": str, "pid": int, "tid": int, "ts": int, "s": str},
}


class Trace:
    """The events of one file, by the name of their row."""

    def __init__(self, path: Path, whole: bool = True) -> None:
        """`whole`: recorded to its end, so that every event has ended."""
        events: list[dict[str, Any]] = json.loads(path.read_text())
        self.rows: dict[int, str] = {}
        self.begun: dict[str, list[str]] = defaultdict(list)  # by row, in order
        self.ticks: dict[str, list[str]] = defaultdict(list)
        self.instants: Counter[str] = Counter()
        self.arguments: dict[str, dict[str, str]] = {}
        self._open: dict[int, list[str]] = defaultdict(list)
        last = 0
        for event in events:
            phase = event["ph"]
            for key, kind in REQUIRED[phase].items():
                assert type(event[key]) is kind, event
            if phase != "M":
                assert event["ts"] >= last, event
                last = event["ts"]
            self._take(phase, event)
        if whole:
            assert not any(self._open.values()), self._open

    def _take(self, phase: str, event: dict[str, Any]) -> None:
        pid = event["pid"]
        if phase == "M":
            if event["name"] == "process_name":
                assert pid not in self.rows, event
                self.rows[pid] = event["args"]["name"]
            return
        row = self.rows[pid]  # a KeyError is a row without a name
        if phase == "B":
            self._open[pid].append(event["name"])
            self.begun[row].append(event["name"])
            self.arguments.setdefault(event["name"], event.get("args", {}))
        elif phase == "E":
            self._open[pid].pop()
        elif phase == "X":
            self.ticks[row].append(event["name"])
        else:
            self.instants[event["name"]] += 1
