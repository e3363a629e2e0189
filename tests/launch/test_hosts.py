"""Jobs on several hosts, with real sshds: network namespaces are the hosts."""

from __future__ import annotations

import os
import signal
import tempfile
import unittest
from pathlib import Path

from remote_hosts import RemoteTest

HELLO = os.environ["KHORUS_TEST_HELLO"]
WORKER = os.environ["KHORUS_TEST_CRASH_WORKER"]
PLACE = """
names = "RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE"
print(os.uname().nodename, *(os.environ["KHORUS_" + name] for name in names), flush=True)
"""
WAIT = "say('ready')\nwhile True:\n    signal.pause()\n"


class TwoHosts(RemoteTest):
    size = 2

    def test_every_rank_has_its_place(self) -> None:
        done = self.launch("-H", self.slots(2), self.program(PLACE))
        self.assertEqual(done.code, 0, done.err)
        self.assertEqual(
            sorted(done.out.splitlines()),
            [
                "rank 0: khorus-host-0 0 4 0 2 0 2",
                "rank 1: khorus-host-0 1 4 1 2 0 2",
                "rank 2: khorus-host-1 2 4 0 2 1 2",
                "rank 3: khorus-host-1 3 4 1 2 1 2",
            ],
        )

    def test_a_hostfile_and_fewer_ranks_than_slots(self) -> None:
        hostfile = self.folder / "hosts"
        first, second = (host.address for host in self.hosts)
        hostfile.write_text(f"# first\nroot@{second} slots=1\n{first}:8\n")
        done = self.launch("--hostfile", str(hostfile), "-np", "3", self.program(PLACE))
        self.assertEqual(done.code, 0, done.err)
        self.assertEqual(
            sorted(done.out.splitlines()),
            [
                "rank 0: khorus-host-1 0 3 0 1 0 2",
                "rank 1: khorus-host-0 1 3 0 2 1 2",
                "rank 2: khorus-host-0 2 3 1 2 1 2",
            ],
        )

    def test_the_ranks_meet(self) -> None:
        done = self.launch("-H", self.slots(2), "--log-level", "info", HELLO)
        self.assertEqual(done.code, 0, done.err)
        self.assertEqual(done.out.count("the ranks sum to 6"), 4, done.out)
        self.assertIn("backend gloo", done.err)
        self.assertIn("in another network namespace", done.err)

    def test_under_tls(self) -> None:
        """The agent, the ranks there and those here meet at one store."""
        done = self.launch("-H", self.slots(2), "--tls", HELLO)
        self.assertEqual(done.code, 0, done.err)
        self.assertEqual(done.out.count("the ranks sum to 6"), 4, done.out)

    def test_what_is_not_protected_between_hosts_is_said_once(self) -> None:
        done = self.launch("-H", self.slots(2), HELLO)
        self.assertEqual(done.err.count("neither encrypted nor authenticated"), 1, done.err)
        done = self.launch("-H", self.slots(2, 1), HELLO)
        self.assertNotIn("authenticated", done.err)

    def test_all_ranks_on_one_other_host(self) -> None:
        done = self.launch("-H", self.slots(2, 1), "--log-level", "info", HELLO)
        self.assertEqual(done.code, 0, done.err)
        self.assertEqual(done.out.count("the ranks sum to 1"), 2, done.out)
        self.assertIn("backend shm", done.err)

    def test_the_named_interface(self) -> None:
        done = self.launch("-H", self.slots(1), "--network-interfaces", "eth0", HELLO)
        self.assertEqual(done.code, 0, done.err)
        done = self.launch("-H", self.slots(1), "--network-interfaces", "eth7", HELLO)
        self.assertEqual(done.code, 1)
        self.assertIn('no network interface "eth7"', done.err)

    def test_servers_bind_to_the_network_of_the_job(self) -> None:
        """Neither the launcher nor a rank listens on every address of its host."""
        with self.running("-v", "-H", self.slots(1), self.program(WAIT), ready=2) as job:
            for host in self.hosts:
                self.assertGreater(len(host.connections()), 0)
                for line in host.connections():  # its own address comes before the peer's
                    self.assertRegex(line, rf"^\d+ +\d+ +{host.address}:")
            text = job.read_error_until("store ")
            self.assertIn(f"store {self.hosts[0].address}:", text)
            job.send(signal.SIGTERM)
            job.wait()


