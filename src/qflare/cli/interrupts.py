"""Interrupts while a command is still being loaded."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def ended_by_interrupts() -> Iterator[None]:
    """
    Have SIGINT end the process at once, as the system does it: for imports, while nothing is under way yet.

    Python would raise `KeyboardInterrupt` wherever it is, also in callbacks and initialisers of imports, where
    an exception is reported and forgotten: the command would go on, and the one who interrupted it wait.  Where SIGINT
    is ignored or handled by others, and in other threads than the main one, nothing is changed.
    """
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
