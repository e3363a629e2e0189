"""A Slurm of its own for tests: slurmctld, slurmd and munged from Debian, with the hosts of
remote_hosts.py as nodes. Configuration, key, socket, state and logs are in the test's folder, the
ports in the hosts' network namespaces: a Slurm of the machine is neither used nor disturbed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from launching import environment
from remote_hosts import Network

CONFIGURATION = """
ClusterName=khorus
SlurmctldHost={names[0]}({addresses[0]})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=1
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SlurmctldDebug=info
SlurmdDebug=info
PartitionName=all Nodes=ALL Default=YES State=UP
"""
FOLDERS = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def why_not() -> str:
    """Why there can be no such cluster here; empty if there can."""
    for tool in "munged", "slurmctld", "slurmd", "srun", "salloc", "sbatch":
        if shutil.which(tool, path=FOLDERS) is None:
            return f"there is no {tool} here (Debian: slurmctld, slurmd, slurm-client, munge)"
    return ""


class Cluster:
    """The daemons; stop() kills them. Whatever else runs on the hosts goes with the network.

    Asked to end, a slurmd waits for what is left of the last job, for half a minute sometimes; and
    what they would write down then goes with the folder.
    """

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.folder = folder
        self.daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        hosts = self.network.hosts
        self.network.name_hosts(*(host.name for host in hosts))
        (self.folder / "state").mkdir()
        text = CONFIGURATION.format(
            names=[host.name for host in hosts],
            addresses=[host.address for host in hosts],
            folder=self.folder,
        )
        text += "".join(
            f"NodeName={host.name} NodeAddr={host.address} CPUs=8 State=UNKNOWN\n" for host in hosts
        )
        (self.folder / "slurm.conf").write_text(text)
        # No control groups are used; version 1 asks for none before it has to.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        self.start_munged()
        self.daemon("slurmctld", hosts[0].command(self.tool("slurmctld"), "-D"), "Running as")
        for host in hosts:
            (self.folder / f"spool.{host.name}").mkdir()
            self.daemon("slurmd", host.command(self.tool("slurmd"), "-D"), "slurmd started")

    def start_munged(self) -> None:
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        command = [self.tool("munged"), "--force", "--foreground", "--num-threads=2"]
        for option, name in (
            ("socket", "munge.socket"),
            ("key-file", "munge.key"),
            ("pid-file", "munged.pid"),
            ("log-file", "munged.log"),
            ("seed-file", "munge.seed"),
        ):
            command.append(f"--{option}={self.folder / name}")
        self.daemon("munged", command, "Created socket")

    def tool(self, name: str) -> str:
        found = shutil.which(name, path=FOLDERS)
        assert found is not None
        return found

    def variables(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def daemon(self, name: str, command: list[str], ready: str) -> None:
        """Starts it and waits until it says that it is ready."""
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(**self.variables()),
        )
        self.daemons.append(process)
        assert process.stderr is not None
        said = b""
        while ready.encode() not in said:
            line = process.stderr.readline()
            if not line:
                raise AssertionError(f"{name} did not start: {said.decode(errors='replace')}")
            said += line
        # From here on nobody reads it; a daemon must not wait for that.
        log = self.folder / f"{name}.{len(self.daemons)}.log"
        with log.open("wb") as file:
            self.daemons.append(subprocess.Popen(["cat"], stdin=process.stderr, stdout=file))
        process.stderr.close()

    def stop(self) -> None:
        for process in self.daemons:
            process.kill()
        for process in self.daemons:
            process.wait()
