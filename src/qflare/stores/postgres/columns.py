"""Between records and columns: identifiers, times, events and what an append returns."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import accumulate
from typing import TYPE_CHECKING, Final, TypeVar

from asyncpg.pgproto.pgproto import UUID

from qflare.errors import LengthError
from qflare.model.event import LogAppend
from qflare.model.ids import ID_BYTES
from qflare.protocol.log import HASH_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from qflare.model.event import NewEvent

Value = TypeVar("Value")

BIGINT_MAX: Final = 2**63 - 1
_WITH_KEY: Final = b"\x02"


def as_uuid(identifier: bytes) -> UUID:
    """Return 16 bytes as PostgreSQL's uuid, which is any 128 bits."""
    if len(identifier) != ID_BYTES:
        raise LengthError("identifier", expected=ID_BYTES, actual=len(identifier))
    return UUID(identifier)


def as_uuids(identifiers: Sequence[bytes]) -> list[UUID]:
    """Return identifiers of 16 bytes as uuids."""
    return [as_uuid(identifier) for identifier in identifiers]


def shortened(values: Sequence[Value]) -> Sequence[Value]:
    """Return a column as it is, or its one value if all rows have the same: for statements that take either."""
    return values[:1] if values.count(values[0]) == len(values) else values


def joined(values: Sequence[bytes]) -> tuple[bytes, str]:
    """Return the values of a column behind each other, and where each begins and the last ends, as an array's text."""
    return b"".join(values), f"{{{','.join(map(str, accumulate(map(len, values), initial=0)))}}}"


def as_time(seconds: int) -> datetime:
    """Return Unix seconds as the aware time that timestamptz takes."""
    return datetime.fromtimestamp(seconds, tz=UTC)


EventColumns = tuple[list[str], list[str], list[str | None], list[bytes], list[bytes], list[int]]


def event_columns(events: Sequence[NewEvent]) -> EventColumns:
    """Return types, severities, device ids, data, leaves and times (ms), as the functions take them."""
    return (
        [event.event_type._value_ for event in events],
        [event.severity._value_ for event in events],
        # Of entry type 3 the device stands in what is stored, sealed.
        [event.device_id if event.stored is None else None for event in events],
        [_data(event) for event in events],
        [event.leaf_data for event in events],
        [event.occurred_at_ms for event in events],
    )


def _data(event: NewEvent) -> bytes:
    """Return what `write_events` takes as an event's data: in front of what it stores, the key it puts elsewhere."""
    if event.stored is None:
        return event.data
    key = event.sealed_key
    return event.stored if key is None else b"".join((_WITH_KEY, key.subject, key.sealed, event.stored))


def split_frontier(frontier: bytes) -> tuple[bytes, ...]:
    """Return the hashes of a frontier, largest subtree first."""
    return tuple(frontier[at : at + HASH_BYTES] for at in range(0, len(frontier), HASH_BYTES))


def hashed_append(row: asyncpg.Record | None, leaf_hashes: Sequence[bytes]) -> LogAppend | None:
    """Return what an append of leaves with these hashes left, or None where nothing was appended."""
    if row is None or row["first_index"] is None:
        return None
    return LogAppend(
        first_index=row["first_index"],
        old_frontier=split_frontier(row["old_frontier"]),
        leaf_hashes=tuple(leaf_hashes),
    )
