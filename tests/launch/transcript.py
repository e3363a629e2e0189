"""Writes the transcript in docs/launching.md: python3 tests/launch/transcript.py BUILD

BUILD is a build folder with khorusrun, allreduce_hello and crash_worker. Needs root, for its hosts
are network namespaces (remote_hosts.py).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import unittest
from collections.abc import Callable
from pathlib import Path

BIN = Path(sys.argv[1]).resolve() / "bin"
os.environ["KHORUS_TEST_KHORUSRUN"] = str(BIN / "khorusrun")

from remote_hosts import RemoteTest  # noqa: E402  (after what it reads)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "launching.md"
BEGIN, END = "<!-- transcript -->\n", "<!-- end of transcript -->\n"
SEEN: list[str] = []


class Transcript(RemoteTest):
    size = 2

    def note(self, sentence: str, arguments: list[str], output: str) -> None:
        line = " ".join(["khorusrun", *arguments])
        for place, name in ((self.folder, "."), (BIN, "."), (BIN.parent, "build")):
            output = output.replace(str(place), name)
            line = line.replace(str(place), name)
        lines = [part for part in output.splitlines() if "OMP_NUM_THREADS" not in part]
        SEEN.append(f"{sentence}\n\n```\n$ {line}\n" + "\n".join(lines) + "\n```\n")

    def show(self, sentence: str, *arguments: str) -> None:
        done = self.launch(*arguments)
        self.note(sentence, list(arguments), done.out + done.err + f"exit code {done.code}")

    def show_disturbed(
        self, sentence: str, disturb: Callable[[], None], *arguments: str, ready: int
    ) -> None:
        with self.running(*arguments, ready=ready) as job:
            disturb()
            done = job.wait()
            job.lifeline.wait_until_all_are_gone()
        for host in self.hosts:
            host.wait_until_idle()
        self.note(sentence, list(arguments), done.out + done.err + f"exit code {done.code}")

    def test_all(self) -> None:
        hello = str(BIN / "allreduce_hello")
        worker = f"exec {BIN}/crash_worker 3 4 7 -1 3</dev/null 4>>$LIFELINE\n"
        train = self.script(worker, "train.sh")
        hosts = self.slots(2)
        second = self.hosts[1]

        def kill(words: str) -> None:
            os.kill(second.find(words)[0], signal.SIGKILL)

        self.show("Two hosts with two ranks each:", "-H", hosts, hello)
        self.show("On one host the ranks share memory:", "-H", self.slots(2, 1), *INFO, hello)
        self.show("Between two they do not:", "-H", hosts, *INFO, hello)
        self.show_disturbed(
            "A rank of the second host is killed (`kill -9`) while it trains:",
            lambda: kill("crash_worker"),
            *("-H", hosts, train),
            ready=4,
        )
        self.show_disturbed(
            "The sshd of the connection is killed:",
            lambda: kill("sshd: root"),
            *("-H", hosts, train),
            ready=4,
        )
        self.show(
            "A host that does not answer:",
            *("--start-timeout", "2", "-H", hosts + ",10.231.77.99:2", hello),
        )
        self.network.set_link(1, "down")
        self.show("A cable that is out:", "--start-timeout", "2", "-H", hosts, hello)
        self.network.set_link(1, "up")


INFO = ["--log-level", "info"]


def main() -> int:
    result = unittest.TextTestRunner().run(
        unittest.defaultTestLoader.loadTestsFromTestCase(Transcript)
    )
    if not result.wasSuccessful() or not SEEN:
        return 1
    page = PAGE.read_text()
    begin, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    text = re.sub(r"[0-9:.]+ (?=rank \d+ \w+\])", "", "\n".join(SEEN))  # the time in log lines
    PAGE.write_text(f"{page[:begin]}\n{text}\n{page[end:]}")
    subprocess.run(["git", "diff", "--stat", "--", str(PAGE)], check=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
