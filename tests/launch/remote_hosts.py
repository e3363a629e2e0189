"""Hosts for tests: network namespaces on one switch, each with a name and an sshd of its own.

Needs root, iproute2 and openssh-server; where that is not so, tests are skipped with the reason.
Everything that a host runs is known by its network namespace: wait_until_idle() returns when only
the listening sshd is left there. It waits for pidfds; nothing sleeps or polls.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from launching import (
    BOUND_S,
    KHORUSRUN,
    Completed,
    Lifeline,
    RunningJob,
    environment,
    wait_for_end,
)

PORT = 2222
SSHD_CONFIG = """
Port {port}
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
ClientAliveInterval 1
ClientAliveCountMax 2
"""
SSH_CONFIG = """
IdentityFile {folder}/user_key
IdentitiesOnly yes
UserKnownHostsFile {folder}/known_hosts
GlobalKnownHostsFile /dev/null
"""


def why_not() -> str:
    """Why there can be no such hosts here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in "ip", "ssh", "sshd", "ssh-keygen", "unshare":
        if shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            return f"there is no {tool} here"
    probe = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True)
    return "" if probe.returncode == 0 else "network namespaces are forbidden here"


def run(*command: str) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=BOUND_S
    ).stdout


class Host:
    """One network namespace with an sshd."""

    def __init__(self, number: int, namespace: str, folder: Path) -> None:
        self.name = f"khorus-host-{number}"
        self.namespace = namespace
        self.address = f"10.231.77.{number + 1}"
        self.folder = folder
        self.sshd: subprocess.Popen[bytes] | None = None

    def command(self, *words: str) -> list[str]:
        """`words` such that the process that is started becomes them, on this host."""
        names = shlex.quote(str(self.folder / "names"))
        script = (
            f"hostname {self.name}; mount -t tmpfs run /run; mkdir /run/sshd; "
            f'[ ! -e {names} ] || mount --bind {names} /etc/hosts; exec "$@"'
        )
        inside = ["unshare", "--uts", "--mount", "sh", "-c", script, "sh", *words]
        return ["ip", "netns", "exec", self.namespace, *inside]

    def start_sshd(self) -> None:
        config = self.folder / f"sshd_config.{self.name}"
        config.write_text(SSHD_CONFIG.format(port=PORT, address=self.address, folder=self.folder))
        sshd = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/local/sbin") or "sshd"
        self.sshd = subprocess.Popen(
            self.command(sshd, "-D", "-e", "-f", str(config)),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
        )
        assert self.sshd.stderr is not None
        said = b""
        while b"Server listening" not in said:
            line = self.sshd.stderr.readline()
            if not line:
                raise AssertionError(f"sshd did not start: {said!r}")
            said += line

    def processes(self) -> list[int]:
        """All but the listening sshd."""
        pids = [int(pid) for pid in run("ip", "netns", "pids", self.namespace).split()]
        return [pid for pid in pids if self.sshd is None or pid != self.sshd.pid]

    def find(self, word: str) -> list[int]:
        """The processes with `word` in their command line."""
        found = []
        for pid in self.processes():
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
            except OSError:
                continue
            if word in line.decode(errors="replace"):
                found.append(pid)
        return found

    def wait_until_idle(self) -> None:
        deadline = time.monotonic() + BOUND_S
        while pids := self.processes():
            for pid in pids:
                wait_for_end(pid, deadline)

    def connections(self) -> list[str]:
        """Sockets that a process of this host has, without sshd's listening one.

        What closed sockets still have to say to a host that is gone is the kernel's.
        """
        states = "listening", "established", "syn-sent", "close-wait"
        text = "".join(
            run("ip", "netns", "exec", self.namespace, "ss", "-Htan", "state", state)
            for state in states
        )
        return [line for line in text.splitlines() if f"{self.address}:{PORT} " not in line]


def kill_all(namespace: str) -> None:
    """What is killed may have started another process just before: until nothing is there."""
    deadline = time.monotonic() + BOUND_S
    while pids := subprocess.run(
        ["ip", "netns", "pids", namespace], capture_output=True, text=True
    ).stdout.split():
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        for pid in pids:
            wait_for_end(int(pid), deadline)


