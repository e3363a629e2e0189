"""The laws of the source tree, as functions from a tree to the places that break them.

Each function takes a Tree and returns one line per violation, "path:line: what is wrong"; its
docstring gives the reason of the law. test_laws.py runs them over this repository and over small
trees with a seeded violation, so that every law is known to be able to fail. Only text is read
here; test_artefacts.py checks what the linker made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

FOLDERS = (
    "core",
    "backends",
    "torch_plugin",
    "python",
    "tests",
    "examples",
    "cmake",
    "docs",
    ".ci",
)
CODE = (".h", ".cc", ".c", ".cu")
SCRIPTS = (".py", ".cmake", ".sh")
SKIPPED = {"__pycache__", ".venv", "build", "out", "corpus", ".cache", ".pytest_cache"}

MAX_LINES = 400
# One file read from top to bottom is the point of a trainer.
LONG_FILES = {"examples/train_lm.cc", "examples/train_lm.py"}

# These two spell out what nobody else may write.
LAW_FILES = ("tests/tidy/laws.py", "tests/tidy/test_laws.py")

# Where each folder may include from. The first matching folder of a file counts; paths are as
# written in #include "...". "khorus/" are the public headers.
MAY_INCLUDE = {
    "core/include/khorus": ("khorus/",),
    "core/base": ("khorus/", "core/base/"),
    "core/wire": ("khorus/", "core/base/", "core/wire/"),
    "core/protocol": ("khorus/", "core/base/", "core/wire/", "core/protocol/"),
    "core/net": ("khorus/", "core/base/", "core/wire/", "core/net/"),
    "core/runtime": (
        "khorus/",
        "core/base/",
        "core/wire/",
        "core/protocol/",
        "core/net/",
        "core/runtime/",
    ),
    # --check-build shows what the engine's loader would find, so it asks the loader itself.
    "core/launch/check_build.cc": ("core/runtime/backend_loader.h", "khorus/", "core/launch/"),
    "core/launch": (
        "khorus/",
        "core/base/",
        "core/wire/byte_stream.h",
        "core/net/",
        "core/launch/",
    ),
    "torch_plugin": ("khorus/", "torch_plugin/"),
    "python": ("khorus/", "python/"),
    "examples": ("khorus/", "examples/"),
}

PURE = ("core/wire/", "core/protocol/")
IMPURE_HEADERS = re.compile(
    r"#\s*include\s*<(thread|mutex|shared_mutex|condition_variable|future|semaphore|latch|barrier"
    r"|stop_token|chrono|ctime|time\.h|pthread\.h|unistd\.h|sys/.*|netinet/.*|arpa/.*|poll\.h"
    r"|fcntl\.h|signal\.h|csignal|iostream|fstream|filesystem|random)>"
)
IMPURE_WORDS = re.compile(
    r"\bstd::(thread|jthread|mutex|chrono|condition_variable|getenv|random_device)\b"
    r"|\b(getenv|clock_gettime|gettimeofday|thread_local)\b"
)
CONDITION = re.compile(r"^\s*#\s*(if|ifdef|ifndef|elif)\b")


class Tree:
    """The files of one source tree, read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = sorted(self._walk())
        self._lines: dict[str, list[str]] = {}

    def _walk(self) -> Iterator[str]:
        for path in self.root.iterdir():
            if path.is_file() and path.name != ".git":  # of a linked work tree
                yield path.name
        for folder in FOLDERS:
            for path in (self.root / folder).rglob("*"):
                relative = path.relative_to(self.root)
                if path.is_file() and not SKIPPED.intersection(relative.parts):
                    yield relative.as_posix()

    def lines(self, path: str) -> list[str]:
        if path not in self._lines:
            text = (self.root / path).read_bytes().decode("utf-8", errors="replace")
            self._lines[path] = text.splitlines()
        return self._lines[path]

    def numbered(
        self, *prefixes: str, suffixes: tuple[str, ...] = CODE
    ) -> Iterator[tuple[str, int, str]]:
        """Every line of the files below these folders, comments included."""
        for path in self.paths:
            if path.endswith(suffixes) and (not prefixes or path.startswith(prefixes)):
                for number, line in enumerate(self.lines(path), 1):
                    yield path, number, line

    def code(self, *prefixes: str) -> Iterator[tuple[str, int, str]]:
        """The same without what follows // (enough: the tree does not hide code in comments)."""
        for path, number, line in self.numbered(*prefixes):
            yield path, number, line.split("//", 1)[0]


