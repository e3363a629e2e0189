"""Timelines of all ranks as one trace, with their clocks aligned: `khorus trace merge`.

    khorus trace merge trace.json -o merged.json      also reads trace.json.1, trace.json.2, ...

Each rank's timeline counts on the monotonic clock of its host. Ranks with the same clock need no
alignment. For the others the operations that both took part in bound the difference: no rank hears
that all have agreed before every rank has submitted, so with x = (their clock) - (ours)

    submitted there - agreed here  <=  x  <=  agreed there - submitted here

for each operation, and for all together the narrowest of these. The middle is taken; half of the
width is how wrong that can be, and is said. Where clocks drift apart so far that no x fits a whole
job, x is found for windows of ten seconds and goes straight from each to the next.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

WINDOW_US = 10_000_000

Event = dict[str, Any]


class TraceError(Exception):
    """What is wrong with a file, and with which."""


@dataclass
class Timeline:
    """One file: times are in microseconds of the rank's own clock."""

    path: Path
    events: list[Event]
    rank: int
    host: str
    clock: str  # names the clock: equal only where it is the same one
    origin_us: int  # of the events' times
    unix_us: int  # the time of day at the origin
    submitted: dict[int, int] = field(default_factory=dict)  # by the operation's number
    agreed: dict[int, int] = field(default_factory=dict)


def read(path: Path) -> Timeline:
    try:
        events: list[Event] = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise TraceError(f"{path}: not a timeline: {error}") from error
    about = next(
        (e["args"] for e in events if isinstance(e, dict) and e.get("name") == "khorus_clock"), None
    )
    if about is None:
        raise TraceError(f"{path}: does not say which rank and clock it is of; made by Khorus?")
    timeline = Timeline(
        path,
        events,
        int(about["rank"]),
        str(about["host"]),
        str(about["clock"]),
        int(about["origin_us"]),
        int(about["unix_us"]),
    )
    began: dict[int, list[int]] = defaultdict(list)  # by row: of its open events
    for event in events:
        if event["ph"] == "B":
            began[event["pid"]].append(timeline.origin_us + event["ts"])
        elif event["ph"] == "E" and began[event["pid"]]:
            begin = began[event["pid"]].pop()
            number = event.get("args", {}).get("seq")
            if number is not None:
                timeline.submitted[number] = begin
                timeline.agreed[number] = timeline.origin_us + event["ts"]
    return timeline


@dataclass
class Clock:
    """One clock, and what its ranks have seen."""

    name: str
    hosts: set[str] = field(default_factory=set)
    submitted: dict[int, int] = field(default_factory=dict)  # by its last rank
    agreed: dict[int, int] = field(default_factory=dict)  # by its first
    unix_us: int = 0  # the time of day when it stood at 0

    def add(self, timeline: Timeline) -> None:
        self.hosts.add(timeline.host)
        self.unix_us = timeline.unix_us - timeline.origin_us
        for number, time in timeline.submitted.items():
            self.submitted[number] = max(time, self.submitted.get(number, time))
        for number, time in timeline.agreed.items():
            self.agreed[number] = min(time, self.agreed.get(number, time))


@dataclass
class Offset:
    """What one clock is ahead of another, by the time on the former."""

    points: list[tuple[float, float]]  # (time, ahead), ascending
    error_us: float | None  # None: nothing in common but the time of day
    operations: int = 0

    def at(self, time: float) -> float:
        index = bisect(self.points, (time, float("inf")))
        if index == 0:
            return self.points[0][1]
        if index == len(self.points):
            return self.points[-1][1]
        (begin, low), (end, high) = self.points[index - 1], self.points[index]
        return low + (high - low) * (time - begin) / (end - begin)


