"""python -m khorus.horovod [-m] SCRIPT ...: runs a script that imports horovod, unmodified."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from khorus.horovod import names_folder


def main() -> None:
    arguments = sys.argv[1:]
    as_module = arguments[:1] == ["-m"]
    arguments = arguments[as_module:]
    if not arguments or arguments[0].startswith("-"):
        sys.exit("usage: python -m khorus.horovod SCRIPT.py|-m MODULE [argument ...]")
    names = str(names_folder())
    # For processes that the script starts, for instance the workers of a DataLoader.
    others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != names]
    os.environ["PYTHONPATH"] = os.pathsep.join([names, *others])
    sys.argv[:] = arguments
    if as_module:
        sys.path.insert(1, names)
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        return
    # As Python does: the script's folder comes first.
    sys.path[0] = str(Path(arguments[0]).resolve().parent)
    sys.path.insert(1, names)
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main()