Law = Callable[[Tree], list[str]]
LAWS: dict[str, Law] = {}


def law(check: Law) -> Law:
    LAWS[check.__name__] = check
    return check


def only_in(tree: Tree, pattern: str, allowed: tuple[str, ...], what: str) -> list[str]:
    expression = re.compile(pattern)
    return [
        f"{path}:{number}: {what} belongs to {', '.join(allowed)} only"
        for path, number, line in tree.code()
        if expression.search(line) and not path.startswith(allowed)
    ]


@law
def include_directions(tree: Tree) -> list[str]:
    """A layer knows those below it only, so that each can be read, tested and replaced alone."""
    found = []
    for path, number, line in tree.code():
        match = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
        if not match:
            continue
        allowed = next((v for k, v in MAY_INCLUDE.items() if f"{path}/".startswith(k + "/")), None)
        if path.startswith("backends/"):
            # A backend sees the contract, base, what all plugins share and itself: never another.
            own = "/".join(path.split("/")[:2]) + "/"
            shared = re.match(r"backends/\w+\.h$", match.group(1))
            allowed = (shared.group(0) if shared else own, "khorus/", "core/base/")
        if path.startswith("tests/"):
            allowed = ("khorus/", "core/", "backends/", "torch_plugin/", "tests/")
        if allowed is None or not match.group(1).startswith(allowed):
            found.append(f'{path}:{number}: may not include "{match.group(1)}"')
    return found


@law
def pure_protocol(tree: Tree) -> list[str]:
    """Time is an argument and nothing blocks: so one seeded process runs thousands of ranks."""
    found = []
    for path, number, line in tree.code(*PURE):
        if IMPURE_HEADERS.search(line) or IMPURE_WORDS.search(line):
            found.append(
                f"{path}:{number}: threads, clocks, sockets, files and environment stay out"
            )
        if CONDITION.search(line):
            found.append(f"{path}:{number}: no #if here: one behaviour everywhere")
        if '"core/base/log.h"' in line:
            found.append(f"{path}:{number}: pure code returns log lines, it does not write them")
    return found


@law
def no_feature_macros_in_core(tree: Tree) -> list[str]:
    """One core everywhere: what was tested is what runs."""
    pattern = re.compile(r"\bHAVE_[A-Z]|__has_include|^\s*#\s*(el)?if.*\b(WITH|ENABLE|USE)_[A-Z]")
    return [
        f"{path}:{number}: CMake chooses files and the loader chooses plugins, not macros"
        for path, number, line in tree.code("core/")
        if pattern.search(line)
    ]


@law
def asio_stays_in_net_and_launch(tree: Tree) -> list[str]:
    """It costs seconds per translation unit, and its types would spread."""
    return only_in(
        tree,
        r"boost/asio|boost::asio|core/net/asio\.h",
        ("core/net/", "core/launch/", "tests/"),
        "Asio",
    )


@law
def torch_stays_in_its_plugin(tree: Tree) -> list[str]:
    """Core is built once and serves every version of torch, or none."""
    places = ("torch_plugin/", "examples/", "tests/")
    return only_in(tree, r"#\s*include\s*<(torch|ATen|c10)/", places, "a torch header")


@law
def transports_stay_in_their_backend(tree: Tree) -> list[str]:
    """Two copies of Gloo or NCCL in one process crash; a plugin hides its own."""
    found = only_in(tree, r"#\s*include\s*[<\"]gloo/", ("backends/gloo/",), "a Gloo header")
    found += only_in(tree, r"#\s*include\s*[<\"]mpi\.h", ("backends/mpi/",), "an MPI header")
    # The double has the libraries' own prototypes, so that the compiler compares them.
    found += only_in(
        tree,
        r"#\s*include\s*[<\"](nccl|cuda\w*)\.h",
        ("backends/nccl/", "tests/gpu/"),
        "a CUDA header",
    )
    return found


@law
def environment_is_read_in_one_place(tree: Tree) -> list[str]:
    """So one table documents every knob, and tests need no environment.

    What mpirun leaves there is no knob: only MPI's own backend asks for it.
    """
    folders = ("core/", "backends/", "torch_plugin/")
    allowed = re.compile(r"core/base/config\w*\.cc$|core/launch/|backends/mpi/launcher\.cc$")
    return [
        f"{path}:{number}: the environment is read by core/base/config*.cc only"
        for path, number, line in tree.code(*folders)
        if re.search(r"\b(secure_)?getenv\b|\benviron\b", line) and not allowed.match(path)
    ]


