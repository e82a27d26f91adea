"""R6: requests, and replies that come late."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from .notation import TAG, VERSION, expand, h, require, u8
from .record import HEADER, REPLY, REPLY_HEADER, TO_DEVICE, TO_SERVER, Session, open_segments, seal_segments


@dataclass(frozen=True)
class Awaited:
    """One reply that may come: RK, and what its header must say."""

    rk: bytes
    request_header: bytes

    @classmethod
    def of(cls, session: Session, request: bytes) -> Awaited:
        """From a request's record, on either side, while its bucket's chain key is there."""
        b, request_id = int.from_bytes(request[19:27], "big"), request[32:48]
        return cls(expand(session.chain_key(b), "reply", request_id, 64), request[:HEADER])

    def header(self, stream_id: bytes) -> bytes:
        """The reply's header: session, bucket and epoch of the request, the other direction, the request id behind."""
        request = self.request_header
        direction = TO_DEVICE if request[31] == TO_SERVER else TO_SERVER
        return u8(8) + u8(VERSION) + u8(REPLY) + request[3:31] + u8(direction) + stream_id + request[32:48]

    def seal(self, plaintext: bytes, aad: bytes = b"", *, stream_id: bytes | None = None) -> bytes:
        """The reply's record."""
        header = self.header(secrets.token_bytes(16) if stream_id is None else stream_id)
        key = expand(self.rk, "stream", header[32:48], 32)
        return header + seal_segments(key, plaintext, h(header, aad))

    def open(self, record: bytes, aad: bytes = b"") -> bytes:
        """The reply's message; its holder then erases RK."""
        require(len(record) >= REPLY_HEADER + TAG, "length")
        header = record[:REPLY_HEADER]
        require(header == self.header(header[32:48]), "header")
        key = expand(self.rk, "stream", header[32:48], 32)
        return open_segments(key, record[REPLY_HEADER:], h(header, aad))
