"""Nothing is left behind on any host, whatever is killed or cut; and a job survives Ctrl-Z."""

from __future__ import annotations

import os
import signal
import subprocess
import unittest

from launching import environment
from remote_hosts import RemoteTest

HELLO = os.environ["KHORUS_TEST_HELLO"]
WORKER = os.environ["KHORUS_TEST_CRASH_WORKER"]
SOAK = os.environ.get("KHORUS_TEST_SOAK") == "1"
WAIT = "say('ready')\nwhile True:\n    signal.pause()\n"


class Kills(RemoteTest):
    size = 2
    FAMILY = (
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:\n"
        "        signal.signal(number, signal.SIG_IGN)\n"
        + "    say('ready')\n    while True:\n        signal.pause()\n"
    )

    def family(self) -> str:
        return self.program(self.FAMILY + WAIT)

    def expect_nothing_left(self) -> None:
        for host in self.hosts:
            host.wait_until_idle()
            self.assertEqual(host.connections(), [])

    def test_signals_reach_every_host(self) -> None:
        text = (
            "def leave(number, frame):\n    print('saved', number, flush=True)\n    sys.exit(0)\n"
            "signal.signal(signal.SIGINT, leave)\n" + WAIT
        )
        with self.running("-H", self.slots(2), self.program(text), ready=4) as job:
            job.send(signal.SIGINT)
            done = job.wait()
            job.lifeline.wait_until_all_are_gone()
        self.assertEqual(done.code, 0, done.err)
        self.assertEqual(done.out.count("saved 2"), 4)
        self.expect_nothing_left()

    def test_killed_launcher(self) -> None:
        with self.running("-H", self.slots(2), self.family(), ready=8) as job:
            job.process.kill()
            job.lifeline.wait_until_all_are_gone()
        self.expect_nothing_left()

    def test_killed_connection(self) -> None:
        """The sshd behind the connection is killed: that is what an administrator may do."""
        with self.running(
            "-H", self.slots(2), "--failure-grace-s", "0.2", self.family(), ready=8
        ) as job:
            for pid in self.hosts[1].find("sshd: root"):
                os.kill(pid, signal.SIGKILL)
            done = job.wait()
            job.lifeline.wait_until_all_are_gone()
        self.assertEqual(done.code, 255)
        second = self.hosts[1].address
        self.assertIn(f"rank 2 failed first: host {second} is lost: ssh ended with", done.err)
        self.expect_nothing_left()

    def test_killed_ssh(self) -> None:
        with self.running(
            "-H", self.slots(2), "--failure-grace-s", "0.2", self.family(), ready=8
        ) as job:
            for pid in self.hosts[0].find("BatchMode"):
                os.kill(pid, signal.SIGKILL)
            done = job.wait()
            job.lifeline.wait_until_all_are_gone()
        self.assertIn("ssh ended with killed by signal 9", done.err)
        self.expect_nothing_left()

    def test_killed_agent(self) -> None:
        with self.running(
            "-H", self.slots(2), "--failure-grace-s", "0.2", self.family(), ready=8
        ) as job:
            for pid in self.hosts[1].find("--agent"):
                os.kill(pid, signal.SIGKILL)
            done = job.wait()
            job.lifeline.wait_until_all_are_gone()
        self.assertIn(f"host {self.hosts[1].address} is lost", done.err)
        self.expect_nothing_left()

    def test_killed_guard_of_an_agent(self) -> None:
        with self.running(
            "-H", self.slots(2), "--failure-grace-s", "0.2", self.family(), ready=8
        ) as job:
            for pid in self.hosts[1].find("khorus-guard"):
                os.kill(pid, signal.SIGKILL)
            done = job.wait()
            job.lifeline.wait_until_all_are_gone()
        self.assertEqual(done.code, 137)
        self.assertIn("the guard process was killed", done.err)
        self.expect_nothing_left()

    def test_cut_link(self) -> None:
        """Neither side hears of the other again, not even that it is gone."""
        with self.running(
            *("-H", self.slots(2), "--host-silence-s", "3", "--failure-grace-s", "0.2"),
            self.family(),
            ready=8,
        ) as job:
            self.network.set_link(1, "down")
            self.addCleanup(self.network.set_link, 1, "up")
            done = job.wait()
            job.lifeline.wait_until_all_are_gone()
        self.assertEqual(done.code, 255)
        second = self.hosts[1].address
        self.assertIn(f"rank 2 failed first: host {second} is lost: ssh ended with", done.err)
        self.expect_nothing_left()

    def test_cut_link_and_killed_launcher(self) -> None:
        hosts = self.slots(2)
        with self.running("--host-silence-s", "3", "-H", hosts, self.family(), ready=8) as job:
            self.network.set_link(1, "down")
            self.addCleanup(self.network.set_link, 1, "up")
            job.process.kill()
            job.lifeline.wait_until_all_are_gone()
        self.expect_nothing_left()

    def test_stopped_launcher_is_not_gone(self) -> None:
        """Ctrl-Z for longer than the silence, and back: the job goes on."""
        text = "say('ready')\nimport select\nselect.select([], [], [], 5)\nprint('done')\n"
        hosts = self.slots(1)
        with self.running("--host-silence-s", "2", "-H", hosts, self.program(text), ready=2) as job:
            job.send(signal.SIGSTOP)
            job.lifeline.wait_until_all_are_gone()  # of themselves
            job.send(signal.SIGCONT)
            done = job.wait()
        self.assertEqual(done.code, 0, done.err)
        self.assertEqual(done.out.count("done"), 2)

    def test_normal_end_takes_the_leftovers_along(self) -> None:
        with self.running(
            "-H", self.slots(2), self.program(self.FAMILY + "say('ready')\n"), ready=8
        ) as job:
            done = job.wait()
            job.lifeline.wait_until_all_are_gone()
        self.assertEqual(done.code, 0, done.err)
        self.expect_nothing_left()


class FourHosts(RemoteTest):
    size = 4

    def test_the_ranks_meet(self) -> None:
        done = self.launch("-H", self.slots(2), "--log-level", "info", HELLO)
        self.assertEqual(done.code, 0, done.err)
        self.assertEqual(done.out.count("the ranks sum to 28"), 8, done.out)
        self.assertIn("backend gloo", done.err)

    def test_launcher_killed_at_any_moment(self) -> None:
        """Also while the hosts are called, and while they start their ranks."""
        text = f"exec {WORKER} 3 4 7 -1 3</dev/null 4>/dev/null\n"
        program = self.script(text)
        for _ in range(200 if SOAK else 5):
            process = subprocess.Popen(
                self.command("-v", "-H", self.slots(2), program),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment(),
            )
            assert process.stderr is not None
            for _ in range(os.urandom(1)[0] % 12):  # it says more: each host, each rank
                process.stderr.readline()
            process.kill()
            process.communicate()
            for host in self.hosts:
                host.wait_until_idle()
                self.assertEqual(host.connections(), [])


if __name__ == "__main__":
    unittest.main()
