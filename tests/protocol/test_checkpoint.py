"""Checkpoints, receipts and evidence: what the log key states, and what third parties make of it."""

import base64
import contextlib
import dataclasses
import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey
from hypothesis import given
from hypothesis import strategies as st
from parties import ORIGIN, TENANT, make_device, make_server
from tampering import every_flip, every_truncation

from qflare.errors import AuthenticationError, DecodeError, LengthError, LogForkError, UsageError
from qflare.model.event import SignedCheckpoint
from qflare.primitives.sig import SIG44
from qflare.protocol import checkpoint, log, receipt
from qflare.protocol.confirm_device import accept_confirmation
from qflare.protocol.evidence import Evidence, verify_evidence
from qflare.protocol.hello_device import accept_hello, start_hello

ROOT = bytes(range(32))
TIME_S = 1_700_000_000
LEAVES = [hashlib.sha256(b"%d" % number).digest() for number in range(21)]


@pytest.fixture(scope="module")
def signer():
    return SIG44.generate()


@pytest.fixture(scope="module")
def signed(signer):
    return checkpoint.sign_checkpoint(signer.signing_key, ORIGIN, 20852163, ROOT, TIME_S)


@pytest.fixture(scope="module")
def held():
    """A finished hello: server, device, what the device accepted."""
    server = make_server()
    device = make_device(server)
    with start_hello(device, server.announcement()) as pending:
        m2 = server.answer_hello(pending.message)
        confirming = accept_hello(pending, m2, device)
    (other,) = server.confirm_hellos([confirming.message])
    server.frontier, _ = server.frontier.append(LEAVES[:5])
    (m4,) = server.write_m4s([other])
    return server, device, accept_confirmation(confirming, m4, server.identity, device, log_mark=None)


def test_the_signed_message_is_c2sps_byte_for_byte():
    """The cosigned message for a known checkpoint is pinned, field by field."""
    message = checkpoint.checkpoint_message("example.com/behind-the-sofa", 20852163, ROOT, 1679315147)
    expected = (
        "737562747265652f76310a00"  # subtree/v1, newline, NUL
        "1b" + b"example.com/behind-the-sofa".hex() + "00000000641850cb"  # time
        "1b" + b"example.com/behind-the-sofa".hex() + "0000000000000000"  # start
        "00000000013e2dc3" + ROOT.hex()  # end, hash
    )
    assert message.hex() == expected


def test_another_implementation_verifies_the_signature(signer, signed):
    """OpenSSL's ML-DSA-44 accepts the signature over the message with an empty context."""
    message = checkpoint.checkpoint_message(ORIGIN, signed.size, ROOT, TIME_S)
    MLDSA44PublicKey.from_public_bytes(signer.verification_key).verify(signed.signature, message)
    checkpoint.verify_checkpoint(signer.verification_key, ORIGIN, signed)


def test_every_altered_checkpoint_is_refused(signer, signed):
    """Another size, root, time, origin, key or signature does not verify."""
    key = signer.verification_key
    for change in (
        {"size": signed.size + 1},
        {"size": 0},
        {"root": bytes(32)},
        {"root": ROOT[:31]},
        {"time_s": TIME_S + 1},
        {"time_s": 0},
        {"signature": signed.signature[:-1]},
        {"signature": bytes(2420)},
    ):
        with pytest.raises(AuthenticationError):
            checkpoint.verify_checkpoint(key, ORIGIN, dataclasses.replace(signed, **change))
    with pytest.raises(AuthenticationError):
        checkpoint.verify_checkpoint(key, ORIGIN + "x", signed)
    with pytest.raises(AuthenticationError):
        checkpoint.verify_checkpoint(SIG44.generate().verification_key, ORIGIN, signed)


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\tb", "a\u2003b", "x" * 256, "a\x7f", "\x85", "\ud800"])
def test_an_origin_that_is_no_key_name_is_refused(origin):
    """White space, controls, plus signs and wrong lengths cannot be a log's origin."""
    with pytest.raises(UsageError):
        checkpoint.encode_origin(origin)


def test_the_note_reads_as_c2sp_writes_it(signer, signed):
    """Origin, size, base64 root, empty line, em dash line with key id, timestamp and signature; and back."""
    note = checkpoint.encode_note(ORIGIN, signer.verification_key, signed)
    lines = note.split("\n")
    assert lines[:4] == [ORIGIN, "20852163", base64.b64encode(ROOT).decode(), ""]
    assert lines[5:] == [""]
    dash, name, encoded = lines[4].split(" ")
    assert (dash, name) == ("\u2014", ORIGIN)
    blob = base64.b64decode(encoded)
    key_id = hashlib.sha256(ORIGIN.encode() + b"\n\x06" + signer.verification_key).digest()[:4]
    assert blob == key_id + TIME_S.to_bytes(8, "big") + signed.signature
    assert checkpoint.decode_note(note, origin=ORIGIN, log_key=signer.verification_key) == signed
    name, hex_id, material = checkpoint.encode_verifier_key(ORIGIN, signer.verification_key).split("+", 2)
    assert (name, hex_id) == (ORIGIN, key_id.hex())
    assert base64.b64decode(material) == b"\x06" + signer.verification_key


