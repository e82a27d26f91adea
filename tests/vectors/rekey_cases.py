"""rekeys.json: two rekeys of one session, requests and their late replies in each epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.model.ids import RequestId, SessionId, StreamId
from qflare.protocol.chain import SessionChain
from qflare.protocol.record import KIND_CONTROL, KIND_REPLY, KIND_REQUEST, RecordHeader, seal_record
from qflare.protocol.rekey import encode_rekeyed, make_rekey
from qflare.protocol.reply import derive_reply_key, opposite

from .stream import draw, drawing, seed
from .world import BUCKET, make_world

if TYPE_CHECKING:
    from .stream import Value


def rekey_cases() -> list[Value]:
    """One session: epoch 0 from its start, epoch 1 from the same bucket, epoch 2 from the next one."""
    world = make_world()
    sid = SessionId(draw("rekey sid", 16))
    chain = SessionChain.begin(seed("rekey chain key", 64), sid=sid, start=BUCKET - 1, lifetime=288)
    first: Value = chain.chain_key(BUCKET - 1)
    rekeys: list[Value] = []
    requests = [*_requests(chain, 0)]
    for epoch, bucket in ((1, BUCKET), (2, BUCKET + 1)):
        with drawing(f"rekey {epoch}"):
            pending = make_rekey(chain, world.keyring[bucket].announcement)
        record = _seal(chain, pending.body, bucket=bucket, direction=1, epoch=epoch - 1, label=f"rekey {epoch}")
        rekeyed = encode_rekeyed(bucket, epoch)
        rekeys.append(
            {
                "b": bucket,
                "epoch": epoch,
                "body_b": world.keyring[bucket].announcement.encoded[:1622],
                "CK_b": chain.chain_key(bucket),
                "REKEY": pending.body,
                "REKEY_record": record,
                "CK_b_new": pending.chain.chain_key(bucket),
                "REKEYED": rekeyed,
                "REKEYED_record": _seal(
                    pending.chain, rekeyed, bucket=bucket + 1, direction=2, epoch=epoch, label=f"rekeyed {epoch}"
                ),
            }
        )
        chain = pending.chain
        requests += _requests(chain, epoch)
    return [
        {"sid": sid, "start": BUCKET - 1, "lifetime": 288, "CK_start": first, "rekeys": rekeys, "requests": requests}
    ]


def _seal(chain: SessionChain, body: bytes, *, bucket: int, direction: int, epoch: int, label: str) -> bytes:
    header = RecordHeader(
        kind=KIND_CONTROL,
        sid=chain.sid,
        bucket=bucket,
        epoch=epoch,
        direction=direction,
        stream_id=StreamId(draw(f"{label} stream", 16)),
    )
    with chain.message_key(bucket, direction=direction, purpose=header.purpose) as key:
        return seal_record(key, header, body)


def _requests(chain: SessionChain, epoch: int) -> list[Value]:
    """A request in each direction, two buckets after the chain's own, and its reply."""
    cases: list[Value] = []
    bucket = chain.bucket + 2
    for direction in (1, 2):
        label = f"request {epoch} {direction}"
        request = RecordHeader(
            kind=KIND_REQUEST,
            sid=chain.sid,
            bucket=bucket,
            epoch=epoch,
            direction=direction,
            stream_id=StreamId(draw(label, 16)),
        )
        reply = RecordHeader(
            kind=KIND_REPLY,
            sid=chain.sid,
            bucket=bucket,
            epoch=epoch,
            direction=opposite(direction),
            stream_id=StreamId(draw(f"{label} reply", 16)),
            request_id=RequestId(request.stream_id),
        )
        asked, answered = draw(f"{label} text", 40), draw(f"{label} reply text", 60)
        with (
            chain.message_key(bucket, direction=direction, purpose=request.purpose) as key,
            chain.chain_key(bucket) as chain_key,
        ):
            reply_key = derive_reply_key(chain_key, RequestId(request.stream_id))
            cases.append(
                {
                    "b": bucket,
                    "epoch": epoch,
                    "direction": direction,
                    "request_id": request.stream_id,
                    "request_plaintext": asked,
                    "request": seal_record(key, request, asked, aad=b"asked"),
                    "RK": reply_key,
                    "reply_stream_id": reply.stream_id,
                    "reply_plaintext": answered,
                    "reply": seal_record(reply_key, reply, answered, aad=b"answered"),
                }
            )
    return cases
