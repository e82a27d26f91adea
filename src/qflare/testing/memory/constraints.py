"""What a row must be, under the names of the constraints in database/schema.sql and with the errors they become."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.errors import ConflictError, LengthError, UsageError
from qflare.model.ids import ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Sized

_BIGINT_MAX: Final = 2**63 - 1
_CHECK_VIOLATION: Final = "23514"
UNIQUE_VIOLATION: Final = "23505"
UINT32_MAX: Final = 2**32 - 1
REASON_BYTES_MAX: Final = 1000


def refused(constraint: str, *, sqlstate: str = _CHECK_VIOLATION) -> ConflictError:
    """Return the error of a constraint that refuses a row; never with the row."""
    return ConflictError(f"the database refused the change ({constraint})", sqlstate=sqlstate, constraint=constraint)


def require(is_met: bool, constraint: str) -> None:  # noqa: FBT001 - a condition, and whose it is
    """Raise `ConflictError` unless the condition of *constraint* is met."""
    if not is_met:
        raise refused(constraint) from None


def require_size(value: Sized | None, constraint: str, least: int, most: int | None = None) -> None:
    """Raise `ConflictError` unless *value* is absent or has *least* to *most* bytes; *least* alone means exactly."""
    if value is not None:
        require(least <= len(value) <= (least if most is None else most), constraint)


def require_text(value: str | None, constraint: str, least: int, most: int) -> None:
    """The same for text, counted in bytes of UTF-8."""
    require_size(None if value is None else value.encode(), constraint, least, most)


def require_ids(*identifiers: bytes) -> None:
    """Raise `LengthError` unless each has 16 bytes."""
    for identifier in identifiers:
        if len(identifier) != ID_BYTES:
            name = "identifier"
            raise LengthError(name, expected=ID_BYTES, actual=len(identifier))


def require_numbers(*values: object) -> None:
    """Raise `UsageError` unless each is a number that fits a column of 64 bits."""
    for value in values:
        if not isinstance(value, int) or not -_BIGINT_MAX - 1 <= value <= _BIGINT_MAX:
            raise UsageError("a value does not fit its column's type; check types and ranges")
