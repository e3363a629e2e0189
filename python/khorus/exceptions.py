"""The errors of Khorus, under the names that Horovod's users know."""

from __future__ import annotations

from khorus._core import HorovodInternalError

__all__ = ["HorovodInternalError", "HostsUpdatedInterrupt", "RankFailedError"]


class HostsUpdatedInterrupt(RuntimeError):
    """The hosts of an elastic job have changed."""

    def __init__(self, skip_sync: bool = False) -> None:
        super().__init__("the hosts of the job have changed")
        self.skip_sync = skip_sync


class RankFailedError(RuntimeError):
    """A rank of khorus.ray or khorus.dask failed: which one, on which host, and why.

    __cause__ is what the rank raised, if that could be brought here.
    """

    def __init__(self, message: str, rank: int, host: str) -> None:
        super().__init__(message)
        self.rank = rank
        self.host = host

    def __reduce__(self) -> tuple[type[RankFailedError], tuple[str, int, str]]:
        return type(self), (str(self), self.rank, self.host)