def test_a_note_with_witnesses_is_read_and_theirs_are_passed_over(signer, signed):
    """Signature lines by unknown keys do not disturb, in any order."""
    note = checkpoint.encode_note(ORIGIN, signer.verification_key, signed)
    witness = "\u2014 witness.example/w1 " + base64.b64encode(bytes(76)).decode() + "\n"
    body, _, line = note.partition("\n\n")
    for signatures in (witness + line, line + witness):
        found = checkpoint.decode_note(f"{body}\n\n{signatures}", origin=ORIGIN, log_key=signer.verification_key)
        assert found == signed


def test_malformed_notes_are_refused(signer, signed):
    """Each deviation from the form is a DecodeError, each altered fact an AuthenticationError."""
    key = signer.verification_key
    note = checkpoint.encode_note(ORIGIN, key, signed)
    body, _, line = note.partition("\n\n")
    for bad in (
        "",
        "\n\n",
        note.rstrip("\n"),
        note.replace("\n\n", "\n"),
        note.replace("20852163", "020852163"),
        note.replace("20852163", "+20852163"),
        note.replace("20852163", "\u0662"),
        note.replace(ORIGIN, "other.example", 1),
        f"{body}\nextension\n\n{line}",
        f"{body}\n\n{line[2:]}",
        f"{body}\n\n\u2014 {ORIGIN}\n",
        f"{body}\n\n\u2014 {ORIGIN} !!!!\n",
        f"{body}\n\n\u2014 other.example {base64.b64encode(bytes(2432)).decode()}\n",
        f"{body}\n\n{line[:40]}\n",
        f"{body}\n\n\u2014 {ORIGIN} {base64.b64encode(checkpoint.key_id(ORIGIN, key) + bytes(9)).decode()}\n",
        note.replace(base64.b64encode(ROOT).decode(), base64.b64encode(ROOT[:31]).decode()),
        note.replace(base64.b64encode(ROOT).decode(), base64.b64encode(ROOT).decode().rstrip("=")),
        note + "x" * (1 << 18),
    ):
        with pytest.raises(DecodeError):
            checkpoint.decode_note(bad, origin=ORIGIN, log_key=key)
    for altered in (
        note.replace("20852163", "20852164"),
        note.replace(base64.b64encode(ROOT).decode(), base64.b64encode(bytes(32)).decode()),
    ):
        with pytest.raises(AuthenticationError):
            checkpoint.decode_note(altered, origin=ORIGIN, log_key=key)


@given(st.text(max_size=300))
def test_the_note_reader_is_total(text):
    """Any text is read or refused with a DecodeError."""
    with pytest.raises(DecodeError):
        checkpoint.decode_note(text, origin=ORIGIN, log_key=bytes(1312))


# --- receipts ---------------------------------------------------------------------------------------------------------


def make_receipt(signer, index=9, size=21):
    frontier, nodes = log.Frontier().append(LEAVES[:size])
    known = {(level, at): node for level, at, node in nodes}
    head = checkpoint.sign_checkpoint(signer.signing_key, ORIGIN, size, frontier.root(), TIME_S)
    path = log.inclusion_path(index, size, known)
    return receipt.encode_receipt(index, size, TIME_S, path, head.signature), frontier.root()


def test_a_receipt_proves_its_leaf(signer):
    """Every leaf's receipt comes back as it was written and proves that leaf and no other."""
    for index in (0, 9, 15, 16, 20):
        encoded, root = make_receipt(signer, index)
        found = receipt.decode_receipt(encoded)
        assert len(encoded) == 2445 + 32 * len(found.path)
        assert (found.index, found.size, found.time_s) == (index, 21, TIME_S)
        keys = {"log_key": signer.verification_key, "origin": ORIGIN}
        assert receipt.verify_receipt(found, LEAVES[index], **keys) == root
        with pytest.raises(AuthenticationError):
            receipt.verify_receipt(found, LEAVES[index - 1], **keys)


def test_every_flipped_bit_and_truncation_of_a_receipt_is_refused(signer):
    """B2 for the receipt: nothing altered proves anything."""
    encoded, _ = make_receipt(signer)
    for altered in (*every_flip(encoded), *every_truncation(encoded)):
        with pytest.raises((DecodeError, AuthenticationError)):
            receipt.verify_receipt(
                receipt.decode_receipt(altered), LEAVES[9], log_key=signer.verification_key, origin=ORIGIN
            )


