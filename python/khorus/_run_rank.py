"""python -m khorus._run_rank FOLDER: what a rank of khorus.run does."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from types import ModuleType

from khorus.runner import read_signed, write_signed


def _import_main(path: str) -> None:
    """The caller's script, so that pickle finds what is defined in it. As multiprocessing does, it
    runs under another name: not what it guards with `if __name__ == "__main__"`."""
    module = ModuleType("__mp_main__")
    module.__dict__.update(runpy.run_path(path, run_name="__mp_main__"))
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module


def main(folder: Path) -> None:
    key = (folder / "key").read_bytes()
    script, call = read_signed(folder / "call", key)
    if script:
        _import_main(script)
    func, args, kwargs = read_signed(call, key)
    result = func(*args, **kwargs)
    rank = os.environ.get("KHORUS_RANK") or os.environ.get("OMPI_COMM_WORLD_RANK") or "0"
    write_signed(folder / f"result.{int(rank)}", key, result)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
