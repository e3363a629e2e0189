"""Every public header compiles alone, as the first include of a user; some also as C."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "core" / "include"
TORCH = ROOT / "torch_plugin" / "include"
COMPILER = os.environ.get("KHORUS_CXX", "c++")
C_COMPILER = os.environ.get("KHORUS_CC", "cc")
# The folder of Python's torch package; empty when the build goes without it.
TORCH_PACKAGE = os.environ.get("KHORUS_TORCH_ROOT", "")


def public_headers(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.h"))


def compile_alone(header: str, flags: list[str], compiler: str = COMPILER) -> str:
    """Returns what the compiler complains about; empty when the header is self-contained."""
    done = subprocess.run(
        [compiler, "-fsyntax-only", "-Wall", "-Wextra", "-Werror", *flags, "-"],
        input=f"#include <{header}>\n#include <{header}>\n",
        text=True,
        capture_output=True,
        check=False,
        timeout=120,
    )
    return done.stderr if done.returncode else ""


@pytest.fixture(scope="module")
def complaint() -> Iterator[Callable[[str], str]]:
    """The compiler's words about a header; all are compiled at once, on every core."""
    core = ["-x", "c++", "-std=c++20", "-I", str(CORE)]
    include = Path(TORCH_PACKAGE) / "include"
    torch = [*core, "-I", str(TORCH)]
    torch += ["-isystem", str(include), "-isystem", str(include / "torch/csrc/api/include")]
    futures: dict[str, Future[str]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for header in public_headers(TORCH) if TORCH_PACKAGE and TORCH.exists() else []:
            futures[header] = pool.submit(compile_alone, header, torch)
        for header in public_headers(CORE):
            futures[header] = pool.submit(compile_alone, header, core)
        yield lambda header: futures[header].result()


@pytest.mark.parametrize("header", public_headers(CORE))
def test_core_header_compiles_alone(header: str, complaint: Callable[[str], str]) -> None:
    assert complaint(header) == ""


@pytest.mark.parametrize("header", ["khorus/backend.h", "khorus/c.h"])
def test_these_headers_are_c(header: str) -> None:
    flags = ["-x", "c", "-std=c11", "-pedantic", "-I", str(CORE)]
    assert compile_alone(header, flags, C_COMPILER) == ""


@pytest.mark.skipif(not TORCH_PACKAGE, reason="this build goes without torch")
@pytest.mark.parametrize("header", public_headers(TORCH) if TORCH.exists() else [])
def test_torch_header_compiles_alone(header: str, complaint: Callable[[str], str]) -> None:
    assert complaint(header) == ""


def test_a_header_that_leans_on_another_is_found(tmp_path: Path) -> None:
    (tmp_path / "leaning.h").write_text("#pragma once\ninline std::string name() { return {}; }\n")
    assert "string" in compile_alone("leaning.h", ["-x", "c++", "-I", str(tmp_path)])
