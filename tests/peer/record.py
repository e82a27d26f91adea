"""Section R: the chain, message keys, records."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .notation import TAG, VERSION, Refused, expand, h, require, seal, u8, u32, u64, unseal

if TYPE_CHECKING:
    from .agreement import Agreement

SEGMENT = 1 << 18
TO_SERVER, TO_DEVICE = 1, 2
DATA, CONTROL, REPLY, REQUEST = 0, 1, 2, 3
PURPOSE = {DATA: "qfx.record", CONTROL: "qfx.control", REQUEST: "qfx.record"}
HEADER, REPLY_HEADER = 48, 64


def turn(chain_key: bytes, b: int, sid: bytes) -> bytes:
    """CK of bucket b from CK of the bucket before (R1)."""
    return expand(chain_key, "bucket", u64(b) + sid, 64)


def message_key(chain_key: bytes, b: int, direction: int, purpose: str) -> bytes:
    """MK(b, direction, purpose) (R2)."""
    return expand(chain_key, "key", u64(b) + u8(direction) + purpose.encode("ascii"), 64)


def stream_key(chain_key: bytes, header: bytes) -> bytes:
    """K of R3 for a record with this header."""
    b, direction = int.from_bytes(header[19:27], "big"), header[31]
    mk = message_key(chain_key, b, direction, PURPOSE[header[2]])
    return expand(mk, "stream", header[32:48], 32)


def seal_segments(key: bytes, plaintext: bytes, bound: bytes) -> bytes:
    """The sealed segments of a message (R3)."""
    segments = cut(len(plaintext))
    sealed = []
    for counter, (begin, end) in enumerate(segments):
        nonce = u64(counter) + bytes(3) + u8(counter == len(segments) - 1)
        sealed.append(seal(key, plaintext[begin:end], bound, nonce))
    return b"".join(sealed)


def open_segments(key: bytes, sealed: bytes, bound: bytes) -> bytes:
    """The message of sealed segments (R3)."""
    step = SEGMENT + TAG
    rest = len(sealed) % step
    require(rest == 0 or rest > TAG or len(sealed) == TAG, "segments")
    plaintext, count = [], -(-len(sealed) // step)
    for counter in range(count):
        nonce = u64(counter) + bytes(3) + u8(counter == count - 1)
        plaintext.append(unseal(key, sealed[counter * step : (counter + 1) * step], bound, nonce))
    return b"".join(plaintext)


def cut(size: int) -> list[tuple[int, int]]:
    """(begin, end) of every segment of a message of *size* bytes."""
    begins = range(0, max(size, 1), SEGMENT)
    return [(begin, min(begin + SEGMENT, size)) for begin in begins]


@dataclass
class Session:
    """One side of a session: chain keys by bucket, and the streams it has seen."""

    sid: bytes
    start: int
    lifetime: int
    direction: int
    keys: dict[int, bytes]
    epoch: int = 0
    seen: set[bytes] = field(default_factory=set)

    @classmethod
    def of(cls, agreement: Agreement, direction: int) -> Session:
        """H10; *direction* is the one this side writes in."""
        keys = {agreement.start: agreement.chain_key}
        return cls(agreement.sid, agreement.start, agreement.lifetime, direction, keys)

    @property
    def last(self) -> int:
        """The last bucket (H4)."""
        return self.start + self.lifetime - 1

    def chain_key(self, b: int) -> bytes:
        """CK_b, hashed forward on a copy (R5)."""
        require(min(self.keys) <= b <= self.last, "bucket")
        at = max(held for held in self.keys if held <= b)
        key = self.keys[at]
        for step in range(at + 1, b + 1):
            key = turn(key, step, self.sid)
        return key

    def move_to(self, b: int) -> None:
        """Keep the chain keys of b and of the bucket before only (R1, R5)."""
        if b <= max(self.keys):
            return
        kept = {b: self.chain_key(b)}
        if b - 1 >= min(self.keys):
            kept[b - 1] = self.chain_key(b - 1)
        self.keys = kept

    def seal(
        self, plaintext: bytes, aad: bytes = b"", *,
        b: int, kind: int = DATA, stream_id: bytes | None = None,
    ) -> bytes:  # fmt: skip
        """R3: one message as one record."""
        stream_id = secrets.token_bytes(16) if stream_id is None else stream_id
        header = (
            u8(8) + u8(VERSION) + u8(kind) + self.sid + u64(b) + u32(self.epoch) + u8(self.direction)
            + stream_id
        )  # fmt: skip
        key, bound = stream_key(self.chain_key(b), header), h(header, aad)
        return header + seal_segments(key, plaintext, bound)

    def open(self, record: bytes, aad: bytes = b"", *, window: range | None = None) -> bytes:
        """R3 to R5: check, open on a copy, then move on; a server gives R1's *window*."""
        require(len(record) >= HEADER + TAG, "length")
        header, sealed = record[:HEADER], record[HEADER:]
        require(header[0] == 8, "type")
        require(header[1] == VERSION, "version")
        require(header[2] in PURPOSE, "kind")
        require(header[3:19] == self.sid, "sid")
        require(header[31] == (TO_DEVICE if self.direction == TO_SERVER else TO_SERVER), "direction")
        require(header[27:31] == u32(self.epoch), "epoch")
        b = int.from_bytes(header[19:27], "big")
        require(window is None or b in window, "window")
        require(b >= self.start, "bucket")
        key, bound = stream_key(self.chain_key(b), header), h(header, aad)
        plaintext = open_segments(key, sealed, bound)
        self.move_to(b)
        if header[32:48] in self.seen:
            raise Refused("replayed stream")
        self.seen.add(header[32:48])
        return plaintext
