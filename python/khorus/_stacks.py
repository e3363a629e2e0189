"""Python's stacks for KHORUS_STACK_DUMPS, given without Python's lock.

faulthandler's handler of a signal writes the stacks of all threads from C. Khorus sends the signal
to a thread of its own when it wants them, so that no thread of the program is interrupted, and a
program that is stuck in an extension, with Python's lock, is shown as well.
"""

from __future__ import annotations

import faulthandler
import functools
import os
import signal


@functools.cache
def register() -> tuple[int, int]:
    """Chooses a signal that nobody uses; returns it, and the descriptor its handler writes to."""
    for number in range(signal.SIGRTMAX - 1, signal.SIGRTMIN, -1):
        if signal.getsignal(number) == signal.SIG_DFL:
            descriptor = os.memfd_create("khorus-stacks")
            faulthandler.register(number, file=descriptor, all_threads=True)
            return number, descriptor
    return 0, -1
