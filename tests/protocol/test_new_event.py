"""Events in batches: the C core's leaves against the reference in Python, byte for byte, and what is refused."""

import enum
import os
from collections.abc import Mapping
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare._native.entries import entry_leaves as native_leaves
from qflare._native.entries import force_plain
from qflare.clock import SystemClock
from qflare.errors import BatchError, LengthError, UsageError
from qflare.manager.entry_keys import EntryKeys
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.monitor.events import each_event
from qflare.protocol import entry
from qflare.protocol.leaf import encode_event_data
from qflare.protocol.log import hash_leaf
from qflare.protocol.new_event import Draft, new_event, new_events
from qflare.secret import SecretBytes

TENANT = bytes(range(16, 32))
TYPE, INFO = SecurityEventType.SYSTEM, EventSeverity.INFO
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=70)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
DRAFTS = st.lists(
    st.builds(
        Draft,
        st.sampled_from(SecurityEventType),
        st.sampled_from(EventSeverity),
        st.dictionaries(TEXT, JSON, max_size=6),
        st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60),
    ),
    max_size=6,
)


@pytest.fixture(scope="module")
def vault():
    keys = EntryKeys(SecretBytes(bytearray(b"k" * 32)))
    yield keys
    keys.wipe()


@pytest.fixture(params=[False, True], ids=["processor's SHA-256", "plain SHA-256"])
def sha256(request):
    """Both ways of compressing; the first is the second where the processor has no instructions for it."""
    force_plain(is_plain=request.param)
    yield
    force_plain(is_plain=False)


def reference(draft, event, salt, occurred_at_ms):
    """Leaf data as docs/audit.md has them, made by the reference in Python for what the row stores."""
    opening = entry.Opening(salt=salt, device_id=draft.device_id, data=encode_event_data(draft.data))
    commitments = [entry.commit_field(field, entry.field_salt(salt, field)) for field in opening.fields(TENANT)]
    return entry.fields_leaf(
        event_type=draft.event_type,
        severity=draft.severity,
        occurred_at_ms=occurred_at_ms,
        row_digest=entry.digest_row(TENANT, event.stored),
        fields_hash=entry.hash_fields(commitments),
    )


@settings(deadline=None)
@given(DRAFTS, st.data())
def test_leaves_of_a_batch_are_those_of_the_reference(vault, drafts, data):
    """C and Python agree on every byte, and so do the two ways of compressing, whatever the shapes are."""
    salts = data.draw(st.binary(min_size=32 * len(drafts), max_size=32 * len(drafts)))
    occurred_at_ms = data.draw(st.integers(0, 2**63 - 1))
    for is_plain in (False, True):
        force_plain(is_plain=is_plain)
        try:
            events = new_events(drafts, tenant_id=TENANT, occurred_at_ms=occurred_at_ms, vault=vault, salts=salts)
        finally:
            force_plain(is_plain=False)
        assert len(events) == len(drafts)
        for place, (draft, event) in enumerate(zip(drafts, events, strict=True)):
            salt = salts[32 * place : 32 * place + 32]
            assert event.data == encode_event_data(draft.data)
            assert event.leaf_data == reference(draft, event, salt, occurred_at_ms)
            assert event.leaf_hash == hash_leaf(event.leaf_data)
            opening = entry.open_stored(TENANT, event.stored, key=event.sealed_key, vault=vault)
            assert (opening.salt, opening.device_id, opening.data) == (salt, draft.device_id, event.data)
            assert (draft.event_type, draft.severity, draft.device_id) == event[:3]


@pytest.mark.usefixtures("sha256")
def test_a_batch_is_larger_than_one_call_takes(vault):
    """Thousands of events: every one stands at its place, with a salt and a key of its own."""
    drafts = [Draft(TYPE, INFO, {"n": n}, f"camera-{n % 7}" if n % 3 else None) for n in range(5000)]
    events = new_events(drafts, tenant_id=TENANT, occurred_at_ms=1, vault=vault)
    salts = set()
    for number in (0, 1, 2, 4095, 4096, 4097, 4999):
        opening = entry.open_stored(TENANT, events[number].stored, key=events[number].sealed_key, vault=vault)
        assert (opening.device_id, opening.data) == (drafts[number].device_id, b'{"n":%d}' % number)
        entry.check_opening(entry.decode_fields_leaf(events[number].leaf_data), TENANT, opening)
        salts.add(opening.salt)
    assert len(salts) == 7
    assert len({event.leaf_hash for event in events}) == 5000
    assert len({event.sealed_key.sealed for event in events if event.sealed_key is not None}) == 3333
    assert len({event.sealed_key.subject for event in events if event.sealed_key is not None}) == 7


