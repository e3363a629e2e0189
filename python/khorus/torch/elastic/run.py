"""The loop around an elastic training function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from khorus.basics import init, shutdown
from khorus.exceptions import HorovodInternalError, HostsUpdatedInterrupt
from khorus.torch.elastic.state import State

__all__ = ["run"]

# Codes of HorovodInternalError that a new engine on all ranks can mend; and when ranks meet again,
# for one of them may be lost just then.
_MENDABLE = {"peer lost", "aborted", "shutdown"}
_MENDABLE_IN_MEETING = _MENDABLE | {"timeout", "unavailable"}
# Meetings that may fail in a row. Of those that failed because a rank was lost there are no more
# than the launcher starts ranks again.
_FAILED_MEETINGS = 3


def _code_of(error: HorovodInternalError) -> str:
    """A script's own HorovodInternalError has none, and asks for a reset."""
    return getattr(error, "code", "aborted")


def run(func: Callable[..., Any]) -> Callable[..., Any]:
    """Makes func(state, ...) survive the loss of ranks, as this package's text says."""

    @functools.wraps(func)
    def training(state: State, *args: Any, **kwargs: Any) -> Any:
        meets_again = skip_sync = trains = False
        failed_meetings = 0
        while True:
            trains = False
            try:
                if meets_again:
                    shutdown()
                init()
                if meets_again:
                    state.on_reset()
                if not skip_sync:
                    state.sync()
                trains, failed_meetings = True, 0
                return func(state, *args, **kwargs)
            except HorovodInternalError as error:
                code = _code_of(error)
                failed_meetings += not trains and code != "peer lost"
                mendable = _MENDABLE if trains else _MENDABLE_IN_MEETING
                if code not in mendable or failed_meetings == _FAILED_MEETINGS:
                    raise
                state.restore()
                skip_sync = False
            except HostsUpdatedInterrupt as interrupt:
                skip_sync = interrupt.skip_sync
            meets_again = True

    return training
