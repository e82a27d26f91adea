"""R7: the next epoch of a session."""

from __future__ import annotations

from .notation import KemKey, encaps, expand, extract, h, require, u8, u32, u64
from .record import Session

REKEY, REKEYED = 1, 2
BODY = 1 + 8 + 4 + 1568


def next_session(session: Session, body_b: bytes, body: bytes, ss_r: bytes) -> Session:
    """The session in its next epoch; its chain begins in REKEY's bucket."""
    b, epoch, ct_r = int.from_bytes(body[1:9], "big"), int.from_bytes(body[9:13], "big"), body[13:]
    context = h(session.sid, u32(epoch), h(body_b), ct_r)
    key = expand(extract(session.chain_key(b), ss_r), "rekey", context, 64)
    return Session(session.sid, session.start, session.lifetime, session.direction, {b: key}, epoch)


def make_rekey(session: Session, body_b: bytes) -> tuple[bytes, Session]:
    """The device: REKEY under an announcement's body, and the session to be."""
    b = int.from_bytes(body_b[46:54], "big")
    ct_r, ss_r = encaps(body_b[54:1622])
    body = u8(REKEY) + u64(b) + u32(session.epoch + 1) + ct_r
    return body, next_session(session, body_b, body, ss_r)


def take_rekey(session: Session, body_b: bytes, kem: KemKey, body: bytes) -> tuple[bytes, Session]:
    """The server: REKEY in a control record of the session's epoch; REKEYED, and the session to be."""
    require(len(body) == BODY and body[0] == REKEY, "rekey")
    require(body[9:13] == u32(session.epoch + 1), "epoch")
    require(body[1:9] == body_b[46:54], "bucket")
    return u8(REKEYED) + body[1:13], next_session(session, body_b, body, kem.decaps(body[13:]))
