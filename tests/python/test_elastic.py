"""Elastic training: ranks are killed in earnest, and the training ends as if they had not been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from commands import ended
from khorus.torch.elastic import ElasticSampler, TorchState
from no_rank import engine, still_usable  # noqa: F401
from trainers import KHORUSRUN

PROGRAM = Path(__file__).parent / "elastic_program.py"
BOUND_S = 400  # ranks that import torch on a busy machine
soak = pytest.mark.skipif(
    os.environ.get("KHORUS_TEST_SOAK") != "1", reason="every rank imports torch: soak only"
)


def run(
    folder: Path, *, ranks: int, restarts: int, deaths: dict[str, int], batches: int = 12
) -> subprocess.CompletedProcess[str]:
    """`deaths`: "rank.life" to the batch in which that life of the rank ends by SIGKILL."""
    plan = {"deaths": deaths, "batches": batches, "folder": str(folder)}
    return ended(
        *[KHORUSRUN, "-np", ranks, "--reset-limit", restarts],
        *[sys.executable, "-B", PROGRAM, json.dumps(plan)],
        environment=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout_s=BOUND_S,
    )


def results(folder: Path, ranks: int) -> list[dict[str, Any]]:
    return [json.loads((folder / f"result.{rank}").read_text()) for rank in range(ranks)]


@pytest.fixture(name="undisturbed", scope="module")
def train_undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run(folder, ranks=2, restarts=0, deaths={})
    assert done.returncode == 0, done.stderr
    first, second = results(folder, 2)
    assert first["weights"] == second["weights"]
    assert first["batches"] == second["batches"] == list(range(12))
    return list(first["weights"])


@pytest.mark.parametrize("victim", [pytest.param(0, marks=soak), 1])
def test_a_killed_rank_comes_back_and_nothing_is_lost(
    tmp_path: Path, undisturbed: list[float], victim: int
) -> None:
    done = run(tmp_path, ranks=2, restarts=1, deaths={f"{victim}.0": 7})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed by signal 9" in done.stderr
    assert "starting it again (1 of 1)" in done.stderr
    both = results(tmp_path, 2)
    for result in both:
        assert result["weights"] == undisturbed
    survivor, newcomer = both[1 - victim], both[victim]
    # Commits are after batches 4 and 9: batch 7 was begun, and 5 and 6 are done again.
    assert survivor["batches"] == [*range(7), *range(5, 12)]
    assert newcomer["batches"] == list(range(5, 12))
    assert (survivor["resets"], newcomer["resets"]) == (1, 0)
    assert newcomer["notes"] == survivor["notes"] == ["epoch 0 began"]


@soak
def test_ranks_killed_at_once_and_one_after_the_other(
    tmp_path: Path, undisturbed: list[float]
) -> None:
    deaths = {"0.0": 3, "1.0": 6, "1.1": 11}
    done = run(tmp_path, ranks=2, restarts=3, deaths=deaths)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(3 of 3)" in done.stderr
    assert [result["weights"] for result in results(tmp_path, 2)] == [undisturbed] * 2


@soak
def test_three_ranks_lose_two_in_the_same_batch(tmp_path: Path) -> None:
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    assert run(quiet, ranks=3, restarts=0, deaths={}).returncode == 0
    done = run(tmp_path, ranks=3, restarts=2, deaths={"0.0": 7, "2.0": 7})
    assert done.returncode == 0, done.stdout + done.stderr
    expected = [result["weights"] for result in results(quiet, 3)]
    assert [result["weights"] for result in results(tmp_path, 3)] == expected


@soak
def test_when_no_restart_is_left_the_job_ends(tmp_path: Path) -> None:
    done = run(tmp_path, ranks=2, restarts=1, deaths={"1.0": 2, "1.1": 3})
    assert done.returncode == 128 + 9, done.stdout + done.stderr
    assert "rank 1 failed first: killed by signal 9" in done.stderr


def test_a_sampler_gives_what_is_left_of_the_epoch() -> None:
    sampler = ElasticSampler(range(10), shuffle=True, seed=3)
    order = list(sampler)
    assert sorted(order) == list(range(10))
    sampler.record_batch(1, 3)
    sampler.record_indices(order[:1])
    assert list(sampler) == order  # until the reset
    sampler.reset()
    assert sorted(sampler) == sorted([*order[1:3], *order[6:]])
    assert len(sampler) == 6
    copy = ElasticSampler(range(10), shuffle=True, seed=3)
    copy.load_state_dict(sampler.state_dict())
    assert list(copy) == list(sampler)
    sampler.set_epoch(1)
    assert sorted(sampler) == list(range(10))
    assert list(sampler) != order
    assert list(ElasticSampler(range(4), shuffle=False)) == [0, 1, 2, 3]


def test_a_state_goes_back_to_its_last_commit() -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    state = TorchState(model, optimizer, schedule=schedule, epoch=0, seen=[])

    def step() -> None:
        optimizer.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        schedule.step()
        state.epoch += 1
        state.seen.append(state.epoch)

    def numbers() -> list[object]:
        momentum = optimizer.state_dict()["state"][0]["momentum_buffer"].tolist()
        rates = (optimizer.param_groups[0]["lr"], schedule.last_epoch)
        return [model.weight.tolist(), momentum, rates, state.epoch, list(state.seen)]

    step()
    state.commit()
    committed = numbers()
    step()
    assert numbers() != committed
    state.restore()
    assert numbers() == committed
    step()
    state.restore()  # what was restored is not the commit itself
    assert numbers() == committed


def test_an_unmodified_elastic_horovod_script_survives(tmp_path: Path) -> None:
    script = PROGRAM.parent / "horovod_scripts" / "elastic.py"
    done = ended(
        *[KHORUSRUN, "--as-horovod", "-np", "2", "--reset-limit", "1"],
        *[sys.executable, "-B", script, "--kill-file", tmp_path / "killed"],
        environment=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout_s=BOUND_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "starting it again (1 of 1)" in done.stderr
    # Commits are after 2 and 4 batches of 8. Rank 0 was alone with its reset; what it had processed
    # until the commit is done, and what rank 1 had is forgotten with it: 160 - 32 are left.
    assert "rank 0: reset: 2 workers, 64 examples left here" in done.stdout, done.stdout
    accuracies = [line.split()[-1] for line in done.stdout.splitlines() if "epoch 2 acc" in line]
    assert len(accuracies) == 2
    assert accuracies[0] == accuracies[1]
    assert float(accuracies[0]) > 0.75
