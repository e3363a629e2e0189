"""khorusrun, as the command of an installed package: replaces this process by the program."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from khorus import _core

__all__ = ["khorusrun_path", "main"]


def khorusrun_path() -> Path:
    """The launcher that came with this package: in it, or in the build folder it is run from.

    FileNotFoundError if it is in neither."""
    home = Path(_core.__file__).resolve().parent
    for folder in (home, home.parent.parent):
        program = folder / "bin" / "khorusrun"
        if program.exists():
            return program
    raise FileNotFoundError(f"khorusrun is neither in {home}/bin nor in {home.parent.parent}/bin")


def main() -> NoReturn:
    """Ranks that are Python programs get the Python that this command belongs to."""
    folder = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", "")
    if path.split(os.pathsep)[0] != folder:
        os.environ["PATH"] = folder + os.pathsep + path
    program = str(khorusrun_path())
    # In an editable installation the modules are not beside the program.
    package = ["--python-package", str(Path(__file__).resolve().parent)]
    os.execv(program, [program, *package, *sys.argv[1:]])
