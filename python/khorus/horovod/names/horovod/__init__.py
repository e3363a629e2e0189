"""`horovod`, served by Khorus; see khorus/horovod/__init__.py."""

from khorus.horovod import install
from khorus.runner import run

install()

__all__ = ["run"]
__version__ = "0.28.1"  # of the Horovod whose names these are
