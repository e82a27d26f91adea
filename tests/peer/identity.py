"""Section A: CERT and announcement, made and checked; and the keys both sides hold."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from unicodedata import category

from .notation import (
    EK,
    NO_PSK,
    SIG44,
    SIG87,
    SUITE,
    VK44,
    VK87,
    KemKey,
    Reader,
    Refused,
    SigKey,
    check_ek,
    h,
    ref_of,
    require,
    server_id_of,
    u8,
    u16,
    u32,
    u64,
    verify,
)


@dataclass
class Cert:
    """An accepted CERT."""

    server_id: bytes
    serial: int
    announce_vk: bytes
    log_vk: bytes
    first: int
    last: int
    log_origin: str
    data: bytes


@dataclass
class Announcement:
    """An accepted announcement; *body* is what transcripts hash."""

    server_id: bytes
    width: int
    b: int
    ek: bytes
    body: bytes


@dataclass
class Bucket:
    """The server's side of one bucket (A3, A4)."""

    announcement: bytes
    kem: KemKey
    ticket_key: bytes

    @property
    def body(self) -> bytes:
        """body_b."""
        return self.announcement[:-SIG44]


@dataclass
class Server:
    """Long-term keys of a server, and its live buckets."""

    root: SigKey = field(default_factory=lambda: SigKey(is_root=True))
    announce: SigKey = field(default_factory=SigKey)
    log: SigKey = field(default_factory=SigKey)
    log_origin: str = "qflare.example/peer"
    width: int = 300
    buckets: dict[int, Bucket] = field(default_factory=dict)

    @property
    def server_id(self) -> bytes:
        """A1."""
        return server_id_of(self.root.vk)

    def cert(self, *, serial: int, first: int, last: int) -> bytes:
        """``root vk ‖ CERT`` as it is served (A1)."""
        origin = self.log_origin.encode("utf-8")
        body = (
            b"QFX1-CRT" + u16(SUITE) + self.server_id + u64(serial) + self.announce.vk + self.log.vk
            + u64(first) + u64(last) + u8(len(origin)) + origin
        )  # fmt: skip
        signature = self.root.sign(h(body), "QFX1 crt")
        return self.root.vk + body + signature

    def open_bucket(self, b: int) -> bytes:
        """Make bucket b's keys and its announcement (A3)."""
        kem = KemKey()
        body = b"QFX1-ANN" + u16(SUITE) + self.server_id + u32(self.width) + u64(b) + kem.ek
        data = body + self.announce.sign(h(body), "QFX1 ann")
        self.buckets[b] = Bucket(data, kem, secrets.token_bytes(32))
        return data


@dataclass
class Device:
    """A device's keys and what it stores durably (A5)."""

    tenant_id: bytes
    device_id: str
    server_id: bytes
    signing: SigKey = field(default_factory=SigKey)
    kem: KemKey = field(default_factory=KemKey)
    key_version: int = 1
    psk: bytes = NO_PSK
    mark: int = 0
    width: int | None = None
    cert: Cert | None = None
    bodies: dict[int, bytes] = field(default_factory=dict)
    answers: dict[bytes, tuple[bytes, object]] = field(default_factory=dict)
    largest: tuple[int, bytes] = (0, b"")

    @property
    def ref(self) -> bytes:
        """H2."""
        return ref_of(self.tenant_id, self.device_id)

    def take_cert(self, served: bytes) -> Cert:
        """A1: check ``root vk ‖ CERT`` and store it."""
        cert = check_cert(served, self.server_id)
        if self.cert is not None:
            require(cert.serial >= self.cert.serial, "serial fell")
            is_same = cert.data == self.cert.data
            require(cert.serial > self.cert.serial or is_same, "serial reused")
        self.cert = cert
        return cert

    def take_announcement(self, data: bytes) -> Announcement:
        """A5: check an announcement and store what must not change."""
        if self.cert is None:
            raise Refused("no CERT yet")
        announcement = check_announcement(data, self.cert, mark=self.mark)
        require(self.width in (None, announcement.width), "width changed")
        known = self.bodies.setdefault(announcement.b, announcement.body)
        require(known == announcement.body, "two bodies for one bucket")
        self.width = announcement.width
        return announcement


def check_cert(served: bytes, server_id: bytes) -> Cert:
    """A1's checks but for the serial, which needs memory."""
    outer = Reader(served)
    root_vk = outer.take(VK87)
    data = outer.rest
    reader = Reader(data)
    require(reader.take(8) == b"QFX1-CRT", "magic")
    require(reader.integer(2) == SUITE, "suite")
    named, serial = reader.take(32), reader.integer(8)
    announce_vk, log_vk = reader.take(VK44), reader.take(VK44)
    first, last = reader.integer(8), reader.integer(8)
    size = reader.integer(1)
    require(size > 0, "log origin")
    origin = reader.take(size)
    signature = reader.take(SIG87)
    reader.end()
    require(server_id_of(root_vk) == server_id == named, "server_id")
    require(first <= last, "bucket range")
    verify(root_vk, h(data[:-SIG87]), signature, "QFX1 crt", is_root=True)
    try:
        name = origin.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("log origin") from None
    is_name = not any(one.isspace() or one == "+" or category(one) == "Cc" for one in name)
    require(is_name, "log origin")
    return Cert(named, serial, announce_vk, log_vk, first, last, name, data)


def check_announcement(data: bytes, cert: Cert, *, mark: int) -> Announcement:
    """A5's checks but for what needs memory beyond the mark."""
    reader = Reader(data)
    require(reader.take(8) == b"QFX1-ANN", "magic")
    require(reader.integer(2) == SUITE, "suite")
    server_id, width, b = reader.take(32), reader.integer(4), reader.integer(8)
    ek, signature = reader.take(EK), reader.take(SIG44)
    reader.end()
    require(server_id == cert.server_id, "server_id")
    require(width >= 1, "width")
    require(cert.first <= b <= cert.last, "outside CERT")
    body = data[:-SIG44]
    verify(cert.announce_vk, h(body), signature, "QFX1 ann")
    require(b >= mark, "below the mark")
    check_ek(ek)
    return Announcement(server_id, width, b, ek, body)
