"""Why an operator does something: text of a few words, which stands in the log."""

from __future__ import annotations

from qflare.errors import UsageError


def require_reason(reason: str, *, bytes_max: int, remedy: str, bytes_min: int = 1) -> None:
    """Raise `UsageError` with *remedy* unless *reason* is text of *bytes_min* to *bytes_max* bytes of UTF-8."""
    given: object = reason
    if not isinstance(given, str):
        raise UsageError(f"reason must be text, got {type(given).__name__}: {remedy}")
    try:
        size = len(given.encode())
    except UnicodeEncodeError:
        raise UsageError(f"reason must be text that UTF-8 can hold: {remedy}") from None
    if not bytes_min <= size <= bytes_max:
        least = f"{bytes_min} to" if bytes_min else "at most"
        raise UsageError(f"reason must be text of {least} {bytes_max} bytes: {remedy}")
