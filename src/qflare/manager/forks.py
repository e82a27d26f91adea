"""
What a child process inherits of its parent's secrets by a fork: nothing that is registered here.

A child has a copy of all memory and may live for hours, such as a loader of training data; a key that its parent wipes
at the end of a bucket would live on in it.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class _Forks:
    """Calls, in a child process, what wipes the child's copies."""

    def __init__(self) -> None:
        self._wipes: set[weakref.WeakMethod[Callable[[], None]]] = set()
        self._is_registered = False

    def add(self, wipe: Callable[[], None]) -> None:
        if not self._is_registered:
            # Once a process: a hook cannot be taken back.
            self._is_registered = True
            os.register_at_fork(after_in_child=self._wipe)
        self._wipes.add(weakref.WeakMethod(wipe, self._wipes.discard))

    def _wipe(self) -> None:
        for reference in list(self._wipes):
            wipe = reference()
            if wipe is not None:
                wipe()


_forks = _Forks()


def wipe_after_fork(wipe: Callable[[], None]) -> None:
    """
    Have *wipe*, a bound method, called in every child process that is forked from this one, while its owner lives.

    The parent's stays as it is.  It runs in the child's only thread, wherever the parent's others were: what these held
    in their hands at that instant is not reached.  Processes that are started by exec inherit no memory.
    """
    _forks.add(wipe)
