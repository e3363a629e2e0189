"""What the tests of khorusrun share: running it, and knowing that every process of a job is gone.

Every process of a job inherits the writing end of a pipe, the lifeline. Its programs write words
there ("ready"), and its end of file is the proof that none of them lives any more, whatever became
of process groups, sessions and parents. So no test sleeps or polls.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

KHORUSRUN = os.environ["KHORUS_TEST_KHORUSRUN"]
BOUND_S = 30.0  # of every wait: far more than any takes


def environment(**changes: str | None) -> dict[str, str]:
    """This process's environment without what would change a job; None removes a variable."""
    result = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("KHORUS_", "HOROVOD_"))
    }
    result.pop("OMP_NUM_THREADS", None)
    result.pop("PYTHONUNBUFFERED", None)
    for name, value in changes.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = value
    return result


class Completed:
    """What a finished khorusrun left: its exit code and output as text and bytes."""

    def __init__(self, code: int, out: bytes, err: bytes) -> None:
        self.code = code
        self.out_bytes = out
        self.out = out.decode(errors="replace")
        self.err = err.decode(errors="replace")

    def own_lines(self) -> list[str]:
        """The launcher's own lines, without the word about OMP_NUM_THREADS."""
        return [
            line
            for line in self.err.splitlines()
            if line.startswith("khorusrun:") and "OMP_NUM_THREADS" not in line
        ]


def khorusrun(
    *arguments: str, stdin: bytes = b"", cwd: str | None = None, **changes: str | None
) -> Completed:
    """Runs khorusrun to its end."""
    done = subprocess.run(
        [KHORUSRUN, *arguments],
        input=stdin,
        capture_output=True,
        timeout=BOUND_S,
        cwd=cwd,
        env=environment(**changes),
        check=False,
    )
    return Completed(done.returncode, done.stdout, done.stderr)


def started(
    test: unittest.TestCase, command: Sequence[str], variables: dict[str, str]
) -> subprocess.Popen[bytes]:
    """A command that is gone when the test ends, whatever becomes of it."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=variables,
    )
    test.addCleanup(process.communicate)
    test.addCleanup(process.kill)
    return process


def ended(process: subprocess.Popen[bytes]) -> Completed:
    out, err = process.communicate(timeout=BOUND_S)
    return Completed(process.returncode, out, err)


def key_file(path: Path) -> str:
    """The path, where a key is from now on."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(os.urandom(32).hex())
    return str(path)


def wait_for_end(pid: int, deadline: float) -> None:
    """A process of anybody's; no sleeping, no polling."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
    finally:
        os.close(handle)
    if not ready:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        raise AssertionError(f"process {pid} does not end: {line}")


class Lifeline:
    """The reading end of the pipe that every process of a job holds."""

    def __init__(self, reading: int) -> None:
        self._reading = reading
        self._text = b""
        self.bound_s = BOUND_S

    def _read(self, deadline: float) -> bytes:
        ready, _, _ = select.select([self._reading], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise AssertionError(f"nothing came within the bound; so far: {self._text!r}")
        return os.read(self._reading, 65536)

    def wait_for(self, word: str, count: int) -> list[str]:
        """Returns the lines so far once `count` of them start with `word`."""
        deadline = time.monotonic() + self.bound_s
        while True:
            lines = self._text.decode().splitlines()
            if sum(line.startswith(word) for line in lines) >= count:
                return lines
            piece = self._read(deadline)
            if not piece:
                raise AssertionError(f"all ended before {count} x {word!r}: {lines}")
            self._text += piece

    def wait_until_all_are_gone(self) -> None:
        deadline = time.monotonic() + self.bound_s
        while piece := self._read(deadline):
            self._text += piece


class RunningJob:
    """A khorusrun that was started and not waited for."""

    def __init__(self, process: subprocess.Popen[bytes], lifeline: Lifeline) -> None:
        self.process = process
        self.lifeline = lifeline

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def read_error_until(self, word: str) -> str:
        """Reads the launcher's standard error up to the line that holds `word`."""
        assert self.process.stderr is not None
        text = ""
        while word not in text:
            line = self.process.stderr.readline().decode()
            if not line:
                raise AssertionError(f"the end came before {word!r}: {text}")
            text += line
        return text

    def wait(self) -> Completed:
        out, err = self.process.communicate(timeout=BOUND_S)
        return Completed(self.process.returncode, out, err)

    def guard(self) -> int:
        """The pid of the guard process."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                name = (entry / "comm").read_text().strip()
            except OSError:
                continue
            if parent == self.process.pid and name == "khorus-guard":
                return int(entry.name)
        raise AssertionError("there is no guard")


@contextmanager
def running(
    *arguments: str,
    ignored: signal.Signals | None = None,
    kept: Sequence[int] = (),
    **changes: str | None,
) -> Iterator[RunningJob]:
    """Starts khorusrun; its programs find the lifeline's number in LIFELINE.

    `ignored` is a signal that the launcher is born to ignore; `kept` are further descriptors that
    all inherit.
    """
    reading, writing = os.pipe()
    command = [KHORUSRUN, *arguments]
    if ignored is not None:
        command = ["sh", "-c", f"trap '' {int(ignored)}; exec \"$@\"", "sh", *command]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[writing, *kept],
        env=environment(LIFELINE=str(writing), **changes),
    )
    os.close(writing)
    try:
        yield RunningJob(process, Lifeline(reading))
    finally:
        process.kill()
        process.communicate()
        os.close(reading)


class LaunchTest(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def program(self, text: str, name: str = "prog.py") -> str:
        """Writes a Python program that knows `rank`, `say(word)` (on the lifeline), os, sys, ..."""
        path = self.folder / name
        path.write_text(
            f"#!{sys.executable}\n"
            "import os, signal, sys, time\n"
            "rank = int(os.environ['KHORUS_RANK'])\n"
            "def say(word):\n"
            "    os.write(int(os.environ['LIFELINE']), f'{word}\\n'.encode())\n" + text
        )
        path.chmod(0o755)
        return str(path)

    def script(self, text: str, name: str = "prog.sh") -> str:
        path = self.folder / name
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return str(path)
