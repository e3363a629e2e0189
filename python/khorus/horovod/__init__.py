"""Scripts written for Horovod: `import horovod.torch` and its kin become Khorus.

`khorusrun --as-horovod` puts the folder `names` in front of PYTHONPATH, and
`python -m khorus.horovod train.py` does so for one process. The package `horovod` in there is what
a script then imports; it calls install(), after which the modules of Horovod that have a
counterpart are that counterpart: horovod.torch is the module khorus.torch itself, not a copy.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

__all__ = ["install", "names_folder"]

# Also all modules below them.
_COUNTERPARTS = {
    "horovod.torch": "khorus.torch",
    "horovod.ray": "khorus.ray",
    "horovod.common.basics": "khorus.basics",
    "horovod.common.elastic": "khorus.torch.elastic",
    "horovod.common.exceptions": "khorus.exceptions",
    "horovod.common.process_sets": "khorus.process_sets",
    "horovod.common.util": "khorus.horovod.script_functions",
}
_OTHER_FRAMEWORKS = ("keras", "mxnet", "spark", "tensorflow")


def names_folder() -> Path:
    """What stands in PYTHONPATH so that `import horovod` finds Khorus."""
    return Path(__file__).resolve().parent / "names"


def _counterpart(name: str) -> str | None:
    for horovod, khorus in _COUNTERPARTS.items():
        if name == horovod or name.startswith(horovod + "."):
            return khorus + name[len(horovod) :]
    return None


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        words = fullname.split(".")
        if words[0] == "horovod" and len(words) > 1 and words[1] in _OTHER_FRAMEWORKS:
            raise ModuleNotFoundError(
                f"No module named {fullname!r}: Khorus has Horovod's names for PyTorch "
                "(horovod.torch) and Ray (horovod.ray) only",
                name=fullname,
            )
        if _counterpart(fullname) is None:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        real = _counterpart(module.__name__)
        assert real is not None
        # The import system hands out what is in here after this call.
        sys.modules[module.__name__] = importlib.import_module(real)


def install() -> None:
    """Makes Horovod's modules resolve to Khorus in this process. A second call does nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
