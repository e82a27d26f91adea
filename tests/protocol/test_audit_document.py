"""docs/audit.md says what the code does: its vectors are made here again."""

import base64
import re
from pathlib import Path

from qflare.model.event import EventSeverity, SecurityEventType, SignedCheckpoint
from qflare.protocol import checkpoint, entry, leaf, log, log_export
from qflare.protocol.new_event import new_event

TEXT = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")


def values(name):
    return re.findall(rf"^{name} ([0-9a-f]+)$", TEXT, re.MULTILINE)


def test_the_documents_vectors_are_the_codes():
    """Both leaves, their tree, and the message that is signed."""
    session = leaf.session_leaf(
        form=1,
        suite=1,
        server_id=bytes(range(32)),
        sid=bytes(range(16)),
        start=5_900_000,
        th3_hash=bytes(range(64)),
        who=bytes(range(32, 64)),
    )
    event = leaf.event_leaf(
        tenant_id=bytes(range(16, 32)),
        event_type=SecurityEventType.KEY_EXCHANGE,
        severity=EventSeverity.INFO,
        device_id="camera-7",
        occurred_at_ms=1_700_000_000_123,
        data=leaf.encode_event_data({"round": 3}),
        salt=bytes(range(16)),
    )
    hashes = [log.hash_leaf(session), log.hash_leaf(event)]
    frontier, _ = log.Frontier().append(hashes)
    assert values("leaf data") == [session.hex(), event.hex()]
    assert values("leaf hash") == [one.hex() for one in hashes]
    assert values("root") == [frontier.root().hex()]
    message = checkpoint.checkpoint_message("log.example/qflare", 2, frontier.root(), 1_700_000_000)
    assert values("message") == [message.hex()]


def test_the_documents_commitments_are_the_codes():
    """Salts, commitments, row and leaf of an event of type 3, and what a device would have changed."""
    tenant, salt = bytes(range(16, 32)), bytes(range(32))
    event = new_event(
        SecurityEventType.KEY_EXCHANGE,
        EventSeverity.INFO,
        {"round": 3, "by": "operator"},
        tenant_id=tenant,
        occurred_at_ms=1_700_000_000_123,
        salt=salt,
    )
    fields = entry.decode_opening(event.stored[1:]).fields(tenant)
    commitments = [entry.commit_field(field, entry.field_salt(salt, field)) for field in fields]
    assert values("commitment") == [one.hex() for one in commitments]
    assert values("stored") == [event.stored.hex()]
    assert values("fields leaf data") == [event.leaf_data.hex()]
    assert values("fields leaf hash") == [log.hash_leaf(event.leaf_data).hex()]
    device = entry.Field(entry.DEVICE_FIELD, "", b"camera-7")
    assert values("device commitment") == [entry.commit_field(device, entry.field_salt(salt, device)).hex()]


def test_the_documents_note_is_the_codes():
    """Origin, size and root of the note stand as the code writes them."""
    root = bytes.fromhex(values("root")[0])
    signed = SignedCheckpoint(size=2, root=root, time_s=1_700_000_000, signature=bytes(2420))
    note = checkpoint.encode_note("log.example/qflare", bytes(1312), signed)
    body, _, line = note.partition("\n\n")
    assert f"```text\n{body}\n\n\u2014 log.example/qflare <base64" in TEXT
    assert base64.b64decode(line.split(" ")[2])[4:12] == (1_700_000_000).to_bytes(8, "big")


def test_the_documents_export_is_the_codes():
    """Head, start, both entries with their running hashes and the end stand as the code writes them."""
    start = log_export.encode_frontier(log.Frontier())
    running, frontier = log_export.running_before(start), log.Frontier()
    written = log_export.HEAD + log_export.encode_record(log_export.RecordKind.START, start)
    for index, leaf_data in enumerate(map(bytes.fromhex, values("leaf data"))):
        running = log_export.next_running(running, log.hash_leaf(leaf_data))
        written += log_export.encode_entry(index, running, leaf_data)
        frontier, _ = frontier.append([log.hash_leaf(leaf_data)])
    written += log_export.encode_record(log_export.RecordKind.END, log_export.encode_frontier(frontier))
    assert values("export") == [written.hex()]
