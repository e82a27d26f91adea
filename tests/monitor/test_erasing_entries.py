"""What an entry says was erased: read back as it was written, and nothing from what nobody writes."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare.model.event import FIELDS_ENTRY, AuditEntry, EventSeverity, SecurityEventType
from qflare.model.ids import DEFAULT_TENANT
from qflare.monitor.erasure import WHAT, encode_indexes, erased_by

OPENING = b"\0" + bytes(32) + b"\0"


def entry(stored, *, event_type=SecurityEventType.OPERATOR_ACTION, entry_type=FIELDS_ENTRY):
    return AuditEntry(
        index=9,
        entry_type=entry_type,
        tenant_id=DEFAULT_TENANT,
        leaf_hash=bytes(32),
        leaf_data=b"",
        event_type=event_type,
        severity=EventSeverity.WARNING,
        device_id=None,
        data=stored,
        recorded_at=datetime.now(UTC),
    )


def told(indexes, what=WHAT):
    return OPENING + json.dumps({"what": what, "count": 1, "indexes": indexes}).encode()


@settings(deadline=None)
@given(st.sets(st.integers(0, 2**40), max_size=50))
def test_indexes_read_back_as_they_were_written(indexes):
    """Ranges and single indexes, in order."""
    assert sorted(indexes) == list(erased_by(entry(told(encode_indexes(sorted(indexes))))))


def test_neighbours_are_one_range():
    """What an erasure of many entries says stays short."""
    assert "0-2,5,7-8" == encode_indexes([0, 1, 2, 5, 7, 8])


@pytest.mark.parametrize(
    "stored",
    [
        told("1-3", what="something else"),
        told("3-1"),
        told("0-99999999999"),
        told("-1"),
        told("a"),
        told("1" * 5000),
        told(None),
        OPENING + b"[1]",
        OPENING + b"{",
        b"\0short",
        b"\1" + bytes(80),
        b"",
    ],
)
def test_what_no_erasure_writes_tells_of_nothing(stored):
    """Other words, impossible ranges, too many, and rows that were altered."""
    assert [] == list(erased_by(entry(stored)))


def test_only_an_operators_entry_of_type_3_tells_of_an_erasure():
    """Neither another type of event nor an entry from before."""
    for changes in ({"event_type": SecurityEventType.SYSTEM}, {"entry_type": 2}):
        assert [] == list(erased_by(entry(told("1-3"), **changes)))