@law
def backends_do_not_print(tree: Tree) -> list[str]:
    """A plugin opened with RTLD_DEEPBIND crashes when it touches std::cout and its kin."""
    return [
        f"{path}:{number}: a backend logs through its host, std streams crash under DEEPBIND"
        for path, number, line in tree.code("backends/")
        if re.search(r"\bstd::(cout|cerr|clog|cin)\b|<iostream>", line)
    ]


@law
def no_sleeping(tree: Tree) -> list[str]:
    """A sleep is either too short (a race) or too long (a delay); waits have a cause."""
    return [
        f"{path}:{number}: nothing waits by sleeping"
        for path, number, line in tree.code("core/", "backends/", "torch_plugin/")
        if re.search(r"\bsleep_(for|until)\b|\b(u|nano)?sleep\s*\(", line)
    ]


@law
def short_files(tree: Tree) -> list[str]:
    """A file that does not fit in the head hides a second idea."""
    return [
        f"{path}:{len(tree.lines(path))}: longer than {MAX_LINES} lines: a new noun is missing"
        for path in tree.paths
        if path.endswith(CODE + SCRIPTS)
        and path not in LONG_FILES
        and len(tree.lines(path)) > MAX_LINES
    ]


@law
def files_open_with_a_paragraph(tree: Tree) -> list[str]:
    """The header speaks for the source of the same name; a short build file needs no words."""
    found = []
    for path in tree.paths:
        name = path.rsplit("/", 1)[-1]
        if not (path.endswith(CODE + SCRIPTS) or name in ("CMakeLists.txt", "Makefile")):
            continue
        if path.endswith(".cc") and path.removesuffix(".cc") + ".h" in tree.paths:
            continue
        if name == "CMakeLists.txt" and len(tree.lines(path)) < 30:
            continue
        lines = [line for line in tree.lines(path) if line.strip() and not line.startswith("#!")]
        first = lines[0].strip() if lines else ""
        opening = re.match(r'(//|/\*|"""|#(?!include|pragma|if|define))\s*(.*)', first)
        if not opening or len(opening.group(2).split()) < 2:
            found.append(f"{path}:1: opens without saying what it is")
    return found


@law
def plain_names(tree: Tree) -> list[str]:
    """A file called after nothing in particular collects everything."""
    vague = re.compile(r"(^|_)(manager|helpers?|utils?|misc|common)(_|\.|$)")
    return [
        f"{path}:1: the name does not say what it is"
        for path in tree.paths
        if path.endswith((*CODE, ".py")) and vague.search(path.rsplit("/", 1)[-1])
    ]


@law
def no_loose_ends(tree: Tree) -> list[str]:
    """What is unfinished belongs in the changelog or the limits, not in the code."""
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    return [
        f"{path}:{number}: unfinished"
        for path, number, line in tree.numbered(suffixes=(*CODE, *SCRIPTS, ".md", ".txt"))
        if marks.search(line) and path not in LAW_FILES
    ]


@law
def no_places_of_one_machine(tree: Tree) -> list[str]:
    """What works on one machine only does not work."""
    homes = "|".join(("work", "root", "home", "opt", "mnt"))
    hosts = "|".join(("pypi", "files.pythonhosted", "deb.debian", "download.pytorch"))
    pattern = re.compile(rf"(?<![\w.$}}/*)])/({homes})/[\w.]|\b({hosts})\.org\b")
    return [
        f"{path}:{number}: names a place of one machine or network"
        for path in tree.paths
        for number, line in enumerate(tree.lines(path), 1)
        if path not in ("LICENSE", *LAW_FILES) and pattern.search(line)
    ]


@law
def links_lead_somewhere(tree: Tree) -> list[str]:
    """A page that points at nothing was not read again when something moved."""
    found = []
    for path in tree.paths:
        if not path.endswith(".md"):
            continue
        folder = (tree.root / path).parent
        for number, line in enumerate(tree.lines(path), 1):
            for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", line):
                if not (folder / target).exists():
                    found.append(f"{path}:{number}: there is no {target}")
    return found
