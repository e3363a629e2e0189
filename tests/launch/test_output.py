"""What khorusrun does with the output of its ranks."""

from __future__ import annotations

import os
import pty
import subprocess
import unittest
from collections import Counter

from launching import BOUND_S, KHORUSRUN, LaunchTest, environment, khorusrun


class Output(LaunchTest):
    def test_lines_have_prefixes_and_streams_stay_apart(self) -> None:
        prog = self.script('echo "out $KHORUS_RANK"; echo "err $KHORUS_RANK" >&2\n')
        done = khorusrun("-np", "2", prog, OMP_NUM_THREADS="1")
        self.assertEqual(sorted(done.out.splitlines()), ["rank 0: out 0", "rank 1: out 1"])
        self.assertEqual(sorted(done.err.splitlines()), ["rank 0: err 0", "rank 1: err 1"])

    def test_other_prefixes(self) -> None:
        prog = self.script("echo hello\n")
        self.assertEqual(khorusrun("-np", "1", prog).out, "hello\n")
        self.assertEqual(khorusrun("-np", "2", "--no-prefix", prog).out, "hello\nhello\n")
        done = khorusrun("-np", "1", "--prefix", "[{rank}] ", prog)
        self.assertEqual(done.out, "[0] hello\n")

    def test_a_last_line_without_an_end(self) -> None:
        done = khorusrun("-np", "2", "printf", "no end")
        self.assertEqual(sorted(done.out.splitlines()), ["rank 0: no end", "rank 1: no end"])
        self.assertEqual(khorusrun("-np", "1", "printf", "no end").out, "no end")

    def test_a_line_in_pieces_stays_whole(self) -> None:
        prog = self.program(
            "for piece in 'ab', 'cd', f'{rank}\\n':\n    os.write(1, piece.encode())\n"
        )
        done = khorusrun("-np", "4", prog)
        expected = [f"rank {rank}: abcd{rank}" for rank in range(4)]
        self.assertEqual(sorted(done.out.splitlines()), expected)

    def test_all_bytes_pass(self) -> None:
        prog = self.program("os.write(1, bytes(range(256)) * 1000)\n")
        self.assertEqual(khorusrun("-np", "1", prog).out_bytes, bytes(range(256)) * 1000)
        lines = khorusrun("-np", "1", "--prefix", "", prog).out_bytes
        self.assertEqual(lines, bytes(range(256)) * 1000 + b"\n", "a missing end is added")

    def test_bursts_of_eight_ranks_do_not_mix(self) -> None:
        prog = self.program(
            "for line in range(1000):\n"
            "    sys.stdout.write(f'{rank} {line} ' + 'x' * (line % 173) + '\\n')\n"
        )
        done = khorusrun("-np", "8", prog, PYTHONUNBUFFERED=None)
        self.assertEqual(done.code, 0)
        next_line: Counter[int] = Counter()
        for text in done.out.splitlines():
            words = text.split(" ")
            self.assertEqual(words[0], "rank")
            rank = int(words[1].rstrip(":"))
            line = next_line[rank]
            self.assertEqual(text, f"rank {rank}: {rank} {line} " + "x" * (line % 173))
            next_line[rank] += 1
        self.assertEqual(next_line, {rank: 1000 for rank in range(8)})

    def test_more_than_the_queue_holds(self) -> None:
        prog = self.script("head -c 20000000 /dev/zero | tr '\\0' 'z' | fold -w 999\n")
        done = khorusrun("-np", "2", "--no-prefix", prog)
        self.assertEqual(done.out_bytes.count(b"z"), 40_000_000)

    def test_both_streams_into_one_pipe_keep_lines_whole(self) -> None:
        prog = self.program(
            "for line in range(2000):\n"
            "    os.write(1 + line % 2, b'%d ' % line + b'y' * 300 + b'\\n')\n"
        )
        done = subprocess.run(
            [KHORUSRUN, "-np", "4", prog],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(OMP_NUM_THREADS="1"),
            timeout=BOUND_S,
            check=True,
        )
        lines = done.stdout.decode().splitlines()
        self.assertEqual(len(lines), 8000)
        for line in lines:
            self.assertRegex(line, r"^rank [0-3]: \d+ y{300}$")

    def test_log_files_hold_the_bytes(self) -> None:
        logs = self.folder / "logs"
        prog = self.script('printf "out $KHORUS_RANK"; echo "err $KHORUS_RANK" >&2\n')
        done = khorusrun("-np", "11", "--output-filename", str(logs), prog)
        self.assertEqual(done.code, 0, done.err)
        self.assertEqual((logs / "rank.03" / "stdout").read_text(), "out 3")
        self.assertEqual((logs / "rank.10" / "stderr").read_text(), "err 10\n")
        self.assertIn("rank 3: out 3\n", done.out)
        self.assertEqual(len(list(logs.iterdir())), 11)
        khorusrun("-np", "1", "--log-dir", str(logs / "one"), "echo", "x")
        self.assertEqual((logs / "one" / "rank.0" / "stdout").read_text(), "x\n")

    def test_logs_that_cannot_be_written(self) -> None:
        done = khorusrun("-np", "2", "--output-filename", "/dev/null/x", "echo", "ran")
        self.assertEqual(done.code, 1)
        self.assertIn("/dev/null/x/rank.0/stdout", done.err)
        self.assertEqual(done.out, "")

    def test_rank_0_has_the_standard_input(self) -> None:
        prog = self.script('echo "$KHORUS_RANK got $(cat)"\n')
        done = khorusrun("-np", "2", "--no-prefix", prog, stdin=b"words")
        self.assertEqual(sorted(done.out.splitlines()), ["0 got words", "1 got "])

    def test_python_does_not_keep_output_back(self) -> None:
        prog = self.program("print('printed', rank)\nos.kill(os.getpid(), signal.SIGKILL)\n")
        self.assertEqual(khorusrun("-np", "1", prog).out, "printed 0\n")

    def test_nobody_reads(self) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        prog = self.script("i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done\n")
        done = subprocess.run(
            [KHORUSRUN, "-np", "2", prog],
            stdout=writing,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=BOUND_S,
            check=False,
        )
        os.close(writing)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_one_rank_on_a_terminal_has_it(self) -> None:
        ours, theirs = pty.openpty()
        prog = self.script("test -t 0 && test -t 1 && test -t 2 && echo all three\n")
        done = subprocess.run(
            [KHORUSRUN, "-np", "1", prog],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=environment(OMP_NUM_THREADS="1"),
            timeout=BOUND_S,
            check=False,
        )
        os.close(theirs)
        self.assertEqual(done.returncode, 0)
        self.assertEqual(os.read(ours, 1000), b"all three\r\n")
        os.close(ours)


if __name__ == "__main__":
    unittest.main()
