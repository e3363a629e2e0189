"""Another user of the machine, a real second uid: what it can see and reach of a job.

Over TCP nobody can tell users apart: there it is a stranger (test_strangers.py).
"""

from __future__ import annotations

import functools
import json
import os
import socket
import struct
import subprocess
import sys
import unittest
from contextlib import ExitStack

from jobs import VICTIM, AttackTest, start_by_hand
from launching import BOUND_S, Lifeline, environment

NOBODY = 65534

# Prints what became of each attempt: the number of the error, or 0.
SPY = """
import ctypes, errno, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)

def number_of(attempt):
    try:
        attempt()
        return 0
    except OSError as error:
        return error.errno

def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")

def steal(pid):  # the descriptor of a socket or of shared memory
    handle = os.pidfd_open(pid)
    check(libc.syscall(438, handle, 3, 0))

tries = {}
for pid in map(int, sys.argv[1:]):
    for name in "environ", "maps", "mem", "auxv", "stack", "syscall", "cwd", "fd", "map_files":
        path = f"/proc/{pid}/{name}"
        read = os.listdir if name in ("fd", "map_files") else os.readlink if name == "cwd" else open
        tries[path] = number_of(lambda: read(path))
    tries[f"{pid} ptrace"] = number_of(lambda: check(libc.ptrace(16, pid, 0, 0)))
    tries[f"{pid} pidfd_getfd"] = number_of(lambda: steal(pid))
    tries[f"{pid} kill"] = number_of(lambda: os.kill(pid, 9))
print(json.dumps(tries))
"""

# Knocks at an abstract socket, says what is on standard input, and prints what it hears.
KNOCK = """
import socket, sys
words = sys.stdin.buffer.read()
connection = socket.socket(socket.AF_UNIX)
connection.settimeout(30)
connection.connect("\\0" + sys.argv[1])
try:
    connection.sendall(words)
    sys.stdout.write(connection.recv(4096).hex())
except ConnectionError:
    pass
"""


def run_as_nobody(*command: str, said: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command,
        input=said,
        capture_output=True,
        timeout=BOUND_S,
        check=False,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
        env={},
    )


@functools.cache
def python_of_nobody() -> str:
    """The one that runs the tests may lie in a folder that is closed to others."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            if run_as_nobody(python, "-I", "-c", "").returncode == 0:
                return python
        except OSError:
            continue
    raise unittest.SkipTest("another user can run no Python here")


def as_nobody(program: str, *arguments: str, said: bytes = b"") -> str:
    done = run_as_nobody(python_of_nobody(), "-I", "-c", program, *arguments, said=said)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@unittest.skipIf(os.geteuid() != 0, "needs root, to be another user")
class OtherUser(AttackTest):
    def test_processes_are_closed_to_it(self) -> None:
        """Environment, memory, descriptors, ptrace(2), signals: of launcher, guard and ranks."""
        with self.job() as job:
            pids = [job.running.process.pid, job.running.guard(), *job.wait_until_ready().values()]
            tries = json.loads(as_nobody(SPY, *map(str, pids)))
            self.assertEqual(len(tries), 12 * len(pids))
            for what, number in tries.items():
                self.assertIn(number, (1, 13), f"{what}: it is not EPERM or EACCES")
            self.assert_unharmed(job)

    def test_the_meeting_of_ranks_without_a_launcher(self) -> None:
        """It asks rank 0 for the key as rank 1 would, and hears nothing; then rank 1 is served."""
        name = f"khorus/{os.geteuid()}/other-user-{os.getpid()}/1/"
        question = b"KHMEET1\n" + struct.pack("<ii", 1, 2)
        reading, writing = os.pipe()
        steps = os.pipe()

        job = name.split("/")[2]

        with ExitStack() as stack:
            stack.callback(os.close, steps[0])
            bell = stack.enter_context(socket.socket(socket.AF_UNIX))
            bell.bind("\0" + name + "1")
            bell.listen()
            bell.settimeout(BOUND_S)
            ranks = [start_by_hand(0, job, writing, steps[0])]
            bell.accept()[0].close()  # rank 0 rings once it listens
            bell.close()
            self.assertEqual(as_nobody(KNOCK, name + "0", said=question), "")
            self.assertEqual(as_nobody(KNOCK, name + "0"), "")
            ranks.append(start_by_hand(1, job, writing, steps[0]))
            os.close(writing)
            lifeline = Lifeline(reading)
            lifeline.wait_for("ready", 2)
            os.write(steps[1], bytes(2))
            lifeline.wait_for("step", 2)
            os.close(steps[1])
            self.assertEqual([rank.wait(BOUND_S) for rank in ranks], [0, 0])
        os.close(reading)

    def test_a_key_file_of_another_user(self) -> None:
        """Its owner knows the key: refused, and not shown."""
        path = self.folder / "key"
        path.touch(mode=0o600)
        path.write_text(os.urandom(32).hex())
        os.chown(path, NOBODY, NOBODY)
        done = subprocess.run(
            [VICTIM],
            env=environment(
                KHORUS_RANK="0",
                KHORUS_SIZE="2",
                KHORUS_LOCAL_RANK="0",
                KHORUS_LOCAL_SIZE="1",
                KHORUS_CROSS_RANK="0",
                KHORUS_CROSS_SIZE="2",
                KHORUS_STORE="127.0.0.1:1",
                KHORUS_KEY_FILE=str(path),
                LIFELINE="1",
            ),
            capture_output=True,
            timeout=BOUND_S,
            check=False,
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"belongs to uid {NOBODY}".encode(), done.stdout)
        self.assertNotIn(path.read_bytes(), done.stdout)
