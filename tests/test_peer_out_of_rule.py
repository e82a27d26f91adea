"""Whoever holds the right keys but makes bytes out of rule (records, CERT, announcement, descriptor) is refused."""

from __future__ import annotations

import pytest

from peer import mapping, record
from peer.identity import Server
from peer.notation import KemKey, SigKey, expand, h, seal, u8, u16, u32, u64
from qflare.errors import AuthenticationError, DecodeError, QflareError, RefusedError
from qflare.model.refusal import Refusal
from qflare.primitives import kem as our_kem
from qflare.primitives.sig import SIG44
from qflare.protocol.announcement import sign_announcement, verify_announcement
from qflare.protocol.identity import Certificate, ServerIdentity, decode_identity
from qflare.protocol.mapping import accept_mapping
from qflare.protocol.record import open_record, read_header
from qflare.secret import SecretBytes

B = 5_000_000
BAD_EK = b"\xff" * 1568
"""Every coefficient is 4095, above q: fails the check of FIPS 203, section 7.2."""


@pytest.fixture(scope="module")
def server() -> Server:
    """The misbehaving server; also the honest one that a misbehaving device meets."""
    made = Server()
    made.open_bucket(B)
    return made


@pytest.fixture(scope="module")
def identity(server: Server) -> ServerIdentity:
    """Its CERT as the project's device accepts it."""
    return decode_identity(server.cert(serial=1, first=B, last=B + 9), server_id=server.server_id)


CHAIN_KEY = bytes(range(64))


def header_of(**change: int) -> bytes:
    """A record header with one field changed."""
    fields = {"type": 8, "version": 1, "kind": 0, "b": B, "epoch": 0, "direction": 1} | change
    return (
        bytes((fields["type"], fields["version"], fields["kind"])) + bytes(16) + u64(fields["b"])
        + u32(fields["epoch"]) + u8(fields["direction"]) + bytes(16)
    )  # fmt: skip


def record_of(header: bytes, segments: list[tuple[int, int, bytes]]) -> bytes:
    """A record of segments (counter, last, plaintext), sealed under the right key."""
    mk = record.message_key(CHAIN_KEY, B, 1, "qfx.record")
    key, bound = expand(mk, "stream", header[32:], 32), h(header, b"")
    sealed = [seal(key, plaintext, bound, u64(n) + bytes(3) + u8(last)) for n, last, plaintext in segments]
    return header + b"".join(sealed)


FULL = bytes(1 << 18)


@pytest.mark.parametrize(
    "segments",
    [
        [(0, 0, b"x")],
        [(0, 0, FULL)],
        [(0, 0, FULL), (1, 1, b"")],
        [(0, 0, FULL), (1, 0, b"x")],
        [(0, 0, FULL), (2, 1, b"x")],
        [(1, 1, b"x")],
        [(0, 1, FULL), (1, 1, b"x")],
        [(0, 0, b"x"), (1, 1, b"y")],
        [(1, 0, FULL), (0, 1, b"x")],
        [],
    ],
    ids=["open", "open-full", "empty-last", "no-last", "gap", "from-1", "two-ends", "short-first", "swapped", "none"],
)
def test_segments_out_of_rule_are_refused(segments: list) -> None:
    """Segments sealed under the right key are refused unless they count from 0, are full, and end with the last."""
    with SecretBytes.copy_of(record.message_key(CHAIN_KEY, B, 1, "qfx.record")) as mk:
        with pytest.raises((AuthenticationError, DecodeError)):
            open_record(mk, record_of(header_of(), segments))
        good = record_of(header_of(), [(0, 0, FULL), (1, 1, b"x")])
        assert len(open_record(mk, good)) == (1 << 18) + 1


@pytest.mark.parametrize(
    "change", [{"type": 7}, {"version": 2}, {"kind": 2}, {"kind": 4}, {"direction": 0}, {"direction": 3}]
)
def test_headers_out_of_rule_are_refused(change: dict) -> None:
    """A header of a type, version, kind or direction that does not exist or fit is refused before any key is derived."""
    assert isinstance(read_header(record_of(header_of(**change), [(0, 1, b"x")])), Refusal)
    assert not isinstance(read_header(record_of(header_of(), [(0, 1, b"x")])), Refusal)


def cert_with(server: Server, **change: object) -> bytes:
    """``root vk ‖ CERT`` signed by the root, with fields changed."""
    fields: dict = {"suite": 1, "server_id": server.server_id, "first": B, "last": B + 9, "origin": b"log/x"} | change
    size = fields.get("size", len(fields["origin"]))
    body = (
        b"QFX1-CRT" + u16(fields["suite"]) + fields["server_id"] + u64(1) + server.announce.vk + server.log.vk
        + u64(fields["first"]) + u64(fields["last"]) + u8(size) + fields["origin"]
    )  # fmt: skip
    return server.root.vk + body + server.root.sign(h(body), "QFX1 crt")


