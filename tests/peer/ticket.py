"""H5: the ticket, in which the server's half-open state travels."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from .notation import LIFETIME_MAX, Reader, require, seal, u8, u16, u32, u64, unseal

HELLO, OFFER = 1, 2
SIZE = {HELLO: 263, OFFER: 231}
SECRET = {HELLO: 64, OFFER: 32}


@dataclass
class Ticket:
    """What a ticket says; *b* names the ticket key."""

    form: int
    b: int
    sid: bytes
    tenant_id: bytes
    ref: bytes
    key_version: int
    hdr_b: int
    start: int
    expiry: int
    lifetime: int
    policy: int
    secret: bytes
    th: bytes

    def seal(self, ticket_key: bytes, nonce: bytes | None = None) -> bytes:
        """The bytes that travel."""
        nonce = secrets.token_bytes(12) if nonce is None else nonce
        plaintext = (
            self.sid + self.tenant_id + self.ref + u32(self.key_version) + u64(self.hdr_b)
            + u64(self.start) + u64(self.expiry) + u16(self.lifetime) + u32(self.policy)
            + self.secret + self.th
        )  # fmt: skip
        aad = u8(self.form) + u64(self.b)
        return aad + nonce + seal(ticket_key, plaintext, aad, nonce)


def open_ticket(data: bytes, ticket_keys: dict[int, bytes], *, form: int, now: int) -> Ticket:
    """Open a ticket of the expected form under the key it names (H8, O3)."""
    require(len(data) == SIZE[form], "length")
    outer = Reader(data)
    require(outer.integer(1) == form, "form")
    b, nonce = outer.integer(8), outer.take(12)
    require(b in ticket_keys, "no ticket key")
    reader = Reader(unseal(ticket_keys[b], outer.rest, data[:9], nonce))
    ticket = Ticket(
        form=form, b=b, sid=reader.take(16), tenant_id=reader.take(16), ref=reader.take(32),
        key_version=reader.integer(4), hdr_b=reader.integer(8), start=reader.integer(8),
        expiry=reader.integer(8), lifetime=reader.integer(2), policy=reader.integer(4),
        secret=reader.take(SECRET[form]), th=reader.take(64),
    )  # fmt: skip
    reader.end()
    require(1 <= ticket.lifetime <= LIFETIME_MAX, "lifetime")
    require(now < ticket.expiry, "expired")
    return ticket