class Environment(RemoteTest):
    size = 2
    ODD = "two words, 'single' \"double\" $HOME `date` \\ !\nand ; & | * ~ a line\t\u00e9"

    def values(self, *arguments: str, **changes: str | None) -> dict[str, str]:
        """The environment of the rank on the other host."""
        with tempfile.NamedTemporaryFile(dir=self.folder) as seen:
            program = self.program(
                f"open({seen.name!r}, 'wb').write(open('/proc/self/environ', 'rb').read())\n"
            )
            done = self.launch(*arguments, "-H", self.slots(1, 1), program, **changes)
            self.assertEqual(done.code, 0, done.err)
            entries = Path(seen.name).read_bytes().decode().split("\0")
        return dict(entry.split("=", 1) for entry in entries if entry)

    def test_values_arrive_as_they_are(self) -> None:
        seen = self.values(
            "-x", "MINE", "-x", f"GIVEN={self.ODD}", MINE=self.ODD, NCCL_ODD=self.ODD
        )
        for name in "MINE", "GIVEN", "NCCL_ODD":
            self.assertEqual(seen[name], self.ODD)

    def test_only_what_is_allowed_goes_there(self) -> None:
        seen = self.values(
            MY_TOKEN="secret", HOROVOD_SECRET_KEY="secret", KHORUS_FUSION_THRESHOLD="1MiB"
        )
        self.assertEqual(seen["KHORUS_FUSION_THRESHOLD"], "1MiB")
        self.assertNotIn("secret", "".join(seen.values()))
        self.assertNotIn("MY_TOKEN", seen)
        self.assertIn("OMP_NUM_THREADS", seen)

    def test_arguments_and_the_working_directory(self) -> None:
        words = ["", "a b", "$(x)", "'", '"', "*", "\n"]
        program = self.program("print(ascii(sys.argv[1:]), os.getcwd(), flush=True)\n")
        done = self.launch("-H", self.slots(1), program, *words)
        self.assertEqual(done.code, 0, done.err)
        for rank in range(2):
            self.assertIn(f"rank {rank}: {words!a} {Path.cwd()}\n", done.out)

    def test_the_key_is_in_no_command_line_and_no_environment(self) -> None:
        text = (
            "key = os.read(int(os.environ['KHORUS_KEY_FD']), 64)\n"
            "assert len(key) == 32\n"
            "say('key ' + key.hex())\n" + WAIT
        )
        with self.running("-H", self.slots(1), self.program(text), ready=2) as job:
            lines = job.lifeline.wait_for("ready", 2)
            keys = {line.split()[1] for line in lines if line.startswith("key")}
            self.assertEqual(len(keys), 1)
            key = keys.pop()
            forms = [key.encode(), bytes.fromhex(key)]
            for host in self.hosts:
                pids = host.processes()
                self.assertGreater(len(pids), 2)
                for pid in pids:
                    for file in "cmdline", "environ":
                        content = Path(f"/proc/{pid}/{file}").read_bytes()
                        self.assertFalse(any(form in content for form in forms))
            job.send(signal.SIGTERM)
            job.wait()


class Output(RemoteTest):
    size = 2

    def test_lines_logs_and_streams(self) -> None:
        program = self.program("print('out', rank)\nprint('err', rank, file=sys.stderr)\n")
        logs = self.folder / "logs"
        done = self.launch("-H", self.slots(2), "--output-filename", str(logs), program)
        self.assertEqual(done.code, 0, done.err)
        for rank in range(4):
            self.assertIn(f"rank {rank}: out {rank}\n", done.out)
            self.assertIn(f"rank {rank}: err {rank}\n", done.err)
            self.assertEqual((logs / f"rank.{rank}" / "stdout").read_text(), f"out {rank}\n")

    def test_much_output_arrives_whole(self) -> None:
        """More than every window and pipe on the way holds, from all ranks at once."""
        program = self.program(
            "for i in range(40000):\n    print(i, 'x' * 60)\nprint('last', end='')\n"
        )
        done = self.launch("-H", self.slots(2), program)
        self.assertEqual(done.code, 0, done.err)
        for rank in range(4):
            mine = [line for line in done.out.splitlines() if line.startswith(f"rank {rank}: ")]
            self.assertEqual(len(mine), 40001)
            self.assertEqual(mine[-1], f"rank {rank}: last")
            self.assertEqual([int(line.split()[2]) for line in mine[:-1]], list(range(40000)))

    def test_a_reader_that_does_not_read_stops_the_ranks_not_the_launcher(self) -> None:
        text = "say('ready')\nwhile True:\n    print('x' * 1000)\n"
        with self.running("-H", self.slots(1, 1), self.program(text), ready=1) as job:
            job.send(signal.SIGINT)
            job.read_error_until("passed on")
            done = job.wait()
        self.assertEqual(done.code, 130)


