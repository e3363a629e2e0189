"""The package as pip builds and installs it: wheel, sdist, editable.

The environment says how this build was made (KHORUS_TEST_BUILD, _BUILD_TYPE, CC, CXX), so that pip,
which compiles everything itself, finds it in ccache. KHORUS_TEST_OTHER_PYTHON may name a Python of
the same version with another torch, whose results must then be the same bits.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from commands import ended, text_of
from no_rank import engine, still_usable  # noqa: F401

SOURCE = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ["KHORUS_TEST_BUILD"])
BOUND_S = 1200  # a build that finds nothing in ccache, on a busy machine
SETTINGS = [
    f"--config-settings=build-dir={BUILD.with_name(BUILD.name + '-wheel')}",
    f"--config-settings=cmake.build-type={os.environ['KHORUS_TEST_BUILD_TYPE']}",
    "--config-settings=cmake.define.KHORUS_WARNINGS_AS_ERRORS="
    + os.environ["KHORUS_TEST_WARNINGS_AS_ERRORS"],
]
OFFLINE = ["--no-build-isolation", "--no-deps", "--no-index", "--quiet"]
PROGRAM = """
import khorus
khorus.init()
assert khorus.allreduce([1.0], op=khorus.Sum)[0] == khorus.size() == 2
if khorus.gloo_enabled():
    with open("/proc/self/maps") as maps:
        print("gloo", *{line.split()[-1] for line in maps if "libgloo.so" in line})
print("khorus of", khorus.__file__)
"""


def said(*command: str | Path, folder: Path = SOURCE) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return text_of(ended(*command, environment=environment, timeout_s=BOUND_S, folder=folder))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    said(sys.executable, "-m", "pip", "wheel", *OFFLINE, *SETTINGS, "-w", folder, SOURCE)
    (path,) = folder.glob("*.whl")
    return path


def fresh_environment(folder: Path) -> Path:
    """Its python. It sees what the Python of this test has (NumPy, torch), but not khorus."""
    venv.create(folder)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    (packages / "of_the_test.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def install(python: Path, *what: str | Path) -> None:
    said(sys.executable, "-m", "pip", "--python", python, "install", *OFFLINE, *what)


def check_installed(python: Path, folder: Path) -> str:
    """What a program under the khorusrun of the environment says."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    khorusrun = python.parent / "khorusrun"
    # A .py gets the Python of the environment, and what is in it.
    return said(khorusrun, "-np", "2", program, folder=folder)


def test_the_wheel_holds_what_it_should(wheel: Path, tmp_path: Path) -> None:
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert f"-{tag}-{tag}-" in wheel.name, "one wheel per CPython"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path)
    for expected in ("bin/khorusrun", "py.typed", "_core.pyi", "torch/optimizer.py"):
        assert f"khorus/{expected}" in names
    for backend in BUILD.glob("lib/khorus/*.so"):
        assert f"khorus/lib/khorus/{backend.name}" in names
    assert not [n for n in names if "/include/" in n or "/cmake/" in n or "/tests/" in n]
    if (BUILD / "lib/khorus/libkhorus_backend_gloo.so").exists():
        assert any(n.startswith("khorus/lib/libgloo.so") for n in names)
    for library in [*tmp_path.rglob("*.so*"), tmp_path / "khorus/bin/khorusrun"]:
        needed = said("readelf", "-d", library)
        assert "torch" not in needed and "libpython" not in needed, needed


def test_a_fresh_environment_runs_it(wheel: Path, tmp_path: Path) -> None:
    python = fresh_environment(tmp_path / "environment")
    install(python, wheel)
    output = check_installed(python, tmp_path)
    assert f"khorus of {tmp_path}/environment/" in output
    trace = tmp_path / "trace.json"
    program = tmp_path / "program.py"
    khorusrun = python.parent / "khorusrun"
    said(khorusrun, "-np", "2", "--timeline-filename", trace, program, folder=tmp_path)
    assert "2 ranks on 1 host" in said(python.parent / "khorus", "trace", "merge", trace)
    if (BUILD / "lib/khorus/libkhorus_backend_gloo.so").exists():
        output = said(khorusrun, "-np", "2", "--backend", "gloo", program, folder=tmp_path)
        assert f"gloo {tmp_path}/environment/" in output, "the Gloo of the wheel"


# What torch_versions.py prints on two ranks, with every torch from 2.0 on.
DIGESTS = [
    "c90d66c6ca8748aecc2cef1a8514c9dd137c75035569100ddb891c8e09e56f0b",
    "41c53e72815dfecdcec95181bf06a00fa49836e07418908f38a219b6afbc6580",
]


def test_every_torch_computes_the_same_bits(wheel: Path, tmp_path: Path) -> None:
    pythons = [sys.executable]
    if "KHORUS_TEST_OTHER_PYTHON" in os.environ:
        pythons.append(os.environ["KHORUS_TEST_OTHER_PYTHON"])
    target = tmp_path / "installed"
    said(sys.executable, "-m", "pip", "install", *OFFLINE, "--target", target, wheel)
    khorusrun = target / "khorus/bin/khorusrun"
    program = Path(__file__).with_name("torch_versions.py")
    versions = set()
    for python in pythons:
        path = f"PYTHONPATH={target}"
        words = said(khorusrun, "-np", "2", "--no-prefix", "env", path, python, program).split()
        versions.add(words[0])
        assert words[1:] == DIGESTS, f"torch {words[0]}"
    assert len(versions) == len(pythons), f"not two versions of torch: {versions}"


def test_editable(tmp_path: Path) -> None:
    python = fresh_environment(tmp_path / "environment")
    install(python, *SETTINGS, "-e", SOURCE)
    assert f"khorus of {SOURCE}/python/khorus/" in check_installed(python, tmp_path)


def test_the_sdist_is_enough_to_build(wheel: Path, tmp_path: Path) -> None:
    code = "import scikit_build_core.build as b, sys; print(b.build_sdist(sys.argv[1]))"
    name = said(sys.executable, "-c", code, tmp_path).split()[-1]
    with tarfile.open(tmp_path / name) as archive:
        names = [n.partition("/")[2] for n in archive.getnames()]
        archive.extractall(tmp_path)
    for needed in ("CMakeLists.txt", "core/include/khorus/khorus.h", "python/core.cc", "LICENSE"):
        assert needed in names
    assert not [n for n in names if n.startswith(("build", "tests/", ".ci", "out/"))]
    if "KHORUS_TEST_SOAK" in os.environ:  # compiles everything once more
        source = tmp_path / name.removesuffix(".tar.gz")
        said(sys.executable, "-m", "pip", "wheel", *OFFLINE, "-w", tmp_path, source)
        (again,) = tmp_path.glob("*.whl")
        with zipfile.ZipFile(again) as one, zipfile.ZipFile(wheel) as other:
            assert sorted(one.namelist()) == sorted(other.namelist())
