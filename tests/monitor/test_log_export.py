"""An export is checked without the database, and whatever becomes of it is found at its place (D1)."""

import dataclasses
import hashlib
import io
import struct
from functools import partial

import pytest

from manager_world import Edge, managers
from qflare.errors import ConfigError, DecodeError, EvidenceError, LogForkError, OtherLogError
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.monitor.audit_state import AuditState
from qflare.monitor.export import export_log
from qflare.monitor.export_check import ExportCheck
from qflare.monitor.held import HeldReceipt
from qflare.protocol import log_export
from qflare.protocol.checkpoint import encode_note
from qflare.protocol.identity import decode_identity, server_id_of
from qflare.protocol.log import Frontier, hash_leaf
from qflare.protocol.log_export import RecordKind
from qflare.protocol.log_key import LogKey
from qflare.secret import SecretBytes

KEY = SecretBytes(bytearray(32))
SYSTEM, INFO = SecurityEventType.SYSTEM, EventSeverity.INFO


class Exported:
    """An export, its records apart, and what pins it."""

    def __init__(self, data, served, evidence, notes):
        self.data = data
        self.records = list(log_export.read_records(io.BytesIO(data)))
        self.server_id = server_id_of(served[:2592])
        self.key = LogKey.of(decode_identity(served, server_id=self.server_id).certificate)
        self.evidence = evidence
        self.notes = notes
        self.size = sum(kind is RecordKind.ENTRY for kind, _ in self.records)

    @property
    def entries(self):
        """Where each entry's record stands."""
        return [place for place, (kind, _) in enumerate(self.records) if kind is RecordKind.ENTRY]


def joined(records):
    return log_export.HEAD + b"".join(log_export.encode_record(kind, body) for kind, body in records)


def check(data, *, parts=(), **named):
    done = ExportCheck(**named)
    for part in (data, *parts):
        done.read(io.BytesIO(part))
    return done.finish()


async def dumped(manager, *, start=None):
    """Export a manager's log as bytes."""
    foundation = manager._opening.value.foundation
    out = io.BytesIO()
    report = await export_log(
        source=foundation.store,
        identities=await manager.monitor.identities(),
        keys=[LogKey.of(each) for each in foundation.identity.certificates],
        runner=foundation.offload,
        write=out.write,
        start=start,
    )
    return out.getvalue(), report


async def made(database, folder, *, events=6):
    """A log with sessions and events, exported; with signed heads of several sizes."""
    notes = {}
    async with managers(database, folder) as (manager,):
        edge = await Edge.provision(manager)
        evidence = [(await edge.connect(manager)).evidence for _ in range(2)]
        for number in range(events):
            await manager.monitor.log_security_event(SYSTEM, INFO, {"n": number}, device_id=edge.name)
            signed = await manager.monitor.checkpoint()
            notes[signed.size] = signed
        data, _ = await dumped(manager)
        return Exported(data, await manager.identity(), evidence, notes)


@pytest.fixture
async def exported(database_dsn, tmp_path):
    return await made(database_dsn, tmp_path)


async def test_an_export_holds_under_either_pin(exported):
    """With the server_id or the verifier key alone, and with what devices hold, every entry is checked."""
    held = [HeldReceipt.of(each) for each in exported.evidence]
    for pin in ({"server_id": exported.server_id}, {"key": exported.key}):
        found = check(exported.data, receipts=held, **pin)
        assert (0, exported.size, 2) == (found.first, found.size, found.receipts)
        assert found.size == found.checkpoint.size == sum(found.entries.values())
        assert 2 == found.entries["key_exchange"]
    key = LogKey.decode(exported.key.encode())
    assert check(exported.data, key=key).root == found.root
    with pytest.raises(ConfigError, match="pin the log"):
        check(exported.data)


async def test_every_cut_and_every_flipped_bit_is_found(exported):
    """Cut anywhere or with any byte changed an export never passes, and a bad entry is named exactly."""
    pin = {"server_id": exported.server_id}
    ends, at = [], len(log_export.HEAD)
    for _, body in exported.records:
        at += 5 + len(body)
        ends.append(at)
    entries = [ends[place] for place in exported.entries]
    for cut in range(0, len(exported.data), 61):
        with pytest.raises((EvidenceError, DecodeError)) as caught:
            check(exported.data[:cut], **pin)
        if isinstance(caught.value, EvidenceError):
            assert sum(end <= cut for end in entries) == caught.value.index
    first = ends[exported.entries[0] - 1]
    for position in [*range(0, first, 211), *range(first, len(exported.data), 13)]:
        damaged = bytearray(exported.data)
        damaged[position] ^= 1 << position % 8
        with pytest.raises((EvidenceError, DecodeError)) as caught:
            check(bytes(damaged), **pin)
        if first <= position < entries[-1]:
            assert sum(end <= position for end in entries) == caught.value.index, position


