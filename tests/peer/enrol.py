"""Section E: token, ENROL, ENROLLED and the body of ROTATE."""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .notation import (
    CT,
    EK,
    SIG44,
    SUITE,
    TAG,
    VERSION,
    VK44,
    KemKey,
    Reader,
    Refused,
    SigKey,
    check_ek,
    encaps,
    expand,
    extract,
    h,
    message,
    require,
    seal,
    u8,
    u16,
    u32,
    u64,
    unseal,
    verify,
)  # fmt: skip

if TYPE_CHECKING:
    from .identity import Announcement, Device, Server

TOKEN_SIZE, TOKEN_TEXT = 97, 156
ENROL_SIZE, HDR_SIZE, ENROLLED_SIZE, ROTATE_SIZE = 6960, 1580, 1598, 7725


@dataclass
class Token:
    """E1."""

    tenant_id: bytes
    token_id: bytes
    secret: bytes
    server_id: bytes

    def text(self) -> str:
        """Base32 in upper case without padding."""
        data = u8(VERSION) + self.tenant_id + self.token_id + self.secret + self.server_id
        return base64.b32encode(data).decode("ascii").rstrip("=")


def read_token(text: str) -> Token:
    """Read what Token.text wrote, and nothing else."""
    require(len(text) == TOKEN_TEXT, "length")
    try:
        data = base64.b32decode(text + "====")
    except binascii.Error:
        raise Refused("base32") from None
    require(len(data) == TOKEN_SIZE, "length")
    require(base64.b32encode(data).decode("ascii").rstrip("=") == text, "spare bits")
    reader = Reader(data)
    require(reader.integer(1) == VERSION, "version")
    return Token(reader.take(16), reader.take(16), reader.take(32), reader.take(32))


@dataclass
class PendingEnrolment:
    """What a device keeps between ENROL and ENROLLED."""

    enrol: bytes
    th1: bytes
    ck1: bytes


@dataclass
class OpenedEnrolment:
    """What a server knows once c1 has opened."""

    th1: bytes
    ck1: bytes
    tenant_id: bytes
    token_id: bytes
    secret: bytes
    vk: bytes
    ek: bytes
    signature: bytes


def make_enrol(device: Device, token: Token, announcement: Announcement) -> PendingEnrolment:
    """E2."""
    ct_b, ss_b = encaps(announcement.ek)
    hdr = u8(9) + u8(VERSION) + u16(SUITE) + u64(announcement.b) + ct_b
    th1 = h("QFX/1 enrol", u16(SUITE), h(announcement.body), hdr)
    ck1 = extract(th1, ss_b)
    signed = h(
        th1, token.token_id, token.tenant_id, device.device_id.encode("utf-8"),
        device.signing.vk, device.kem.ek,
    )  # fmt: skip
    plaintext = (
        token.tenant_id + token.token_id + token.secret + device.signing.vk + device.kem.ek
        + device.signing.sign(signed, "QFX1 enr")
    )  # fmt: skip
    return PendingEnrolment(hdr + seal(expand(ck1, "enr", th1, 32), plaintext, th1), th1, ck1)


def open_enrol(server: Server, enrol: bytes, *, live: tuple[int, ...]) -> OpenedEnrolment:
    """E3 up to the token row."""
    reader = message(enrol, kind=9, size=ENROL_SIZE)
    require(reader.integer(2) == SUITE, "suite")
    b = reader.integer(8)
    require(b in live and b in server.buckets, "bucket")
    bucket = server.buckets[b]
    th1 = h("QFX/1 enrol", u16(SUITE), h(bucket.body), enrol[:HDR_SIZE])
    ck1 = extract(th1, bucket.kem.decaps(reader.take(CT)))
    inner = Reader(unseal(expand(ck1, "enr", th1, 32), reader.rest, th1))
    return OpenedEnrolment(
        th1, ck1, inner.take(16), inner.take(16), inner.take(32), inner.take(VK44),
        inner.take(EK), inner.take(SIG44),
    )  # fmt: skip


def verify_enrol(opened: OpenedEnrolment, *, secret_hash: bytes, device_id: str) -> None:
    """E3 from the token row to the signature; *secret_hash* and *device_id* are the token's."""
    require(hmac.compare_digest(h(opened.secret), secret_hash), "token secret")
    check_ek(opened.ek)
    signed = h(
        opened.th1, opened.token_id, opened.tenant_id, device_id.encode("utf-8"),
        opened.vk, opened.ek,
    )  # fmt: skip
    verify(opened.vk, signed, opened.signature, "QFX1 enr")


def make_enrolled(opened: OpenedEnrolment, *, key_version: int, mark: int) -> bytes:
    """E3."""
    ct_d, ss_d = encaps(opened.ek)
    key = expand(extract(opened.ck1, ss_d), "enr d", opened.th1, 32)
    sealed = seal(key, u32(key_version) + u64(mark), h(opened.th1, ct_d))
    return u8(10) + u8(VERSION) + ct_d + sealed


def take_enrolled(device: Device, pending: PendingEnrolment, enrolled: bytes) -> None:
    """E3, the device's side."""
    reader = message(enrolled, kind=10, size=ENROLLED_SIZE)
    ct_d, sealed = reader.take(CT), reader.take(12 + TAG)
    key = expand(extract(pending.ck1, device.kem.decaps(ct_d)), "enr d", pending.th1, 32)
    inner = Reader(unseal(key, sealed, h(pending.th1, ct_d)))
    key_version, mark = inner.integer(4), inner.integer(8)
    require(key_version >= 1, "key_version")
    device.key_version, device.mark = key_version, mark


def make_rotate(device: Device, signing: SigKey, kem: KemKey) -> bytes:
    """E4: the control body that puts *signing* and *kem* in the place of the device's keys."""
    version = u32(device.key_version + 1)
    signed = h(device.server_id, device.ref, version, signing.vk, kem.ek)
    return (
        u8(3) + version + signing.vk + kem.ek
        + device.signing.sign(signed, "QFX1 rot") + signing.sign(signed, "QFX1 rot")
    )  # fmt: skip


def take_rotate(body: bytes, *, server_id: bytes, ref: bytes, key_version: int, vk: bytes) -> tuple[int, bytes, bytes]:
    """E4, the server's side: returns the new key_version, vk and ek."""
    require(len(body) == ROTATE_SIZE, "length")
    reader = Reader(body)
    require(reader.integer(1) == 3, "body type")
    version, new_vk, new_ek = reader.integer(4), reader.take(VK44), reader.take(EK)
    require(version == key_version + 1, "key_version")
    check_ek(new_ek)
    signed = h(server_id, ref, u32(version), new_vk, new_ek)
    verify(vk, signed, reader.take(SIG44), "QFX1 rot")
    verify(new_vk, signed, reader.take(SIG44), "QFX1 rot")
    return version, new_vk, new_ek
