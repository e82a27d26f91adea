"""The time that work spends in cryptography: every call into the C core and into AES-256-GCM, in all threads."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from qflare.primitives import aead

_BORDER = "qflare._native."
_CIPHER_CALLS = ("encrypt", "encrypt_into", "decrypt", "decrypt_into")


class CryptoTime:
    """Collects it while `running`."""

    def __init__(self) -> None:
        """Learn what the clock itself takes, which each call is spared."""
        self._spent_s: list[float] = []
        nothing = self._timed(lambda: None)
        for _ in range(201):
            nothing()
        self._clock_s = sorted(self._spent_s)[100]
        self._spent_s.clear()

    def take(self) -> float:
        """Return the seconds of CPU since the last take."""
        seconds = sum(self._spent_s) - self._clock_s * len(self._spent_s)
        self._spent_s.clear()
        return seconds

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time what the block, and every thread meanwhile, calls; the code that runs is the same as ever."""
        modules = [module for name, module in sys.modules.items() if name.startswith(_BORDER)]
        modules = [module for module in modules if hasattr(module, "lib")]
        libs, cipher = [module.lib for module in modules], aead.AESGCM

        class TimedCipher:
            def __init__(timed, key) -> None:  # noqa: N805 - self is the collector
                made = self._timed(cipher)(key)
                for name in _CIPHER_CALLS:
                    setattr(timed, name, self._timed(getattr(made, name)))

        try:
            for module, lib in zip(modules, libs, strict=True):
                module.lib = _TimedLib(lib, self._timed)
            aead.AESGCM = TimedCipher
            yield
        finally:
            aead.AESGCM = cipher
            for module, lib in zip(modules, libs, strict=True):
                module.lib = lib

    def _timed(self, call: Callable) -> Callable:
        # One append, which the interpreter does whole: the threads need no lock.
        note, clock = self._spent_s.append, time.thread_time

        def counted(*arguments, **named):
            start = clock()
            try:
                return call(*arguments, **named)
            finally:
                note(clock() - start)

        return counted


class _TimedLib:
    """The extension's functions, timed; its constants as they are."""

    def __init__(self, lib, timed: Callable) -> None:
        self._lib = lib
        self._timed = timed

    def __getattr__(self, name: str):
        found = getattr(self._lib, name)
        if callable(found):
            found = self._timed(found)
        setattr(self, name, found)  # the next look-up finds it without this call
        return found