def edited(records, places, *, index):
    kind, body = records[places[index]]
    records[places[index]] = kind, body[:60] + bytes((body[60] ^ 1,)) + body[61:]
    return index


def deleted(records, places, *, index):
    del records[places[index]]
    return index


def swapped(records, places, *, index, other):
    one, two = places[index], places[other]
    records[one], records[two] = records[two], records[one]
    return min(index, other)


def doubled(records, places, *, index):
    records.insert(places[index], records[places[index]])
    return index + 1


def inserted(records, places, *, index):
    records.insert(places[index], records[places[0]])
    return index


def renumbered(records, places, *, index):
    """Leave one out and count the rest anew."""
    del records[places[index]]
    for place in range(places[index], len(records)):
        kind, body = records[place]
        if kind is RecordKind.ENTRY:
            (number,) = struct.unpack(">Q", body[:8])
            records[place] = kind, struct.pack(">Q", number - 1) + body[8:]
    return index


def cut_in_front(records, places, *, index):
    del records[places[0] : places[index]]
    return 0


def cut_behind(records, places, *, index):
    del records[places[index] :]
    return index


TAMPERS = [
    *(
        partial(one, index=index)
        for one in (edited, deleted, doubled, renumbered, cut_behind)
        for index in (0, 3, 4, 7)
    ),
    *(partial(inserted, index=index) for index in (1, 4, 5)),
    *(partial(swapped, index=one, other=two) for one, two in ((0, 1), (2, 3), (3, 4), (1, 6), (6, 2))),
    *(partial(cut_in_front, index=index) for index in (1, 4)),
]


async def test_every_change_of_records_is_found_at_its_index(exported):
    """Edit, deletion, swap, duplicate, insertion, renumbering and cuts at either end: the first bad index is exact."""
    for tamper in TAMPERS:
        records = list(exported.records)
        wanted = tamper(records, exported.entries)
        with pytest.raises(EvidenceError) as caught:
            check(joined(records), server_id=exported.server_id)
        assert wanted == caught.value.index, tamper


def rewritten(exported, *, index, keep_notes=True):
    """An export in which one entry was exchanged and every running hash after it made anew."""
    records, running, frontier = [], b"", Frontier()
    for kind, body in exported.records:
        made_anew = body
        if kind is RecordKind.START:
            running = log_export.running_before(body)
        elif kind is RecordKind.ENTRY:
            leaf = log_export.decode_entry(body).leaf_data
            if frontier.size == index:
                leaf = leaf[:-1] + bytes((leaf[-1] ^ 1,))
            running = log_export.next_running(running, hash_leaf(leaf))
            made_anew = struct.pack(">Q", frontier.size) + running + leaf
            frontier, _ = frontier.append([hash_leaf(leaf)])
        elif kind is RecordKind.END:
            made_anew = log_export.encode_frontier(frontier)
        if kind is not RecordKind.CHECKPOINT or keep_notes:
            records.append((kind, made_anew))
    return joined(records)


async def test_entries_rewritten_with_their_running_hashes_are_found_by_the_signed_head(exported):
    """Whoever makes everything anew but the signature is found, and the range is named that a signed head covers."""
    with pytest.raises(EvidenceError) as caught:
        check(rewritten(exported, index=4), server_id=exported.server_id)
    assert (0, exported.size - 1) == (caught.value.index, caught.value.last)
    with pytest.raises(EvidenceError, match="under no signed head"):
        check(rewritten(exported, index=4, keep_notes=False), server_id=exported.server_id)
    with_more = list(exported.records)
    middle = exported.notes[exported.size - 3]
    note = encode_note(exported.key.origin, exported.key.key, middle).encode()
    with_more.insert(exported.entries[middle.size], (RecordKind.CHECKPOINT, note))
    assert 2 == check(joined(with_more), server_id=exported.server_id).heads
    between = Exported(joined(with_more), exported_served(exported), [], {})
    with pytest.raises(EvidenceError) as caught:
        check(rewritten(between, index=exported.size - 1), server_id=exported.server_id)
    assert (middle.size, exported.size - 1) == (caught.value.index, caught.value.last)


def exported_served(exported):
    return next(body for kind, body in exported.records if kind is RecordKind.IDENTITY)


async def test_an_export_of_another_log_is_refused_as_such(exported):
    """Under another pin an export is another log's, which says nothing about the pinned one."""
    other = hashlib.sha256(b"other").digest()
    with pytest.raises(OtherLogError, match="another log"):
        check(exported.data, server_id=other)
    for key in (
        LogKey(origin="elsewhere.example/log", key=exported.key.key),
        LogKey(origin=exported.key.origin, key=bytes(1312)),
    ):
        with pytest.raises(OtherLogError):
            check(exported.data, key=key)
    for text in ("", "x", "a+b+c", exported.key.encode()[:-4], "x" + exported.key.encode()):
        with pytest.raises(DecodeError, match="verifier key"):
            LogKey.decode(text)


