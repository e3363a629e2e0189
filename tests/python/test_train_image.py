"""train_image.py, reduced: the same however it is spread; its curves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from no_rank import engine, still_usable  # noqa: F401
from trainers import good, run


def numbers(lines: list[str], pattern: str) -> list[float]:
    return [float(match[1]) for line in lines if (match := re.search(pattern, line))]


def curve(lines: list[str]) -> list[float]:
    return numbers(lines, r" loss (\d+\.\d+)")


@pytest.fixture(name="three", scope="module")
def on_three_ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    board = tmp_path_factory.mktemp("board")
    flags = ["--epochs", 2, "--tensorboard", board]
    return good(run("train_image.py", *flags, ranks=3)), board


def test_digits_are_recognised_alike_on_one_rank_and_on_three(
    three: tuple[list[str], Path],
) -> None:
    lines, _ = three
    assert numbers(lines, r"accuracy (\d+\.\d+)")[-1] > 93
    one = good(run("train_image.py", "--epochs", 2))
    assert len(curve(one)) == 2
    # Uneven batches, too, are one batch; the sums differ in their last bits.
    assert curve(lines) == pytest.approx(curve(one), abs=5e-3)


def test_tensorboard_gets_the_curves(three: tuple[list[str], Path]) -> None:
    lines, board = three
    [path] = board.iterdir()  # only rank 0 writes
    found = scalars_in(path.read_bytes())
    assert found["loss"] == pytest.approx(curve(lines), abs=1e-4)
    accuracies = [value / 100 for value in numbers(lines, r"accuracy (\d+\.\d+)")]
    assert found["accuracy/test"] == pytest.approx(accuracies, abs=1e-4)


def scalars_in(content: bytes) -> dict[str, list[float]]:
    """Of a file of events: records of length (8 bytes), its checksum (4), event, checksum (4)."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found: dict[str, list[float]] = {}
    while content:
        length = int.from_bytes(content[:8], "little")
        event = event_pb2.Event.FromString(content[12 : 12 + length])
        for value in event.summary.value:
            found.setdefault(value.tag, []).append(value.simple_value)
        content = content[16 + length :]
    return found


def test_without_tensorboard_it_says_what_to_install(tmp_path: Path) -> None:
    for name in ("tensorboardX", "tensorboard"):
        (tmp_path / f"{name}.py").write_text("raise ImportError")
    flags = ["--epochs", 1, "--tensorboard", tmp_path / "board"]
    result = run("train_image.py", *flags, path=tmp_path)
    assert result.returncode == 1
    assert "pip install tensorboardX" in result.stderr
    assert "Traceback" not in result.stderr
