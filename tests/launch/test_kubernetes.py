"""The manifests of examples/kubernetes: their form, and their containers' commands as real
processes, in network namespaces as pods, with the environment and the names that the operators give
them.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import unittest
from pathlib import Path
from typing import Any

from launching import KHORUSRUN, Completed, ended, environment, started
from remote_hosts import PORT, RemoteTest

HELLO = os.environ["KHORUS_TEST_HELLO"]
MANIFESTS = Path(__file__).parents[2] / "examples" / "kubernetes"


def manifests(name: str) -> dict[str, Any]:
    """The documents of one file by kind."""
    if importlib.util.find_spec("yaml") is None:
        raise unittest.SkipTest("there is no Python module yaml here")
    import yaml

    with (MANIFESTS / f"{name}.yaml").open() as file:
        return {document["kind"]: document for document in yaml.safe_load_all(file)}


def only_container(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["containers"]
    assert isinstance(container, dict)
    return container


def trainer_pod(runtime: dict[str, Any]) -> dict[str, Any]:
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    assert isinstance(pod, dict)
    return pod


def replica_pod(job: dict[str, Any], specs: str, kind: str) -> dict[str, Any]:
    pod = job["spec"][specs][kind]["template"]["spec"]
    assert isinstance(pod, dict)
    return pod


class Form(unittest.TestCase):
    """What the operators' schemas ask for, and what their controllers look for by name."""

    def check_key(self, pod: dict[str, Any]) -> None:
        (volume,) = pod["volumes"]
        self.assertEqual(volume["secret"], {"secretName": "khorus-key", "defaultMode": 0o400})
        container = only_container(pod)
        (mount,) = container["volumeMounts"]
        self.assertEqual(mount["name"], volume["name"])
        (variable,) = container["env"]
        self.assertEqual(variable["name"], "KHORUS_KEY_FILE")
        self.assertEqual(Path(variable["value"]), Path(mount["mountPath"]) / "key")

    def test_trainjob(self) -> None:
        documents = manifests("trainjob")
        for document in documents.values():
            self.assertEqual(document["apiVersion"], "trainer.kubeflow.org/v1alpha1")
        runtime, job = documents["TrainingRuntime"], documents["TrainJob"]
        reference = job["spec"]["runtimeRef"]
        self.assertEqual(reference["name"], runtime["metadata"]["name"])
        self.assertEqual(reference["kind"], "TrainingRuntime")
        self.assertIn("torch", runtime["spec"]["mlPolicy"])
        # The trainer fills in the container "node" of the step "trainer".
        (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
        self.assertEqual(replicated["name"], "node")
        labels = replicated["template"]["metadata"]["labels"]
        self.assertEqual(labels["trainer.kubeflow.org/trainjob-ancestor-step"], "trainer")
        self.assertEqual(only_container(trainer_pod(runtime))["name"], "node")
        self.check_key(trainer_pod(runtime))

    def test_pytorchjob(self) -> None:
        job = manifests("pytorchjob")["PyTorchJob"]
        self.assertEqual(job["apiVersion"], "kubeflow.org/v1")
        self.assertEqual(set(job["spec"]["pytorchReplicaSpecs"]), {"Master", "Worker"})
        for kind, spec in job["spec"]["pytorchReplicaSpecs"].items():
            self.assertGreaterEqual(spec["replicas"], 1)
            pod = replica_pod(job, "pytorchReplicaSpecs", kind)
            self.assertEqual(only_container(pod)["name"], "pytorch")
            self.check_key(pod)

    def test_mpijob(self) -> None:
        job = manifests("mpijob")["MPIJob"]
        self.assertEqual(job["apiVersion"], "kubeflow.org/v2beta1")
        self.assertEqual(set(job["spec"]["mpiReplicaSpecs"]), {"Launcher", "Worker"})
        self.assertEqual(job["spec"]["mpiReplicaSpecs"]["Launcher"]["replicas"], 1)
        self.assertIn(job["spec"]["mpiImplementation"], ("OpenMPI", "Intel", "MPICH"))


class Pods(RemoteTest):
    size = 3

    def setUp(self) -> None:
        super().setUp()
        self.key = self.folder / "key"
        if not self.key.exists():
            self.key.touch(mode=0o400)
            self.key.write_text(os.urandom(32).hex())

    def words(self, container: dict[str, Any], trainer: dict[str, Any] | None = None) -> list[str]:
        """The container's command, with what the image has under those names."""
        command = list((trainer or container)["command"])
        at = command.index("python")
        self.assertEqual(command[at:], ["python", "/workspace/train.py"])
        command[at:] = [HELLO]
        return [KHORUSRUN if word == "khorusrun" else word for word in command]

    def start(self, number: int, words: list[str], **variables: str) -> subprocess.Popen[bytes]:
        return started(self, self.hosts[number].command(*words), environment(**variables))

    def end(self, *processes: subprocess.Popen[bytes]) -> list[Completed]:
        done = [ended(process) for process in processes]
        for host in self.hosts:
            host.wait_until_idle()
        for one in done:
            self.assertEqual(one.code, 0, one.err)
        return done

    def test_trainjob(self) -> None:
        documents = manifests("trainjob")
        trainer = documents["TrainJob"]["spec"]["trainer"]
        name = documents["TrainJob"]["metadata"]["name"]
        container = only_container(trainer_pod(documents["TrainingRuntime"]))
        names = [f"{name}-node-0-{i}.{name}" for i in range(trainer["numNodes"])]
        self.network.name_hosts(*names)
        pods = [
            self.start(
                i,
                self.words(container, trainer),
                KHORUS_KEY_FILE=str(self.key),
                PET_NNODES=str(trainer["numNodes"]),
                PET_NPROC_PER_NODE=str(trainer["numProcPerNode"]),
                PET_NODE_RANK=str(i),
                PET_MASTER_ADDR=names[0],
                PET_MASTER_PORT="29500",
            )
            for i in (1, 0)
        ]
        second, first = self.end(*pods)
        for done, ranks in (first, "01"), (second, "23"):
            for local, rank in enumerate(ranks):
                self.assertIn(
                    f"rank {rank} of 4 (local rank {local} of 2): the ranks sum to 6", done.out
                )

    def test_pytorchjob(self) -> None:
        job = manifests("pytorchjob")["PyTorchJob"]
        name = job["metadata"]["name"]
        names = [f"{name}-master-0", f"{name}-worker-0"]
        self.network.name_hosts(*names)
        pods = [
            self.start(
                rank,
                self.words(only_container(replica_pod(job, "pytorchReplicaSpecs", kind))),
                KHORUS_KEY_FILE=str(self.key),
                KHORUS_LOG_LEVEL="info",
                PYTHONUNBUFFERED="1",
                MASTER_ADDR=names[0],
                MASTER_PORT="23456",
                WORLD_SIZE="2",
                RANK=str(rank),
            )
            for rank, kind in ((1, "Worker"), (0, "Master"))
        ]
        second, first = self.end(*pods)
        self.assertIn("rank 0 of 2 (local rank 0 of 1): the ranks sum to 1", first.out)
        self.assertIn("rank 1 of 2 (local rank 0 of 1): the ranks sum to 1", second.out)
        self.assertIn("backend gloo", first.err)

    def test_mpijob(self) -> None:
        job = manifests("mpijob")["MPIJob"]
        name, slots = job["metadata"]["name"], job["spec"]["slotsPerWorker"]
        workers = [
            f"{name}-worker-{i}.{name}.default.svc"
            for i in range(job["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"])
        ]
        self.network.name_hosts(*workers)
        hostfile = self.folder / "hostfile"
        hostfile.write_text("".join(f"{worker} slots={slots}\n" for worker in workers))
        container = only_container(replica_pod(job, "mpiReplicaSpecs", "Launcher"))
        words = self.words(container)
        words[words.index("/etc/mpi/hostfile")] = str(hostfile)
        # Here the user's key is elsewhere, and the port is another.
        words[1:1] = ["-p", str(PORT), "-i", str(self.folder / "user_key")]
        (done,) = self.end(self.start(2, words))
        self.assertEqual(done.out.count("the ranks sum to 6"), 4, done.out)
        self.assertIn("rank 3: hello from rank 3 of 4 (local rank 1 of 2)", done.out)


if __name__ == "__main__":
    unittest.main()
