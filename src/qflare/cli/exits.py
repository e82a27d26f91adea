"""Exit codes: one for each kind of error (docs/cli.md)."""

from __future__ import annotations

from enum import IntEnum

from qflare.errors import (
    AuthenticationError,
    EvidenceError,
    KeeperError,
    LogForkError,
    MissingExtraError,
    ProtocolError,
    QflareError,
    SchemaMismatchError,
    StoreUnavailableError,
    UsageError,
)


class ExitCode(IntEnum):
    """What a command's end means to a script."""

    OK = 0
    FAILED = 1
    """Anything without a code of its own."""
    USAGE = 2
    """The call cannot work as it stands: an option, a path, an address, a missing extra."""
    REFUSED = 3
    """The other side refused, or what it sent cannot be accepted."""
    UNAVAILABLE = 4
    """A server, a database or a keeper cannot be used now."""
    EVIDENCE = 5
    """The audit log or a receipt does not hold: an alarm."""
    FORKED = 6
    """Of `qflare audit watch`: the log shrank, or shows another history than it did."""
    INTERRUPTED = 130


_CODES: tuple[tuple[type[QflareError], ExitCode], ...] = (
    (EvidenceError, ExitCode.EVIDENCE),
    (LogForkError, ExitCode.EVIDENCE),
    (StoreUnavailableError, ExitCode.UNAVAILABLE),
    (SchemaMismatchError, ExitCode.UNAVAILABLE),
    (KeeperError, ExitCode.UNAVAILABLE),
    (UsageError, ExitCode.USAGE),
    (MissingExtraError, ExitCode.USAGE),
    (ProtocolError, ExitCode.REFUSED),
    (AuthenticationError, ExitCode.REFUSED),
)
"""The first class that fits gives the code."""


def code_of(error: QflareError) -> ExitCode:
    """Return the exit code of *error*."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.FAILED)
