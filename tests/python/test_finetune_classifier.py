"""finetune_classifier.py, reduced: it learns, its model is kept, its accuracy is of all ranks."""

from __future__ import annotations

import re
from pathlib import Path

from no_rank import engine, still_usable  # noqa: F401
from trainers import good, run

FLAGS = ["--packages", "asyncio,email,tkinter,unittest", "--examples", 200, "--width", 32]
FLAGS += ["--layers", 1, "--words", 32, "--batch", 8]


def held_out(lines: list[str]) -> list[float]:
    return [float(found[1]) for line in lines if (found := re.search(r"held out ([\d.]+)%", line))]


def test_it_learns_and_one_rank_measures_what_two_did(tmp_path: Path) -> None:
    learn = [*FLAGS, "--epochs", 3, "--learning-rate", 0.01, "--out", tmp_path]
    two = held_out(good(run("finetune_classifier.py", *learn, ranks=2)))
    assert len(two) == 3
    assert two[-1] > 40  # of 25 by guessing
    look = [*FLAGS, "--epochs", 1, "--learning-rate", 0, "--start", tmp_path]
    assert held_out(good(run("finetune_classifier.py", *look))) == two[-1:]


def test_a_package_that_is_not_there_is_named() -> None:
    result = run("finetune_classifier.py", "--packages", "email,nothing")
    assert result.returncode == 1
    assert "nothing has no Python files" in result.stderr
