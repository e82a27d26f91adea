"""records.json: chain keys, message keys, records."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from qflare.model.ids import SessionId, StreamId
from qflare.protocol.chain import SessionChain
from qflare.protocol.record import RecordHeader, seal_record

from .stream import draw, seed
from .world import BUCKET

if TYPE_CHECKING:
    from .stream import Value

SEGMENT = 1 << 18
SHOWN_MAX = 4096


def long_plaintext(size: int) -> bytes:
    """Byte i is i mod 251."""
    period = bytes(range(251))
    return (period * (size // 251 + 1))[:size]


def record_cases() -> list[Value]:
    """One session over its buckets."""
    sid = SessionId(draw("record sid", 16))
    chain = SessionChain.begin(seed("chain key", 64), sid=sid, start=BUCKET, lifetime=288)
    chain_keys: list[Value] = [
        {"b": bucket, "chain_key": chain.chain_key(bucket)} for bucket in (BUCKET, BUCKET + 1, BUCKET + 2, BUCKET + 287)
    ]
    message_keys: list[Value] = [
        {
            "b": bucket,
            "direction": direction,
            "purpose": purpose,
            "message_key": chain.message_key(bucket, direction=direction, purpose=purpose.encode("ascii")),
        }
        for bucket, direction, purpose in (
            (BUCKET, 1, "qfx.record"),
            (BUCKET, 2, "qfx.record"),
            (BUCKET + 3, 1, "qfx.control"),
            (BUCKET + 3, 2, "a"),
            (BUCKET + 287, 1, "model.update_v2-" * 4),
        )
    ]
    records: list[Value] = []
    cases = (
        (0, 0, BUCKET, 1, b""),
        (0, 1, BUCKET, 2, b"round 3"),
        (1, 100, BUCKET + 1, 1, b""),
        (0, 1000, BUCKET + 287, 1, draw("aad", 300)),
        (0, SEGMENT - 1, BUCKET, 1, b""),
        (0, SEGMENT, BUCKET, 1, b"aad"),
        (0, SEGMENT + 1, BUCKET, 1, b""),
        (0, 3 * SEGMENT, BUCKET + 2, 2, b""),
    )
    for number, (kind, size, bucket, direction, aad) in enumerate(cases):
        header = RecordHeader(
            kind=kind,
            sid=sid,
            bucket=bucket,
            epoch=0,
            direction=direction,
            stream_id=StreamId(draw(f"stream id {number}", 16)),
        )
        mk = chain.message_key(bucket, direction=direction, purpose=header.purpose)
        record = seal_record(mk, header, long_plaintext(size), aad=aad)
        shown: dict[str, Value] = {"record": record}
        if len(record) > SHOWN_MAX:
            shown = {"record_sha256": hashlib.sha256(record).digest(), "record_begins": record[:112]}
        records.append(
            {
                "kind": kind,
                "b": bucket,
                "direction": direction,
                "stream_id": header.stream_id,
                "aad": aad,
                "plaintext_size": size,
                "record_size": len(record),
                **shown,
            }
        )
    return [
        {
            "sid": sid,
            "start": BUCKET,
            "lifetime": 288,
            "chain_keys": chain_keys,
            "message_keys": message_keys,
            "records": records,
        }
    ]
