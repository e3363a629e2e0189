"""A rank of khorus.dask: a process of its own, which a task in a Dask worker starts and waits for.

A process, because a rank is killed when another one fails, which a thread of the worker cannot be,
and because the environment with its place in the job is its own. It leads a session: what it leaves
there is killed with it. When the worker ends, the rank does.

    python -m khorus._dask_rank CALL RESULT PARENT      (two descriptors, and the worker's pid)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import cloudpickle

from khorus import _cluster
from khorus._cluster import Failure, Outcome, ReservedPort, Secret

END_S = 10.0  # for a process that was killed to be gone
_LENGTH_BYTES = 8
_PR_SET_PDEATHSIG = 1


class RankProcess:
    """In the worker. end() may come from another thread than run(), and before it."""

    def __init__(self, secret: Secret) -> None:
        self._secret = secret
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._reaped = threading.Event()
        self._is_over = False
        self.port: ReservedPort | None = None

    def run(self, call: bytes, variables: Mapping[str, str]) -> bytes:
        """The pickled Outcome. `call`: the pickled function and its arguments."""
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as its:
            call_end, call_pipe = _pipe(its, ours)
            result_pipe, result_end = _pipe(ours, its)
            key = its.enter_context(os.fdopen(_cluster.key_descriptor(self._secret), "rb"))
            with self._lock:
                if self._is_over:
                    return pickle.dumps(Outcome(failure=Failure("the job was ended before it ran")))
                self._process = self._started([key, call_end, result_end], variables)
            its.close()
            with contextlib.suppress(BrokenPipeError):  # it has ended; what follows says how
                call_pipe.write(call)
            with contextlib.suppress(BrokenPipeError):
                call_pipe.close()
            message = _read_until_end(result_pipe.fileno(), self._process.pid)
        code = self._buried()
        length = int.from_bytes(message[:_LENGTH_BYTES], "little")
        if code == 0 and message and len(message) == _LENGTH_BYTES + length:
            return message[_LENGTH_BYTES:]
        cause = f"its process (pid {self._process.pid}) {_ended(code)}"
        return pickle.dumps(Outcome(failure=Failure(cause)))

    def end(self) -> None:
        with self._lock:
            self._is_over = True
            if self.port is not None:
                self.port.close()
            if self._process is None:
                return
            if not self._reaped.is_set():
                os.killpg(self._process.pid, signal.SIGKILL)
        self._reaped.wait(END_S)

    def _started(
        self, ends: Sequence[IO[bytes]], variables: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        key, call, result = (end.fileno() for end in ends)
        environment = _cluster.without_other_jobs(os.environ) | dict(variables)
        environment["KHORUS_KEY_FD"] = str(key)
        # The rank finds modules where the worker does.
        environment["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        words = [sys.executable, "-m", "khorus._dask_rank", str(call), str(result)]
        return subprocess.Popen(
            [*words, str(os.getpid())],
            env=environment,
            stdin=subprocess.DEVNULL,
            pass_fds=(key, call, result),
            start_new_session=True,
        )

    def _buried(self) -> int:
        """Kills what it has left in its session while its number is still taken, then reaps it."""
        assert self._process is not None
        with self._lock:
            os.killpg(self._process.pid, signal.SIGKILL)
            code = self._process.wait()
            self._reaped.set()
            return code


def _pipe(
    reader: contextlib.ExitStack, writer: contextlib.ExitStack
) -> tuple[IO[bytes], IO[bytes]]:
    reading, writing = os.pipe()
    return (
        reader.enter_context(os.fdopen(reading, "rb", buffering=0)),
        writer.enter_context(os.fdopen(writing, "wb")),
    )


def _read_until_end(pipe: int, pid: int) -> bytes:
    """What the process has written when it ends: others may hold the pipe open for longer."""
    message = bytearray()
    os.set_blocking(pipe, False)
    process = os.pidfd_open(pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            selector.register(process, selectors.EVENT_READ)
            while True:
                ready = [key.fd for key, _ in selector.select()]
                chunk = os.read(pipe, 1 << 20) if pipe in ready else b""
                message += chunk
                if pipe in ready and not chunk:
                    selector.unregister(pipe)
                if process in ready and not chunk:
                    return bytes(message)
    finally:
        os.close(process)


def _ended(code: int) -> str:
    if code < 0:
        return f"was killed by signal {-code} ({signal.Signals(-code).name})"
    return f"ended with exit code {code} and without a result"


def _die_with(parent: int) -> None:
    """prctl(2): the kernel kills this process when the thread that started it ends; the thread
    waits for this process, so that only the end of the worker can end it before."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit("the Dask worker has ended")


def main(call_pipe: int, result_pipe: int, parent: int) -> None:
    _die_with(parent)
    os.set_inheritable(call_pipe, False)
    os.set_inheritable(result_pipe, False)
    os.set_inheritable(int(os.environ["KHORUS_KEY_FD"]), False)
    with os.fdopen(call_pipe, "rb") as file:
        call = file.read()

    def called() -> object:
        fn, args, kwargs = pickle.loads(call)
        return fn(*args, **kwargs)

    outcome = _cluster.attempted(called)
    try:
        data = cloudpickle.dumps(outcome)
    except Exception as error:
        cause = f"its result, of type {type(outcome.value).__name__}, cannot be pickled: {error}"
        data = cloudpickle.dumps(Outcome(failure=Failure(cause)))
    with os.fdopen(result_pipe, "wb") as results:
        results.write(len(data).to_bytes(_LENGTH_BYTES, "little") + data)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
