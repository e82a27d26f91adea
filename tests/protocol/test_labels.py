"""The golden tables: labels and wire sizes change only with the specification."""

from __future__ import annotations

from qflare.protocol import labels, wire


def test_labels_are_those_of_the_specification():
    """Every label stands once, exactly as in docs/protocol.md, N1."""
    assert labels.HASH_LABELS == (b"server", b"device", b"who", b"QFX/1 hello", b"QFX/1 offer", b"QFX/1 enrol")
    assert labels.EXPAND_LABELS == (
        "m1", "m2", "fin d", "fin s", "pre", "who", "chain", "bucket", "key", "stream", "reply", "rekey",
        "enr", "enr d", "map", "map key",
    )  # fmt: skip
    assert labels.SIGNATURE_CONTEXTS == (
        b"QFX1 crt", b"QFX1 ann", b"QFX1 dev", b"QFX1 enr", b"QFX1 rot", b"QFX1 map", b"",
    )  # fmt: skip
    assert labels.MAGICS == (b"QFX1-CRT", b"QFX1-ANN", b"QFX1-MAP", b"QFX1 LEAF")
    assert labels.PURPOSES == (b"qfx.record", b"qfx.control")


def test_labels_are_distinct_and_none_is_extract():
    """No two steps share a label, and Expand never computes Extract."""
    for table in (labels.HASH_LABELS, labels.EXPAND_LABELS, labels.SIGNATURE_CONTEXTS, labels.MAGICS, labels.PURPOSES):
        assert len(set(table)) == len(table)
    assert "extract" not in labels.EXPAND_LABELS
    assert all(label.isascii() and label.isprintable() for label in labels.EXPAND_LABELS)
    assert all(purpose.startswith(labels.PURPOSE_RESERVED_PREFIX) for purpose in labels.PURPOSES)


def test_sizes_are_those_of_the_specification():
    """Every message has the size of docs/protocol.md, N3."""
    sizes = {
        "M1": wire.M1_BYTES,
        "M2": wire.M2_BYTES,
        "M3": wire.M3_BYTES,
        "M4 least": wire.M4_BYTES_MIN,
        "M4 most": wire.M4_BYTES_MAX,
        "OFFER": wire.OFFER_BYTES,
        "ANSWER": wire.ANSWER_BYTES,
        "ENROL": wire.ENROL_BYTES,
        "ENROLLED": wire.ENROLLED_BYTES,
        "CERT without origin": wire.CERTIFICATE_BYTES_MIN - 1,
        "announcement": wire.ANNOUNCEMENT_BYTES,
        "descriptor": wire.MAPPING_BYTES,
        "ticket of form 1": wire.TICKET_HELLO_BYTES,
        "ticket of form 2": wire.TICKET_OFFER_BYTES,
        "record header": wire.RECORD_HEADER_BYTES,
        "leaf": wire.LEAF_BYTES,
        "refused": len(wire.REFUSED),
    }
    assert sizes == {
        "M1": 5636,
        "M2": 1879,
        "M3": 297,
        "M4 least": 2495,
        "M4 most": 4031,
        "OFFER": 1841,
        "ANSWER": 1849,
        "ENROL": 6960,
        "ENROLLED": 1598,
        "CERT without origin": 7318,
        "announcement": 4042,
        "descriptor": 4126,
        "ticket of form 1": 263,
        "ticket of form 2": 231,
        "record header": 48,
        "leaf": 165,
        "refused": 16,
    }


def test_offsets_are_those_of_the_specification():
    """Every field of the handshake begins where docs/protocol.md says."""
    offsets = (
        wire.M1_EK_AT, wire.M1_CT_AT, wire.M1_HEADER_BYTES,
        wire.M2_CT_AT, wire.M2_C2_AT, wire.M2_TICKET_AT,
        wire.M3_TAG_AT, wire.M4_TAG_AT, wire.M4_RECEIPT_AT,
        wire.OFFER_SID_AT, wire.OFFER_CT_AT, wire.OFFER_TICKET_AT,
        wire.ANSWER_CT_AT, wire.ANSWER_PRE_AT, wire.ANSWER_TAG_AT,
        wire.CERTIFICATE_ORIGIN_AT, wire.ANNOUNCEMENT_EK_AT, wire.ANNOUNCEMENT_BODY_BYTES,
    )  # fmt: skip
    assert offsets == (12, 1580, 3148, 18, 1586, 1616, 265, 18, 50, 26, 42, 1610, 233, 1801, 1817, 2691, 54, 1622)


def test_refused_is_one_message():
    """The refusal says nothing but that it is one."""
    assert bytes((0x7F, 1)) + bytes(14) == wire.REFUSED
    assert wire.is_refused(wire.REFUSED)
    assert not wire.is_refused(wire.REFUSED[:-1] + b"\x01")