class Failure(RemoteTest):
    size = 2

    def test_the_summary_names_host_and_rank(self) -> None:
        program = self.program(
            "if rank == 2:\n"
            "    print('no such file', file=sys.stderr)\n"
            "    sys.exit(3)\n"
            "signal.pause()\n"
        )
        done = self.launch("-H", self.slots(2), "--failure-grace-s", "0.2", program)
        self.assertEqual(done.code, 3)
        second = self.hosts[1].address
        self.assertRegex(done.err, rf"rank 2 failed first: exit code 3 \(pid \d+ on {second}\)")
        self.assertIn("its last words: no such file", done.err)
        self.assertIn("ranks 0-1,3 stopped with SIGTERM", done.err)

    def test_what_the_rank_did_last_is_known_here(self) -> None:
        work = f"exec {WORKER} 3 4 7 -1 3</dev/null 4>>$LIFELINE\n"
        hosts = self.slots(2)
        with self.running("-H", hosts, self.script(work), ready=4) as job:
            job.lifeline.wait_for("worked", 4)
            os.kill(self.hosts[1].find("crash_worker")[0], signal.SIGKILL)
            done = job.wait()
            job.lifeline.wait_until_all_are_gone()
        self.assertEqual(done.code, 137, done.err)
        self.assertRegex(done.err, r"rank [23] failed first: killed by signal 9 \(SIGKILL\)")
        self.assertRegex(done.err, r"its last operation: \w+ \"tensor")
        self.assertRegex(done.err, r"because of it: ranks 0-1,[23] failed after it")

    def test_a_rank_on_another_host_is_started_again(self) -> None:
        alive = self.folder / "alive"  # rank 0 waits there for the second life of rank 1
        os.mkfifo(alive)
        program = self.program(
            f"""
alive = {str(alive)!r}
print("key of", len(os.read(int(os.environ["KHORUS_KEY_FD"]), 64)), "bytes", flush=True)
if rank == 0:
    open(alive).read()
elif os.path.exists(alive + ".before"):
    open(alive, "w").close()
else:
    open(alive + ".before", "w").close()
    sys.exit(3)
"""
        )
        done = self.launch("--reset-limit", "1", "-H", self.slots(1), program)
        self.assertEqual(done.code, 0, done.err)
        self.assertEqual(done.out.count("rank 1: key of 32 bytes\n"), 2)
        self.assertIn("rank 1 failed: exit code 3", done.err)

    def test_a_host_that_does_not_answer_is_named(self) -> None:
        nobody = "10.231.77.99"
        hosts = f"{self.slots(1, 0)},{nobody}:1"
        done = self.launch("--start-timeout", "1", "-H", hosts, HELLO)
        self.assertEqual(done.code, 1)
        self.assertIn(f"no answer within 1000 ms from {nobody}", done.err)

    def test_ssh_that_refuses_is_quoted(self) -> None:
        done = self.launch("-p", "9", "-H", self.slots(1, 1), HELLO)
        self.assertEqual(done.code, 1)
        self.assertIn(
            f"host {self.hosts[1].address} cannot be used: ssh ended with exit code 255", done.err
        )
        self.assertIn("Connection refused", done.err)

    def test_no_launcher_there(self) -> None:
        done = self.launch("--remote-launcher", "/no/such it's", "-H", self.slots(1, 1), HELLO)
        self.assertEqual(done.code, 1)
        self.assertIn("/no/such it's", done.err)
        self.assertIn("--remote-launcher", done.err)

    def test_no_program_there(self) -> None:
        done = self.launch("-H", self.slots(1, 1), "/no/such/program")
        self.assertEqual(done.code, 255)
        self.assertIn(f'host {self.hosts[1].address}: cannot run "/no/such/program"', done.err)


if __name__ == "__main__":
    unittest.main()
