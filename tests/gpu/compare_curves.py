"""Whether two runs of train_lm have learned alike: compare_curves.py FOLDER FOLDER TOLERANCE

Compares the losses in their metrics.jsonl, step by step. Exit code 1 if one differs by more.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def losses_of(folder: str) -> dict[tuple[str, int], float]:
    found = {}
    for line in (Path(folder) / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for key in ("loss", "validation_loss"):
            if key in record:
                found[key, record["step"]] = record[key]
    return found


def main(one: str, other: str, tolerance: float) -> int:
    ours, theirs = losses_of(one), losses_of(other)
    if not ours or ours.keys() != theirs.keys():
        print(f"{one} and {other} have not reported the same steps")
        return 1
    worst = max(ours, key=lambda key: abs(ours[key] - theirs[key]))
    difference = abs(ours[worst] - theirs[worst])
    kind, step = worst
    print(f"{len(ours)} losses; the largest difference is {difference:.2g}, {kind} of step {step}")
    return 0 if difference <= tolerance else 1


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