def offset_between(here: Clock, there: Clock) -> Offset | None:
    """How far `there` is ahead of `here`; None: they have no operation in common."""
    bounds = sorted(
        (there.agreed[n], there.submitted[n] - here.agreed[n], there.agreed[n] - here.submitted[n])
        for n in here.agreed.keys() & there.agreed.keys()
    )
    if not bounds:
        return None
    low, high = max(b[1] for b in bounds), min(b[2] for b in bounds)
    if low <= high:
        return Offset([(bounds[0][0], (low + high) / 2)], (high - low) / 2, len(bounds))
    windows: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for bound in bounds:
        windows[bound[0] // WINDOW_US].append(bound)
    points, error = [], 0.0
    for window in windows.values():
        low, high = max(b[1] for b in window), min(b[2] for b in window)
        points.append(((window[0][0] + window[-1][0]) / 2, (low + high) / 2))
        error = max(error, abs(high - low) / 2)
    return Offset(points, error, len(bounds))


@dataclass
class Alignment:
    """Offsets of all clocks from that of the lowest rank, each found through `via`."""

    reference: str
    steps: dict[str, tuple[str, Offset]]

    def aligned(self, clock: str, time: float) -> float:
        while clock != self.reference:
            clock, offset = self.steps[clock]
            time -= offset.at(time)
        return time

    def error_us(self, clock: str) -> float | None:
        error = 0.0
        while clock != self.reference:
            clock, offset = self.steps[clock]
            if offset.error_us is None:
                return None
            error += offset.error_us
        return error


def align(timelines: list[Timeline]) -> tuple[Alignment, dict[str, Clock]]:
    clocks: dict[str, Clock] = {}
    for timeline in timelines:
        clocks.setdefault(timeline.clock, Clock(timeline.clock)).add(timeline)
    reference = timelines[0].clock
    alignment = Alignment(reference, {})
    found, left = [reference], [name for name in clocks if name != reference]
    while left:
        ways = [
            (alignment.error_us(near) or 0.0, near, far, offset)
            for near in found
            for far in left
            if (offset := offset_between(clocks[near], clocks[far])) is not None
        ]
        if ways:
            _, near, far, offset = min(ways, key=lambda way: way[0] + (way[3].error_us or 0.0))
        else:
            near, far = reference, left[0]
            offset = Offset([(0.0, clocks[near].unix_us - clocks[far].unix_us)], None)
        alignment.steps[far] = (near, offset)
        found.append(far)
        left.remove(far)
    return alignment, clocks


def merged_events(timelines: list[Timeline], alignment: Alignment) -> Iterator[Event]:
    """A process per rank, in which every row of its timeline is a thread."""
    start = min(alignment.aligned(t.clock, t.origin_us) for t in timelines)
    for timeline in timelines:
        rank = timeline.rank
        name = {"name": f"rank {rank} ({timeline.host})"}
        yield {"name": "process_name", "ph": "M", "pid": rank, "args": name}
        yield {"name": "process_sort_index", "ph": "M", "pid": rank, "args": {"sort_index": rank}}
        for event in timeline.events:
            row = event["pid"]
            if event["ph"] == "M":
                if row == 0 or not event["name"].startswith("process_"):
                    continue
                named = event["name"].replace("process_", "thread_")
                yield {**event, "name": named, "pid": rank, "tid": row}
                continue
            time = alignment.aligned(timeline.clock, timeline.origin_us + event["ts"]) - start
            changed = {**event, "pid": rank, "tid": row, "ts": round(time, 3)}
            if event["ph"] == "i":
                changed["s"] = "p"
            yield changed


def describe(alignment: Alignment, clocks: dict[str, Clock]) -> list[str]:
    """A sentence for each clock that is not the first rank's."""
    own = ", ".join(sorted(clocks[alignment.reference].hosts))
    lines = []
    for name, clock in clocks.items():
        if name == alignment.reference:
            continue
        ahead = -alignment.aligned(name, 0.0) / 1e6
        error = alignment.error_us(name)
        hosts = ", ".join(sorted(clock.hosts))
        if error is None:
            how = "by the time of day alone, for they have no operation in common"
        else:
            how = f"+-{error:.0f} us, from {alignment.steps[name][1].operations} operations"
        lines.append(f"the clock of {hosts} is {ahead:.6f} s ahead of that of {own} ({how})")
    return lines


def files_of(paths: list[Path]) -> list[Path]:
    """A single path stands for those of all ranks."""
    if len(paths) != 1:
        return paths
    name = paths[0].name
    others = [
        path
        for path in paths[0].parent.glob(f"{name}.*")
        if path.name.removeprefix(f"{name}.").isdecimal()
    ]
    return [*paths, *sorted(others, key=lambda path: int(path.suffix[1:]))]


def merge(paths: list[Path], out: TextIO) -> list[str]:
    """Writes the merged trace to `out`; returns what there is to say about clocks."""
    timelines = sorted((read(path) for path in files_of(paths)), key=lambda t: t.rank)
    for one, other in itertools.pairwise(timelines):
        if one.rank == other.rank:
            raise TraceError(f"{one.path} and {other.path}: both are of rank {one.rank}")
    alignment, clocks = align(timelines)
    notes = describe(alignment, clocks)
    out.write('{"otherData":' + json.dumps({"clocks": notes}) + ',"traceEvents":[\n')
    separator = ""
    for event in merged_events(timelines, alignment):
        out.write(separator + json.dumps(event, separators=(",", ":")))
        separator = ",\n"
    out.write("\n]}\n")
    hosts = len({t.host for t in timelines})
    return [f"{len(timelines)} ranks on {hosts} host{'s' if hosts > 1 else ''}", *notes]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="khorus trace", description="Works on timelines.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "merge", help="make one trace of the timelines of all ranks, with aligned clocks"
    )
    command.add_argument("files", nargs="+", type=Path, metavar="FILE")
    command.add_argument("-o", "--output", type=Path, help="default: FILE.merged")
    options = parser.parse_args(arguments)
    output = options.output or Path(f"{options.files[0]}.merged")
    try:
        with output.open("w", encoding="utf-8") as out:
            lines = merge(options.files, out)
    except TraceError as error:
        output.unlink(missing_ok=True)
        print(f"khorus trace: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"khorus trace: {output}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"{output}: " + "; ".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
