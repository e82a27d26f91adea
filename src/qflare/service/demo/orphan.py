"""A child process's promise to its parent: it does not outlive it, and the terminal's signals do not reach it."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def end_with_parent(parent: int) -> None:
    """
    Ask the kernel to kill this process when its parent ends (Linux, prctl(2)); elsewhere the closed pipe ends it.

    Args:
        parent: The process id that the parent stated; if it has gone already, this process ends at once.
    """
    # The terminal sends SIGINT to everybody; the parent decides and tells its children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    except (OSError, AttributeError):
        return
    # The parent may have ended before the kernel was asked.
    if os.getppid() != parent:
        os._exit(1)
