"""Entries of type 3: fields committed to one by one, sealed where they tell of a device, and pinned."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare.errors import AuthenticationError, DecodeError, LengthError, UsageError
from qflare.manager.entry_keys import EntryKeys
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.protocol import entry
from qflare.protocol.new_event import new_event
from qflare.secret import SecretBytes

TENANT = bytes(range(16, 32))
SALT = bytes(range(32))
TYPE, INFO = SecurityEventType.KEY_EXCHANGE, EventSeverity.INFO
JSON = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(exclude_categories=["Cs"])),
    max_size=6,
)


@pytest.fixture
def vault():
    kek = SecretBytes(bytearray(b"k" * 32))
    keys = EntryKeys(kek)
    yield keys
    keys.wipe()


def made(vault, data=None, *, device_id="camera-7", **changes):
    values = {"tenant_id": TENANT, "occurred_at_ms": 1_700_000_000_123, "salt": SALT, "vault": vault}
    return new_event(
        TYPE, INFO, {"round": 3, "by": "operator"} if data is None else data, device_id=device_id, **(values | changes)
    )


@settings(deadline=None)
@given(JSON, st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_every_event_opens_to_what_it_said(data, device_id):
    """Row and leaf fit, the commitments open, and device and data come back."""
    keys = EntryKeys(SecretBytes(bytearray(b"k" * 32)))
    event = made(keys, data, device_id=device_id)
    leaf = entry.decode_fields_leaf(event.leaf_data)
    assert (TYPE, INFO, 1_700_000_000_123) == (leaf.event_type, leaf.severity, leaf.occurred_at_ms)
    assert leaf.row_digest == entry.digest_row(TENANT, event.stored)
    opening = entry.open_stored(TENANT, event.stored, key=event.sealed_key, vault=keys)
    assert (device_id, event.data) == (opening.device_id, opening.data)
    entry.check_opening(leaf, TENANT, opening)
    with pytest.raises(AuthenticationError):
        entry.check_opening(leaf, bytes(16), opening)
    assert entry.is_sealed(event.stored) is (device_id is not None)
    keys.wipe()


def test_nothing_of_a_device_stands_in_the_clear(vault):
    """Neither the leaf, nor what the row stores, nor the row of its key says whom the event is about, or what it says."""
    event = made(vault, {"secretive": "words"})
    for seen in (event.leaf_data, event.stored, event.sealed_key.subject, event.sealed_key.sealed):
        assert b"camera" not in seen
        assert b"words" not in seen
        assert SALT not in seen
    assert entry.open_stored(TENANT, event.stored) is None
    assert made(vault).sealed_key.subject == event.sealed_key.subject
    assert made(vault, device_id="camera-8").sealed_key.subject != event.sealed_key.subject
    assert made(vault, tenant_id=bytes(16)).sealed_key.subject != event.sealed_key.subject


def test_a_row_opens_under_its_own_key_in_its_own_tenant_alone(vault):
    """Another entry's key, another keeper's, another tenant, or one changed bit opens nothing."""
    event, other = made(vault), made(vault)
    stranger = EntryKeys(SecretBytes(bytearray(b"x" * 32)))
    bits = bytearray(event.stored)
    bits[-1] ^= 1
    for stored, tenant, key, keys in (
        (event.stored, TENANT, other.sealed_key, vault),
        (event.stored, bytes(16), event.sealed_key, vault),
        (event.stored, TENANT, event.sealed_key, stranger),
        (bytes(bits), TENANT, event.sealed_key, vault),
    ):
        with pytest.raises(AuthenticationError):
            entry.open_stored(tenant, stored, key=key, vault=keys)
    for damaged in (b"\x09" + event.sealed_key.sealed[1:], b"", b"\x01" * 20):
        with pytest.raises(AuthenticationError):
            vault.open(TENANT, event.stored[1:], type(event.sealed_key)(event.sealed_key.subject, damaged))
    stranger.wipe()


def test_one_field_is_shown_without_the_others(vault):
    """The salt of one field opens its commitment, and gives no other's."""
    event = made(vault, {"a": 1, "b": 2})
    opening = entry.open_stored(TENANT, event.stored, key=event.sealed_key, vault=vault)
    fields = opening.fields(TENANT)
    assert [("", TENANT), ("", b"camera-7"), ("a", b"1"), ("b", b"2")] == [(each.name, each.value) for each in fields]
    salts = [entry.field_salt(SALT, field) for field in fields]
    commitments = [entry.commit_field(field, salt) for field, salt in zip(fields, salts, strict=True)]
    assert entry.decode_fields_leaf(event.leaf_data).fields_hash == entry.hash_fields(commitments)
    assert len(set(salts)) == len(set(commitments)) == 4
    # A key of the data named like nothing else: the kind keeps tenant, device and data apart.
    alike = [entry.Field(kind, "", b"x") for kind in (entry.TENANT_FIELD, entry.DEVICE_FIELD, entry.DATA_FIELD)]
    assert len({entry.commit_field(each, SALT) for each in alike}) == 3


def test_truncated_and_lengthened_leaves_are_refused(vault):
    """No prefix and no extension of a leaf is one, nor is a leaf of another type."""
    data = made(vault).leaf_data
    for bad in (*(data[:size] for size in range(len(data))), data + b"\0", b"QFX1 LEAF\x02" + data[10:]):
        with pytest.raises(DecodeError):
            entry.decode_fields_leaf(bad)
    for bad in (data.replace(b"info", b"onfi"), data.replace(b"info", b"\xff\xff\xff\xff")):
        with pytest.raises(DecodeError):
            entry.decode_fields_leaf(bad)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_the_readers_are_total(data):
    """Any bytes are read, or refused with a DecodeError."""
    for read in (
        lambda: entry.decode_fields_leaf(b"QFX1 LEAF\x03" + data),
        lambda: entry.decode_opening(data).fields(TENANT),
        lambda: entry.open_stored(TENANT, data),
    ):
        try:
            read()
        except DecodeError:
            continue


def test_data_that_are_not_canonical_open_nothing():
    """What spells the same fields in another way is refused: one opening for one commitment."""
    for data in (b'{"a": 1}', b'{"a":1,"a":1}', b"[]", b"1", b"{", b"\xff", b'{"a":1.5}', b"[" * 30_000):
        with pytest.raises(DecodeError):
            entry.Opening(salt=SALT, device_id=None, data=data).fields(TENANT)


def test_events_that_cannot_stand_are_refused(vault):
    """Wrong sizes and times, data too long for the row, and a device's event without a vault."""
    with pytest.raises(UsageError, match="vault"):
        made(None)
    for change in ({"device_id": ""}, {"device_id": "x" * 256}, {"tenant_id": b"x"}, {"salt": b"x"}):
        with pytest.raises(LengthError):
            made(vault, **change)
    with pytest.raises(UsageError):
        made(vault, occurred_at_ms=-1)
    with pytest.raises(UsageError, match="digest"):
        made(vault, {"long": "x" * 65_100})
    longest = made(vault, {"long": "x" * (entry.DATA_FIELDS_BYTES_MAX - 11)}, device_id="x" * 255)
    assert len(longest.stored) <= 65_536
    with pytest.raises(LengthError):
        entry.fields_leaf(event_type=TYPE, severity=INFO, occurred_at_ms=1, row_digest=b"", fields_hash=bytes(32))
