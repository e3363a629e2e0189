"""`horovod.runner`, served by Khorus."""

from khorus.runner import run

__all__ = ["run"]
