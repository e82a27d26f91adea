"""Leaf data: canonical, separate by type, and pinned."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare.errors import DecodeError, LengthError, UsageError
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.primitives.hash import transcript
from qflare.protocol import leaf, log

SALT = bytes(range(16))
TENANT = bytes(range(16, 32))
EVENT = {
    "tenant_id": TENANT,
    "event_type": SecurityEventType.KEY_EXCHANGE,
    "severity": EventSeverity.INFO,
    "device_id": "camera-7",
    "occurred_at_ms": 1_700_000_000_123,
    "data": b'{"round":3}',
    "salt": SALT,
}


def test_a_sessions_leaf_is_laid_out_as_specified():
    """165 bytes, every field at its offset (H9)."""
    data = leaf.session_leaf(
        form=2, suite=1, server_id=b"S" * 32, sid=b"s" * 16, start=7, th3_hash=b"h" * 64, who=b"w" * 32
    )
    assert data == b"QFX1 LEAF\x01\x02\x00\x01" + b"S" * 32 + b"s" * 16 + bytes(7) + b"\x07" + b"h" * 64 + b"w" * 32
    assert len(data) == 165


def test_who_binds_tenant_device_and_version():
    """Who = H("who", tenant_id, ref, key_version, key)[:32]."""
    found = leaf.who_of(tenant_id=TENANT, ref=b"r" * 32, key_version=3, who_key=b"k" * 32)
    assert found == transcript(b"who", TENANT, b"r" * 32, b"\0\0\0\3", b"k" * 32)[:32]


def test_an_events_leaf_is_the_documented_vector():
    """The vector of docs/audit.md."""
    data = leaf.event_leaf(**EVENT)
    assert data.hex() == (
        "51465831204c45414602"
        "000102030405060708090a0b0c0d0e0f"
        "101112131415161718191a1b1c1d1e1f"
        "0000018bcfe5687b"
        "0c6b65795f65786368616e6765"
        "04696e666f"
        "0863616d6572612d37"
        "0000000b7b22726f756e64223a337d"
    )
    assert log.hash_leaf(data).hex() == "8d5375c8eb79d1f4e2ed925b7d8b226ac6f6b115f2dbdded430763a38a320857"


def test_a_leaf_without_a_device_reads_back():
    """No device_id is written as an empty one, and no device can have that name."""
    found = leaf.decode_event_leaf(leaf.event_leaf(**{**EVENT, "device_id": None}))
    assert found.device_id is None
    with pytest.raises(LengthError):
        leaf.event_leaf(**{**EVENT, "device_id": ""})


@given(
    st.sampled_from(SecurityEventType),
    st.sampled_from(EventSeverity),
    st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60),
    st.integers(0, 2**63 - 1),
    st.binary(max_size=300),
)
def test_every_event_reads_back_as_it_was_written(event_type, severity, device_id, occurred_at_ms, data):
    """Encoding and decoding are inverse."""
    encoded = leaf.event_leaf(
        tenant_id=TENANT,
        event_type=event_type,
        severity=severity,
        device_id=device_id,
        occurred_at_ms=occurred_at_ms,
        data=data,
    )
    found = leaf.decode_event_leaf(encoded)
    assert (found.event_type, found.severity, found.device_id) == (event_type, severity, device_id)
    assert (found.tenant_id, found.occurred_at_ms, found.data) == (TENANT, occurred_at_ms, data)
    again = leaf.event_leaf(
        tenant_id=found.tenant_id,
        event_type=found.event_type,
        severity=found.severity,
        device_id=found.device_id,
        occurred_at_ms=found.occurred_at_ms,
        data=found.data,
        salt=found.salt,
    )
    assert again == encoded


def test_truncated_and_lengthened_leaves_are_refused():
    """No prefix and no extension of an event's leaf is an event's leaf; nor is a session's."""
    data = leaf.event_leaf(**EVENT)
    for bad in (*(data[:size] for size in range(len(data))), data + b"\0", b"QFX1 LEAF\x01" + data[10:]):
        with pytest.raises(DecodeError):
            leaf.decode_event_leaf(bad)
    with pytest.raises(DecodeError):
        leaf.decode_event_leaf(data.replace(b"info", b"onfi"))
    with pytest.raises(DecodeError):
        leaf.decode_event_leaf(data.replace(b"camera-7", b"\xff" * 8))


@given(st.binary(max_size=200))
def test_the_leaf_reader_is_total(data):
    """Any bytes are read or refused with a DecodeError."""
    for candidate in (data, b"QFX1 LEAF\x02" + data):
        try:
            found = leaf.decode_event_leaf(candidate)
        except DecodeError:
            continue
        assert len(found.salt) == 16


def test_two_equal_events_have_different_leaves():
    """The random salt keeps a leaf hash from telling what the event was."""
    unsalted = {name: value for name, value in EVENT.items() if name != "salt"}
    assert leaf.event_leaf(**unsalted) != leaf.event_leaf(**unsalted)


def test_event_data_is_canonical_json():
    """Sorted keys, no spaces, UTF-8 as it is; what other languages write differently is refused."""
    data = {"b": [1, True, None, "\u00fc"], "a": {"y": -5, "x": "\n"}}
    encoded = leaf.encode_event_data(data)
    assert encoded == '{"a":{"x":"\\n","y":-5},"b":[1,true,null,"\u00fc"]}'.encode()
    assert json.loads(encoded) == data
    nested = {}
    for _ in range(9):
        nested = {"n": nested}
    for bad in ({"f": 1.5}, {"n": float("nan")}, {"b": b"x"}, {1: 2}, {"i": 2**53}, {"l": [object()]}, nested):
        with pytest.raises(UsageError):
            leaf.encode_event_data(bad)
    with pytest.raises(UsageError):
        leaf.encode_event_data({"long": "x" * (1 << 16)})
    with pytest.raises(UsageError):
        leaf.encode_event_data({"surrogate": "\ud800"})


def test_fields_that_cannot_stand_in_a_leaf_are_refused():
    """Wrong sizes, forms and times are usage errors."""
    for change in ({"tenant_id": b"x"}, {"salt": b"x"}, {"data": bytes((1 << 16) + 1)}, {"device_id": "x" * 256}):
        with pytest.raises(LengthError):
            leaf.event_leaf(**{**EVENT, **change})
    with pytest.raises(UsageError):
        leaf.event_leaf(**{**EVENT, "occurred_at_ms": -1})
    good = {
        "form": 1,
        "suite": 1,
        "server_id": bytes(32),
        "sid": bytes(16),
        "start": 0,
        "th3_hash": bytes(64),
        "who": bytes(32),
    }
    for name in ("server_id", "sid", "th3_hash", "who"):
        with pytest.raises(LengthError):
            leaf.session_leaf(**{**good, name: b"x"})
    with pytest.raises(UsageError):
        leaf.session_leaf(**{**good, "form": 3})