def test_a_receipt_that_cannot_be_is_not_written():
    """Index, size, time, path and signature must belong together."""
    good = {"index": 0, "size": 2, "time_s": 1, "path": (ROOT,), "signature": bytes(2420)}
    receipt.encode_receipt(**good)
    for change, error in (
        ({"index": 2}, UsageError),
        ({"time_s": 0}, UsageError),
        ({"path": ()}, UsageError),
        ({"path": (b"short",)}, LengthError),
        ({"signature": bytes(2419)}, LengthError),
        ({"size": 2**60, "path": (ROOT,) * 60}, UsageError),
    ):
        with pytest.raises(error):
            receipt.encode_receipt(**{**good, **change})


@given(st.binary(max_size=4100))
def test_the_receipt_reader_is_total(data):
    """Any bytes are a DecodeError or a receipt."""
    with contextlib.suppress(DecodeError):
        receipt.decode_receipt(data)


def test_the_log_mark_keeps_the_largest_head_and_reports_forks():
    """Larger replaces, smaller is no error, equal with another root is an alarm (H9)."""
    mark = receipt.advance_log_mark(None, size=5, root=ROOT)
    assert mark == receipt.LogMark(size=5, root=ROOT)
    assert receipt.advance_log_mark(mark, size=5, root=ROOT) == mark
    assert receipt.advance_log_mark(mark, size=4, root=bytes(32)) == mark
    assert receipt.advance_log_mark(mark, size=6, root=bytes(32)).size == 6
    with pytest.raises(LogForkError):
        receipt.advance_log_mark(mark, size=5, root=bytes(32))


# --- evidence ---------------------------------------------------------------------------------------------------------


def test_evidence_survives_json_and_verifies_without_the_device(held):
    """What the device kept convinces a third party who has the server's identity alone."""
    server, device, session = held
    evidence = Evidence.from_json(session.evidence.to_json())
    assert evidence == session.evidence
    found = verify_evidence(evidence, server.identity, tenant_id=TENANT, ref=device.ref, key_version=1)
    assert (found.index, found.size) == (5, 6)


def test_evidence_about_anything_else_is_refused(held):
    """Each field replaced, another device asked for, another server's identity: none verifies."""
    server, device, session = held
    evidence = session.evidence
    for change in (
        {"th3_hash": bytes(64)},
        {"who_key": bytes(32)},
        {"form": 2},
        {"suite": 2},
        {"server_id": bytes(32)},
        {"start": evidence.start + 1},
        {"tenant_id": bytes(16)},
        {"ref": bytes(32)},
        {"key_version": 2},
    ):
        with pytest.raises(AuthenticationError):
            verify_evidence(dataclasses.replace(evidence, **change), server.identity)
    for asked in ({"tenant_id": bytes(16)}, {"ref": bytes(32)}, {"key_version": 2}):
        with pytest.raises(AuthenticationError):
            verify_evidence(evidence, server.identity, **asked)
    with pytest.raises(AuthenticationError):
        verify_evidence(evidence, make_server().identity)
    with pytest.raises(DecodeError):
        verify_evidence(dataclasses.replace(evidence, sid=bytes(16)), server.identity)
    assert device.ref == evidence.ref


def test_malformed_evidence_is_refused(held):
    """JSON with a field missing, added, of another type or size is a DecodeError."""
    _, _, session = held
    fields = json.loads(session.evidence.to_json())
    bad = [
        "",
        "[]",
        "{}",
        "[" * 5000,
        " " * 20000,
        json.dumps({**fields, "more": 1}),
        json.dumps({**fields, "format": "qflare-evidence-2"}),
    ]
    for name, value in fields.items():
        bad.append(json.dumps({key: kept for key, kept in fields.items() if key != name}))
        bad.append(json.dumps({**fields, name: None}))
        bad.append(json.dumps({**fields, name: -1 if isinstance(value, int) else "!"}))
        if isinstance(value, int):
            bad.append(json.dumps({**fields, name: True}))
            bad.append(json.dumps({**fields, name: 2**64}))
        elif name not in {"format", "m4"}:
            bad.append(json.dumps({**fields, name: "AAAA"}))
    for text in bad:
        with pytest.raises(DecodeError):
            Evidence.from_json(text)


def test_checkpoint_sizes_are_those_of_the_model():
    """The model's record is what is signed and read."""
    assert {field.name for field in dataclasses.fields(SignedCheckpoint)} == {"size", "root", "time_s", "signature"}
