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
    r"base::.*::g_registry$|base::.*::install_handlers\(\)",  # fork() acts on the whole process
    r"default_engine\(\)::instance$",  # behind the convenience API of khorus.h
)


def lines_of(*command: str | Path) -> list[str]:
    done = subprocess.run(
        [str(word) for word in command], text=True, capture_output=True, check=True
    )
    assert done.stdout, command
    return done.stdout.splitlines()


def impure_calls(library: Path) -> list[str]:
    """What the library needs from outside and must not."""
    needed = {line.split(maxsplit=1)[1] for line in lines_of("nm", "-uC", library) if " U " in line}
    return sorted(name for name in needed if IMPURE.search(name))


def mutable_state(library: Path) -> list[str]:
    """Our variables that can change: in .data, .bss and their kin, but neither .data.rel.ro nor
    constants (kName) that are computed when the program starts."""
    found = set()
    for line in lines_of("objdump", "--syms", "--demangle", library):
        match = re.search(r" O (\.t?(?:data|bss)\S*)\s+[0-9a-f]+\s+(?:\.hidden )?(.*)$", line)
        if match and ".data.rel.ro" not in match.group(1) and "khorus" in match.group(2):
            found.add(match.group(2))
    # DW.ref: the compiler's pointer to the type of an exception that is caught.
    constant = re.compile(r"^guard variable|^DW\.ref\.|::k[A-Z]\w*(\[abi:\w+\])?$")
    return sorted(name for name in found if not constant.search(name))


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
