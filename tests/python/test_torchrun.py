"""What torchrun learns of a failure: its own report names the cause.

Not under a launcher: each test starts torchrun.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

BOUND_S = 300  # torch is slow to import where many do it
in_soak = pytest.mark.skipif(os.environ.get("KHORUS_TEST_SOAK") != "1", reason="in make soak")


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """This process is no rank."""


@pytest.fixture(autouse=True)
def still_usable() -> None:
    """Nor has it an engine."""


def torchrun(folder: Path, text: str, **knobs: str) -> subprocess.CompletedProcess[str]:
    program = folder / "program.py"
    program.write_text(textwrap.dedent(text))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*command, f"--log-dir={folder / 'logs'}", str(program)],
        env={**os.environ, **knobs, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=BOUND_S,
    )


def error_files(folder: Path) -> dict[int, str]:
    """By local rank: the message."""
    found = {}
    for path in (folder / "logs").rglob("error.json"):
        message = json.loads(path.read_text())["message"]
        assert message["extraInfo"]["py_callstack"]
        assert int(message["extraInfo"]["timestamp"]) > 1_600_000_000
        found[int(path.parent.name)] = message["message"]
    return found


def test_the_report_of_torchrun_says_why(tmp_path: Path) -> None:
    done = torchrun(
        tmp_path,
        """
        import signal
        import numpy as np
        import khorus
        khorus.init()
        khorus.allreduce(np.ones(4), name="first")
        if khorus.rank() == 1:
            signal.pause()  # until torchrun ends it
        khorus.allreduce(np.ones(4), name="second")
        """,
        KHORUS_STALL_CHECK_TIME_SECONDS="0.5",
        KHORUS_STALL_SHUTDOWN_TIME_SECONDS="1",
    )
    assert done.returncode != 0
    _, root_cause = done.stderr.split("Root Cause (first observed failure):")
    assert "traceback : Khorus: " in root_cause, done.stderr
    assert 'stalled beyond the limit: allreduce "second"' in root_cause, done.stderr
    assert "; seen by rank 0 of 2 on " in root_cause, done.stderr


def test_a_killed_rank_gets_the_message_of_the_survivors(tmp_path: Path) -> None:
    done = torchrun(
        tmp_path,
        """
        import os, signal
        import numpy as np
        import khorus
        khorus.init()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # rank 0 ends by its own error
        khorus.allreduce(np.ones(4), name="first")
        if khorus.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        khorus.allreduce(np.ones(4), name="second")
        """,
    )
    assert done.returncode != 0
    messages = error_files(tmp_path)
    assert sorted(messages) == [0, 1], done.stderr
    for message in messages.values():
        assert message.startswith("Khorus: "), message
        assert "rank 1 (" in message and "is lost" in message, message
        assert "; seen by rank 0 of 2 on " in message, message


@in_soak
def test_what_the_program_says_itself_counts_more(tmp_path: Path) -> None:
    done = torchrun(
        tmp_path,
        """
        import signal
        import numpy as np
        from torch.distributed.elastic.multiprocessing.errors import record
        import khorus

        @record
        def main():
            khorus.init()
            if khorus.rank() == 1:
                signal.pause()
            khorus.allreduce(np.ones(4), name="second")

        main()
        """,
        KHORUS_STALL_CHECK_TIME_SECONDS="0.5",
        KHORUS_STALL_SHUTDOWN_TIME_SECONDS="1",
    )
    assert done.returncode != 0
    message = error_files(tmp_path)[0]
    assert message.startswith("HorovodInternalError: "), message


@in_soak
def test_a_failure_that_was_survived_is_forgotten(tmp_path: Path) -> None:
    done = torchrun(
        tmp_path,
        """
        import os, signal, sys, time
        import numpy as np
        import khorus
        khorus.init()
        rank = khorus.rank()
        path = os.environ["TORCHELASTIC_ERROR_FILE"]
        try:
            if rank == 0:
                khorus.allreduce(np.ones(4), name="alone")
            else:
                while True:  # until the engine has failed here, too
                    khorus.allreduce(np.ones(4), name="others")
        except khorus.HorovodInternalError:
            pass
        khorus.shutdown()
        assert os.path.exists(path)
        khorus.init()
        assert not os.path.exists(path)
        khorus.allreduce(np.ones(4), name="all")
        """,
        KHORUS_STALL_CHECK_TIME_SECONDS="0.5",
        KHORUS_STALL_SHUTDOWN_TIME_SECONDS="1",
    )
    assert done.returncode == 0, done.stderr
