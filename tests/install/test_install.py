"""Installs the build, moves the tree, and builds and runs a user's project against it.

Also looks at what the linker made: who needs whom, what a plugin exports, and that no path of this
machine went into the files. KHORUS_BUILD names the build folder; KHORUS_PYTHON a Python with torch,
empty when the build goes without it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from commands import ended, text_of

BUILD = Path(os.environ["KHORUS_BUILD"])
CMAKE = os.environ.get("KHORUS_CMAKE", "cmake")
TORCH_PYTHON = os.environ.get("KHORUS_PYTHON", "")
CONSUMER = Path(__file__).parent / "consumer"
FOREIGN = re.compile(r"lib(torch|c10|gloo|nccl|mpi|cudart)")

# What a rank finds in its environment under a launcher must not reach the programs started here.
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("KHORUS_", "HOROVOD_"))}


def run(*command: str | Path, timeout: float = 300) -> str:
    return text_of(ended(*command, environment=ENVIRONMENT, timeout_s=timeout))


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("install")
    run(CMAKE, "--install", BUILD, "--prefix", folder / "first")
    return (folder / "first").rename(folder / "moved")


@pytest.fixture(scope="module")
def consumer(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("consumer")
    options = [f"-DCMAKE_PREFIX_PATH={prefix}", "-G", "Ninja", "-DCMAKE_CXX_FLAGS=-Wall -Werror"]
    if TORCH_PYTHON:
        options += ["-DCONSUMER_TORCH=ON", f"-DKHORUS_PYTHON={TORCH_PYTHON}"]
    run(CMAKE, "-S", CONSUMER, "-B", folder, *options)
    run(CMAKE, "--build", folder)
    return folder


def shared_objects(prefix: Path) -> list[Path]:
    return sorted(p for p in (prefix / "lib").rglob("*.so*") if not p.is_symlink())


def dynamic_section(path: Path) -> str:
    return run("readelf", "--dynamic", "--wide", path)


def test_the_tree_is_complete(prefix: Path) -> None:
    for path in (
        "bin/khorusrun",
        "include/khorus/khorus.h",
        "include/khorus/backend.h",
        "lib/libkhorus.so",
        "lib/khorus/libkhorus_backend_local.so",
        "lib/cmake/Khorus/KhorusConfig.cmake",
    ):
        assert (prefix / path).exists(), path
    assert (prefix / "lib/libkhorus_torch.so").exists() == bool(TORCH_PYTHON)


def test_a_program_on_core_runs(prefix: Path, consumer: Path) -> None:
    assert run(consumer / "core_consumer").splitlines()[-1] == "size 1 sum 1 1"
    output = run(prefix / "bin/khorusrun", "-np", "2", consumer / "core_consumer")
    assert output.count("size 2 sum 3 3") == 2


@pytest.mark.skipif(not TORCH_PYTHON, reason="this build goes without torch")
def test_a_program_on_torch_runs(prefix: Path, consumer: Path) -> None:
    assert run(consumer / "torch_consumer").splitlines()[-1] == "size 1 weight -1"
    output = run(prefix / "bin/khorusrun", "-np", "2", consumer / "torch_consumer")
    assert output.count("size 2 weight -1.5") == 2


def test_another_version_is_not_taken(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\nproject(x LANGUAGES CXX)\n"
        "find_package(Khorus 9.0 QUIET)\n"
        'if(Khorus_FOUND)\n  message(FATAL_ERROR "took it")\nendif()\n'
    )
    run(CMAKE, "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}")


def test_no_transport_or_framework_is_linked_where_it_must_not_be(prefix: Path) -> None:
    assert not FOREIGN.search(dynamic_section(prefix / "lib/libkhorus.so"))
    assert not FOREIGN.search(dynamic_section(prefix / "bin/khorusrun"))
    for plugin in (prefix / "lib/khorus").iterdir():
        assert not re.search(r"lib(torch|c10)", dynamic_section(plugin)), plugin


# Beside its entry, a plugin may export only what it stands in for, so that its own transport
# library binds to it.
STAND_INS = {"libkhorus_backend_gloo.so": {"getpeername"}}


def test_plugins_export_their_entry_alone(prefix: Path) -> None:
    for plugin in (prefix / "lib/khorus").iterdir():
        lines = run("nm", "--dynamic", "--defined-only", plugin).splitlines()
        exported = {line.split()[-1].split("@")[0] for line in lines}
        assert exported == {"khorus_backend_entry"} | STAND_INS.get(plugin.name, set()), plugin


def test_the_linker_checks_can_fail() -> None:
    assert FOREIGN.search(" (NEEDED) Shared library: [libgloo.so.0]")
    assert FOREIGN.search(" (NEEDED) Shared library: [libtorch_cpu.so]")


def test_the_tree_can_be_moved(prefix: Path) -> None:
    for path in [*shared_objects(prefix), prefix / "bin/khorusrun"]:
        for line in dynamic_section(path).splitlines():
            if "RPATH" in line or "RUNPATH" in line:
                places = line[line.index("[") + 1 : line.index("]")].split(":")
                assert all(place.startswith("$ORIGIN") for place in places), f"{path}: {line}"
    for path in prefix.rglob("*.cmake"):
        text = path.read_text()
        assert str(BUILD) not in text, path
        assert str(CONSUMER.parents[2]) not in text, path
