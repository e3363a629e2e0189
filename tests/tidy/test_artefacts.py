"""Laws that the compiled code shows better than the text: what a layer needs, what state it has.

KHORUS_BUILD names the build folder. Both checks are also run on a small file that breaks the law.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

BUILD = Path(os.environ["KHORUS_BUILD"])
COMPILER = os.environ.get("KHORUS_CXX", "c++")
LAYERS = ("base", "wire", "protocol", "net", "runtime", "launch")

# What wire and protocol must not call, however it is spelled in the source.
IMPURE = re.compile(
    r"^(pthread_|clock_|sem_|futex|syscall$|socket$|connect$|accept|send(to|msg)?$|recv|poll$|epoll"
    r"|open(at|64)?$|read$|write$|fopen|getenv|secure_getenv|(u|nano)?sleep$|time$|gettimeofday"
    r"|random$|rand$)|std::chrono::.*::now|std::(thread|condition_variable|random_device)|std::cout"
)

# The process-wide state that DESIGN allows, each with its reason.
ALLOWED_STATE = (
    r"fork_guard|fork_generation",  # fork() acts on the whole process
    r"default_engine|default_session",  # behind the convenience API of khorus.h
)


def symbols(library: Path, *options: str) -> list[tuple[str, str]]:
    """Pairs of nm's letter and the demangled name."""
    done = subprocess.run(
        ["nm", "--demangle", *options, str(library)], text=True, capture_output=True, check=True
    )
    found = re.findall(r"^(?:[0-9a-f]{16}| {16}) ([a-zA-Z]) (.+)$", done.stdout, re.MULTILINE)
    assert found, library
    return found


def impure_calls(library: Path) -> list[str]:
    return sorted({name for kind, name in symbols(library) if kind == "U" and IMPURE.search(name)})


def mutable_state(library: Path) -> list[str]:
    """Variables that can change: in .data or .bss, and ours."""
    return sorted(
        {
            name
            for kind, name in symbols(library)
            if kind in "bBdDuV"
            and "khorus" in name
            and not re.match(r"(vtable|typeinfo|VTT|guard variable|construction vtable)", name)
        }
    )


def layer(name: str) -> Path:
    return BUILD / "core" / name / f"libkhorus_{name}.a"


@pytest.mark.parametrize("name", ["wire", "protocol"])
def test_pure_layers_call_nothing_impure(name: str) -> None:
    assert impure_calls(layer(name)) == []


@pytest.mark.parametrize("name", LAYERS)
def test_layers_have_no_global_state(name: str) -> None:
    allowed = re.compile("|".join(ALLOWED_STATE))
    assert [s for s in mutable_state(layer(name)) if not allowed.search(s)] == []


def compile_object(folder: Path, text: str) -> Path:
    (folder / "bad.cc").write_text(text)
    subprocess.run(
        [COMPILER, "-std=c++20", "-fPIC", "-c", "bad.cc", "-o", "bad.o"], cwd=folder, check=True
    )
    return folder / "bad.o"


def test_a_clock_is_found(tmp_path: Path) -> None:
    text = "#include <chrono>\nlong now() {\n"
    text += "  return std::chrono::steady_clock::now().time_since_epoch().count();\n}\n"
    assert any("now" in name for name in impure_calls(compile_object(tmp_path, text)))


def test_global_state_is_found(tmp_path: Path) -> None:
    text = "namespace khorus {\nint counter = 1;\nint next() {\n  static int n = 0;\n"
    text += "  return n += counter;\n}\nextern const int kFixed;\nconst int kFixed = 3;\n}\n"
    found = mutable_state(compile_object(tmp_path, text))
    assert found == ["khorus::counter", "khorus::next()::n"]
