"""What failed in the audit log's work and why, counted; whoever waited for it gets the error as it was."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from qflare.errors import QflareError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator


def reason_of(failure: QflareError) -> str:
    """Return the class of *failure*, and the SQLSTATE where the database gave one: words of a fixed set."""
    name = type(failure).__name__
    return f"{name}/{failure.sqlstate}" if isinstance(failure, StoreError) and failure.sqlstate else name


class Failures:
    """Failures by step and reason."""

    def __init__(self) -> None:
        """Begin with none."""
        self.counts: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        """Count what the block raises as one of *step*, and let it go on."""
        try:
            yield
        except QflareError as failure:
            self.counts[step, reason_of(failure)] += 1
            raise