@pytest.mark.parametrize(
    "change",
    [
        {"suite": 2},
        {"suite": 0},
        {"server_id": bytes(32)},
        {"first": B + 10},
        {"origin": b""},
        {"origin": b"a b"},
        {"origin": b"a+b"},
        {"origin": b"a\n"},
        {"origin": b"\xc2\x85"},
        {"origin": b"\xff"},
        {"size": 4},
        {"size": 6},
    ],
)
def test_device_refuses_a_cert_that_breaks_a_rule(server: Server, change: dict) -> None:
    """A CERT that the pinned root signed is still checked for suite, server_id, range and origin."""
    with pytest.raises(AuthenticationError):
        decode_identity(cert_with(server, **change), server_id=server.server_id)
    assert decode_identity(cert_with(server), server_id=server.server_id).certificate.log_origin == "log/x"


@pytest.mark.parametrize(
    "change",
    [
        {"magic": b"QFX1-MAP"},
        {"suite": 2},
        {"server_id": bytes(32)},
        {"width": 0},
        {"b": B - 1},
        {"b": B + 10},
        {"ek": BAD_EK},
        {"context": "QFX1 map"},
    ],
)
def test_device_refuses_an_announcement_that_breaks_a_rule(
    server: Server, identity: ServerIdentity, change: dict
) -> None:
    """An announcement that the announce key signed is still checked, field by field."""
    fields: dict = {
        "magic": b"QFX1-ANN", "suite": 1, "server_id": server.server_id, "width": 300, "b": B,
        "ek": server.buckets[B].kem.ek, "context": "QFX1 ann",
    } | change  # fmt: skip
    body = (
        fields["magic"] + u16(fields["suite"]) + fields["server_id"] + u32(fields["width"]) + u64(fields["b"])
        + fields["ek"]
    )  # fmt: skip
    with pytest.raises(AuthenticationError):
        verify_announcement(body + server.announce.sign(h(body), fields["context"]), identity.certificate)


def test_device_refuses_a_second_body_for_a_bucket(server: Server, identity: ServerIdentity) -> None:
    """Another key for a bucket that is held is refused, another signature over the same body is not."""
    certificate: Certificate = identity.certificate
    held = verify_announcement(server.buckets[B].announcement, certificate)
    body = server.buckets[B].body
    again = body + server.announce.sign(h(body), "QFX1 ann")
    assert again != held.encoded
    assert verify_announcement(again, certificate, held=held).body_hash == held.body_hash
    other = body[:54] + KemKey().ek
    with pytest.raises(RefusedError):
        verify_announcement(other + server.announce.sign(h(other), "QFX1 ann"), certificate, held=held)


@pytest.mark.parametrize(
    "change", [{"generation": 0}, {"width": 0}, {"ref": bytes(32)}, {"magic": b"QFX1-ANN"}, {"suite": 2}]
)
def test_device_refuses_a_descriptor_that_breaks_a_rule(change: dict) -> None:
    """A descriptor that the pinned key signed is still checked for suite, generation, width and ref."""
    kem, key, ref = KemKey(), SigKey(), bytes([7] * 32)
    good, _ = mapping.make_mapping(ek_d=kem.ek, ref=ref, server=key, b=B)
    at = {"magic": 0, "suite": 8, "generation": 26, "width": 38, "ref": 42}
    desc = good[:1706]
    for name, value in change.items():
        data = value if isinstance(value, bytes) else value.to_bytes(2 if name == "suite" else 4, "big")
        desc = desc[: at[name]] + data + desc[at[name] + len(data) :]
    pair = our_kem.generate_from_seed(kem.seed)
    terms = {
        "ref": ref,
        "encapsulation_key": pair.encapsulation_key,
        "decapsulation_key": pair.decapsulation_key,
        "server_key": key.vk,
    }
    with pytest.raises(QflareError):
        accept_mapping(desc + key.sign(h(desc), "QFX1 map"), **terms)
    accept_mapping(good, **terms)


def test_announcements_of_both_are_one_format(server: Server, identity: ServerIdentity) -> None:
    """The project's announcement of the same bucket has the same body as the second implementation's."""
    pair = SIG44.generate_from_seed(server.announce.seed)
    made = sign_announcement(
        pair.signing_key,
        server_id=identity.server_id,
        width_s=300,
        bucket=B,
        encapsulation_key=server.buckets[B].kem.ek,
    )
    assert made.encoded[:1622] == server.buckets[B].body
