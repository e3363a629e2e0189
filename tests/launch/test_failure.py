"""Exit codes, the summary of a failure, and what happens to the other ranks."""

from __future__ import annotations

import os
import platform
import time
import unittest

from launching import LaunchTest, khorusrun, running

# Writes what an engine would: the layout of core/base/status_page.cc.
NOTE_OPERATION = """
def note(text, count):
    page = int(os.environ["KHORUS_STATUS_FD"])
    os.pwrite(page, text.encode(), 16 + 256 * (count % 2))
    os.pwrite(page, count.to_bytes(8, "little"), 8)
"""

# Ranks 1 and 2 fail once rank 0 is dead.
OUTLIVE_RANK_0 = """
import select
folder = %r
if rank == 0:
    for other in 1, 2:
        open(f"{folder}/to.{other}", "w").write(str(os.getpid()))
    sys.exit(5)
pid = int(open(f"{folder}/to.{rank}").read())
try:
    select.select([os.pidfd_open(pid)], [], [])
except ProcessLookupError:
    pass  # dead and buried
sys.exit("I noticed")
"""


class Failure(LaunchTest):
    def test_success_is_quiet(self) -> None:
        done = khorusrun("-np", "3", "true", OMP_NUM_THREADS="1")
        self.assertEqual((done.code, done.out, done.err), (0, "", ""))

    def test_exit_code_is_the_first_failing_ranks(self) -> None:
        prog = self.program("if rank == 1: sys.exit(42)\ntime.sleep(60)\n")
        done = khorusrun("-np", "3", "--failure-grace-s", "0.1", prog)
        self.assertEqual(done.code, 42)

    def test_signal_gives_128_more(self) -> None:
        prog = self.program("if rank == 0: os.kill(os.getpid(), signal.SIGSEGV)\ntime.sleep(60)\n")
        done = khorusrun("-np", "2", "--failure-grace-s", "0.1", prog)
        self.assertEqual(done.code, 139)
        self.assertIn("killed by signal 11 (SIGSEGV)", done.err)

    def test_a_failed_rank_is_started_again(self) -> None:
        alive = str(self.folder / "alive")  # rank 0 waits there for the second life of rank 1
        os.mkfifo(alive)
        prog = self.program(
            f"""
key = os.read(int(os.environ["KHORUS_KEY_FD"]), 64)
print("key of", len(key), "bytes", flush=True)
if rank == 0:
    open({alive!r}).read()
elif os.path.exists({alive + ".before"!r}):
    open({alive!r}, "w").close()
else:
    open({alive + ".before"!r}, "w").close()
    sys.exit(3)
"""
        )
        done = khorusrun("-np", "2", "--reset-limit", "1", prog)
        self.assertEqual(done.code, 0, done.err)
        self.assertEqual(done.out.count("rank 1: key of 32 bytes\n"), 2)
        self.assertIn("rank 1 failed: exit code 3", done.err)
        self.assertIn("starting it again (1 of 1)", done.err)

    def test_no_rank_is_started_again_without_end(self) -> None:
        done = khorusrun("-np", "1", "--reset-limit", "2", "sh", "-c", "echo lives; exit 3")
        self.assertEqual(done.code, 3)
        self.assertEqual(done.out.count("lives"), 3)
        self.assertEqual(done.err.count("starting it again"), 2)
        self.assertIn("rank 0 failed first: exit code 3", done.err)

    def test_shell_codes(self) -> None:
        self.assertEqual(khorusrun("-np", "1", "sh", "-c", "exit 255").code, 255)
        self.assertEqual(khorusrun("-np", "1", "sh", "-c", "kill -9 $$").code, 137)

    def test_summary(self) -> None:
        ready = str(self.folder / "ready")  # rank 2 waits there for rank 0
        os.mkfifo(ready)
        prog = self.program(
            NOTE_OPERATION + "print('pid', os.getpid())\n"
            "if rank == 2:\n"
            f"    open({ready!r}).read()\n"
            "    note('allreduce \"a\"', 11)\n"
            "    note('broadcast \"layers.3.weight\"', 12)\n"
            "    raise ValueError('the loss is not a number')\n"
            "if rank == 0:\n"
            "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            f"    open({ready!r}, 'w').close()\n"
            "time.sleep(60)\n"
        )
        logs = str(self.folder / "logs")
        done = khorusrun("-np", "3", "--failure-grace-s", "1", "--output-filename", logs, prog)
        self.assertEqual(done.code, 1)
        lines = done.own_lines()
        self.assertLessEqual(len(lines), 6)
        pid = next(s.split()[-1] for s in done.out.splitlines() if s.startswith("rank 2: pid"))
        where = f"(pid {pid} on {platform.node()})"
        self.assertEqual(
            lines,
            [
                f"khorusrun: rank 2 failed first: exit code 1 {where}",
                "khorusrun:   its last words: ValueError: the loss is not a number",
                'khorusrun:   its last operation: broadcast "layers.3.weight", number 12',
                "khorusrun:   because of it: rank 1 stopped with SIGTERM; rank 0 killed",
                f"khorusrun:   logs: {logs}/rank.*/stdout and stderr",
            ],
        )

    def test_others_may_end_by_themselves(self) -> None:
        for rank in 1, 2:
            os.mkfifo(self.folder / f"to.{rank}")
        prog = self.program(OUTLIVE_RANK_0 % str(self.folder))
        started = time.monotonic()
        with running("-np", "3", "--failure-grace-s", "20", prog) as job:
            done = job.wait()
        self.assertLess(time.monotonic() - started, 15, "nobody waits for the grace to be over")
        self.assertEqual(done.code, 5)
        self.assertIn("because of it: ranks 1-2 failed after it", done.err)
        self.assertEqual(done.err.count("I noticed"), 2)

    def test_no_grace(self) -> None:
        prog = self.program("sys.exit(3) if rank == 0 else time.sleep(60)\n")
        self.assertEqual(khorusrun("-np", "2", "--failure-grace-s", "0", prog).code, 3)

    def test_last_words_without_an_end_of_line(self) -> None:
        done = khorusrun("-np", "1", "sh", "-c", "printf 'first\\nlast \\n\\n  ' >&2; exit 1")
        self.assertIn("its last words: last\n", done.err)


if __name__ == "__main__":
    unittest.main()