def test_one_of_a_batch_that_is_bad_leaves_none(vault):
    """All of them or an error that says what is wrong; a batch of none is none."""
    good = Draft(TYPE, INFO, {"n": 1})
    for bad in ({"x": 1.5}, {"x": b"bytes"}, {"x": 2**53}, {1: 1}, {"x": "\ud800"}, {"\ud800": 1}, {"x": [1.5]}):
        with pytest.raises(UsageError):
            new_events([good, Draft(TYPE, INFO, bad), good], tenant_id=TENANT, occurred_at_ms=1, vault=vault)
    with pytest.raises(UsageError, match="vault"):
        new_events([good, Draft(TYPE, INFO, {}, "camera-7")], tenant_id=TENANT, occurred_at_ms=1)
    with pytest.raises(LengthError):
        new_events([good, Draft(TYPE, INFO, {}, "")], tenant_id=TENANT, occurred_at_ms=1, vault=vault)
    with pytest.raises(LengthError):
        new_events([good, good], tenant_id=TENANT, occurred_at_ms=1, salts=bytes(32))
    assert new_events([], tenant_id=TENANT, occurred_at_ms=1) == []


def test_values_that_are_none_of_the_usual_types_are_encoded_as_before():
    """Subclasses of text and integers, and maps that are no dicts, take the longer way to the same bytes."""

    class Word(str):
        __slots__ = ()

    class Number(enum.IntEnum):
        ONE = 1

    data = {Word("b"): Word("x"), "a": Number.ONE, "c": True, "d": None, "e": {"z": [1, "é\n"]}}
    event = new_event(TYPE, INFO, MappingProxyType(data), tenant_id=TENANT, occurred_at_ms=1)
    assert event.data == encode_event_data(data) == '{"a":1,"b":"x","c":true,"d":null,"e":{"z":[1,"é\\n"]}}'.encode()


def test_the_border_refuses_parts_that_do_not_fit():
    """Whatever the floors above checked: sizes and counts are checked before C is called."""
    salts, parts = os.urandom(64), [b"head", b"stored", b"", b"n", b"v"]
    assert [len(leaf) for leaf in native_leaves(TENANT, salts, [*parts, b"h", b"", b""], [1, 0])[0]] == [68, 65]
    for counts in ([1], [0, 1, 1], [2, 0], [-1, 2]):
        with pytest.raises(BatchError):
            native_leaves(TENANT, bytes(32 * len(counts)), [*parts, b"h", b"", b""], counts)
    for tenant, given_salts in ((TENANT[1:], salts[:32]), (TENANT, salts), (TENANT, salts[:31])):
        with pytest.raises(LengthError):
            native_leaves(tenant, given_salts, parts, [1])


class Keys(Mapping):
    """A map whose keys are what it was given, unhashable ones among them."""

    def __init__(self, *keys):
        self.keys_given = keys

    def __iter__(self):
        return iter(self.keys_given)

    def __len__(self):
        return len(self.keys_given)

    def __getitem__(self, key):
        return 1


def test_names_that_were_seen_before_change_nothing():
    """Hundreds of sets of names, each in two orders and again later, are encoded as each by itself is."""
    maps = [{f"{place}-{number}": number for number in range(place % 5)} for place in range(700)]
    maps += [dict(reversed(each.items())) for each in maps] + [{"x" * 600: 1, "a": None}, {}]
    for _ in range(2):
        for data, event in zip(
            maps,
            new_events([Draft(TYPE, INFO, data) for data in maps], tenant_id=TENANT, occurred_at_ms=1),
            strict=True,
        ):
            assert encode_event_data(data) == event.data


@pytest.mark.parametrize("data", [Keys([1]), Keys({}), Keys(1, "a"), {1: 2, "a": 3}, {("a",): 1}])
def test_keys_that_are_no_text_are_refused_in_their_place(data):
    """Keys of any other type, even one that nothing can be looked up by, are an error of that event alone."""
    drafts = [Draft(TYPE, INFO, {"a": 1}), Draft(TYPE, INFO, data), Draft(TYPE, INFO, {"a": 2})]
    first, bad, last = each_event(drafts, clock=SystemClock())
    assert (UsageError, b'{"a":1}', b'{"a":2}') == (type(bad), first.data, last.data)


class Name(str):
    """Text of a type of its own."""

    __slots__ = ()


def test_names_of_a_type_of_their_own_are_text():
    """They are encoded as the text that they are, and looked at as such."""
    for _ in range(2):
        (event,) = new_events([Draft(TYPE, INFO, {Name("n"): 1, "m": 2})], tenant_id=TENANT, occurred_at_ms=1)
        assert b'{"m":2,"n":1}' == event.data
        (refused,) = each_event([Draft(TYPE, INFO, {Name("password"): 1})], clock=SystemClock())
        assert isinstance(refused, UsageError)