async def test_a_kept_head_finds_forks_and_older_copies(exported):
    """A log that goes on from the kept head passes; another history, a shorter one and another log's head do not."""
    pin = {"server_id": exported.server_id}
    for signed in exported.notes.values():
        note = encode_note(exported.key.origin, exported.key.key, signed)
        assert exported.size == check(exported.data, since=note, **pin).size
    with pytest.raises(OtherLogError):
        check(exported.data, since=note.replace(exported.key.origin, "other.example/log"), **pin)
    with pytest.raises(DecodeError):
        check(exported.data, since="no note", **pin)


async def test_parts_go_on_from_each_other(database_dsn, tmp_path):
    """An export of what came since an earlier one holds behind it, or by itself beside the head it begins with."""
    async with managers(database_dsn, tmp_path) as (manager,):
        for number in range(3):
            await manager.monitor.log_security_event(SYSTEM, INFO, {"n": number})
        signed = await manager.monitor.checkpoint()
        first, report = await dumped(manager)
        for number in range(4):
            await manager.monitor.log_security_event(SYSTEM, INFO, {"n": number})
        await manager.monitor.checkpoint()
        start = log_export.decode_frontier(list(log_export.read_records(io.BytesIO(first)))[-1][1])
        second, _ = await dumped(manager, start=start)
        whole, _ = await dumped(manager)
        served = await manager.identity()
        with pytest.raises(LogForkError, match="fork"):
            await dumped(manager, start=Frontier(start.size, tuple(hash_leaf(each) for each in start.hashes)))
        with pytest.raises(LogForkError, match="shrank"):
            await dumped(manager, start=Frontier(64, (bytes(32),)))
    pin = {"server_id": server_id_of(served[:2592])}
    key = LogKey.of(decode_identity(served, **pin).certificate)
    both, alone = check(first, parts=[second], **pin), check(whole, **pin)
    assert (both.size, both.root, both.entries) == (alone.size, alone.root, alone.entries)
    note = encode_note(key.origin, key.key, signed)
    assert (report.size, both.root) == ((later := check(second, since=note, **pin)).first, later.root)
    with pytest.raises(ConfigError, match="begins at entry"):
        check(second, **pin)
    for parts in ([second, second], [first]):
        with pytest.raises(EvidenceError, match="a part is missing"):
            check(first, parts=parts, **pin)
    other = list(log_export.read_records(io.BytesIO(second)))
    place = next(n for n, (kind, _) in enumerate(other) if kind is RecordKind.START)
    start = log_export.decode_frontier(other[place][1])
    other[place] = RecordKind.START, log_export.encode_frontier(Frontier(start.size, start.hashes[::-1]))
    if start.size.bit_count() > 1:
        with pytest.raises(LogForkError):
            check(joined(other), since=note, **pin)


async def test_an_interrupted_check_of_an_export_goes_on_and_says_so(exported, monkeypatch):
    """What an earlier run checked is passed over and named; what follows must go on from it; damage there is found."""
    monkeypatch.setattr("qflare.monitor.export_check._REPORT_EVERY", 2)
    pin = {"server_id": exported.server_id, "receipts": [HeldReceipt.of(each) for each in exported.evidence]}
    states = []
    whole = check(exported.data, note_state=states.append, now_s=7, **pin)
    assert len(states) > 2
    for state in states:
        again = AuditState.decode(state.encode(KEY), KEY)
        assert again == state
        found = check(exported.data, resume=again, **pin)
        assert (state.frontier.size, whole.root, whole.entries) == (found.resumed_at, found.root, found.entries)
    assert check(exported.data, resume=states[0], server_id=exported.server_id).resumed_at is None
    for index in range(exported.size):
        records = list(exported.records)
        edited(records, exported.entries, index=index)
        done = ExportCheck(resume=states[1], **pin)
        if index < states[1].frontier.size:
            done.read(io.BytesIO(joined(records)))  # said to be passed over
            assert states[1].frontier.size == done.finish().resumed_at
        else:
            with pytest.raises(EvidenceError) as caught:
                done.read(io.BytesIO(joined(records)))
            assert index == caught.value.index
    forged = dataclasses.replace(
        states[1], frontier=Frontier(states[1].frontier.size, (bytes(32),) * states[1].frontier.size.bit_count())
    )
    with pytest.raises(EvidenceError):
        check(exported.data, resume=forged, **pin)
    text = states[1].encode(KEY)
    with SecretBytes(bytearray(b"\1" * 32)) as other, pytest.raises(DecodeError, match="not written by it"):
        AuditState.decode(text, other)
    for at in range(0, len(text), 3):
        with pytest.raises(DecodeError, match="damaged"):
            AuditState.decode(text[:at] + bytes((text[at] ^ 1,)) + text[at + 1 :], KEY)