class Network:
    """Hosts on one switch, which is a namespace too."""

    def __init__(self, size: int, folder: Path) -> None:
        self.folder = folder
        self.tag = f"khorus-test-{os.getpid()}"
        self.switch = f"{self.tag}-switch"
        self.hosts = [Host(i, f"{self.tag}-{i}", folder) for i in range(size)]

    def make(self) -> None:
        for key in "host_key", "user_key":
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key))
        public = (self.folder / "host_key.pub").read_text()
        known = [f"[{host.address}]:{PORT} {public}" for host in self.hosts]
        (self.folder / "known_hosts").write_text("".join(known))
        (self.folder / "ssh_config").write_text(SSH_CONFIG.format(folder=self.folder))
        run("ip", "netns", "add", self.switch)
        self.in_switch("link", "add", "bridge", "type", "bridge")
        self.in_switch("link", "set", "bridge", "up")
        for number, host in enumerate(self.hosts):
            run("ip", "netns", "add", host.namespace)
            port = f"port{number}"
            self.in_switch(
                "link", "add", port, "type", "veth", "peer", "eth0", "netns", host.namespace
            )
            self.in_switch("link", "set", port, "master", "bridge", "up")
            for words in (
                ("address", "add", f"{host.address}/24", "dev", "eth0"),
                ("link", "set", "eth0", "up"),
                ("link", "set", "lo", "up"),
            ):
                run("ip", "-n", host.namespace, *words)
            host.start_sshd()

    def in_switch(self, *words: str) -> None:
        run("ip", "-n", self.switch, *words)

    def name_hosts(self, *names: str) -> None:
        """What the hosts are called in processes that start there from now on."""
        lines = ["127.0.0.1 localhost"]
        lines += [f"{host.address} {name}" for host, name in zip(self.hosts, names, strict=False)]
        (self.folder / "names").write_text("\n".join(lines) + "\n")

    def set_link(self, number: int, state: str) -> None:
        """Takes the cable of a host out ("down"), and puts it in again ("up")."""
        self.in_switch("link", "set", f"port{number}", state)

    def remove(self) -> None:
        for host in self.hosts:
            kill_all(host.namespace)
            if host.sshd is not None:
                host.sshd.communicate()
            subprocess.run(["ip", "netns", "delete", host.namespace], capture_output=True)
        subprocess.run(["ip", "netns", "delete", self.switch], capture_output=True)


class RemoteTest(unittest.TestCase):
    """Tests on `size` hosts, which all of them share; the launcher runs on the first."""

    size = 2
    network: Network
    folder: Path

    @classmethod
    def setUpClass(cls) -> None:
        reason = why_not()
        if reason:
            raise unittest.SkipTest(reason)
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        cls.network = Network(cls.size, cls.folder)
        cls.addClassCleanup(cls.network.remove)
        cls.network.make()

    def setUp(self) -> None:
        self.hosts = self.network.hosts

    def slots(self, count: int, *hosts: int) -> str:
        """-H of these hosts, or all, with `count` slots each."""
        chosen = [self.hosts[i] for i in hosts] or self.hosts
        return ",".join(f"{host.address}:{count}" for host in chosen)

    def command(self, *arguments: str) -> list[str]:
        ssh = f"ssh -F {shlex.quote(str(self.folder / 'ssh_config'))}"
        own = [KHORUSRUN, "--ssh-command", ssh, "-p", str(PORT)]
        return self.hosts[0].command(*own, *arguments)

    def launch(self, *arguments: str, **changes: str | None) -> Completed:
        """Runs khorusrun on the first host to its end; afterwards no host runs anything."""
        done = subprocess.run(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=BOUND_S,
            env=environment(**changes),
            check=False,
        )
        for host in self.hosts:
            host.wait_until_idle()
        return Completed(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def running(self, *arguments: str, ready: int, **changes: str | None) -> Iterator[RunningJob]:
        """A job whose programs find in LIFELINE the path of a pipe to say words in.

        Begins when `ready` of them have said "ready"; from then on they hold the pipe.
        """
        path = self.folder / f"lifeline.{time.monotonic_ns()}"
        os.mkfifo(path)
        reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        writing = os.open(path, os.O_WRONLY)
        process = subprocess.Popen(
            self.command("-x", f"LIFELINE={path}", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(**changes),
        )
        lifeline = Lifeline(reading)
        try:
            try:
                lifeline.wait_for("ready", ready)
            except AssertionError as error:
                process.kill()
                raise AssertionError(f"{error}; {process.communicate()}") from error
            finally:
                os.close(writing)
            yield RunningJob(process, lifeline)
        finally:
            process.kill()
            process.communicate()
            os.close(reading)
            path.unlink()

    def program(self, text: str, name: str = "prog.py") -> str:
        """A Python program that knows `rank` and `say(word)`, which keeps the lifeline open."""
        path = self.folder / name
        path.write_text(
            "import os, signal, sys, time\n"
            "rank = int(os.environ['KHORUS_RANK'])\n"
            "lifeline = os.environ.get('LIFELINE')\n"
            "lifeline = lifeline and os.open(lifeline, os.O_WRONLY)\n"
            "def say(word):\n"
            "    os.write(lifeline, f'{word}\\n'.encode())\n" + text
        )
        return str(path)

    def script(self, text: str, name: str = "prog.sh") -> str:
        path = self.folder / name
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return str(path)
