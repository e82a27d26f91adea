"""
The server's side of the end of both forms: M3 in, and what M4 and the transaction of H8 need out (H8 to H10).

A `Confirmation` is no session yet: the caller commits it first, and only then sends its M4.
"""

from __future__ import annotations

import hmac
import struct
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from qflare.errors import DecodeError, LengthError
from qflare.model.ids import DeviceRef, SessionId, TenantId
from qflare.model.refusal import Refusal
from qflare.primitives.columns import rows, shared
from qflare.primitives.hash import transcript_many
from qflare.primitives.kdf import expand_many
from qflare.protocol import labels, wire
from qflare.protocol.batch import gather, gather_secret, split_rows
from qflare.protocol.leaf import WHO_BYTES, WHO_KEY_BYTES, session_leaf
from qflare.protocol.log import hash_leaf
from qflare.protocol.schedule import expand_th3
from qflare.protocol.ticket import TicketTerms, open_tickets
from qflare.secret import SecretBytes, zeroize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.protocol.bucket import Keyring

_WHO: Final = struct.Struct(">16s32sI")
_M4_HEAD: Final = bytes((wire.TYPE_M4, wire.VERSION))


class Confirmation(NamedTuple):
    """A finished handshake on its way into the database; owns its row of the chain keys."""

    form: int
    ticket_bucket: int
    tenant_id: TenantId
    ref: DeviceRef
    key_version: int
    sid: SessionId
    start: int
    lifetime: int
    policy: int
    hdr_bucket: int
    th3_hash: bytes
    """H(th3), 64 bytes."""
    leaf_data: bytes
    """165 bytes."""
    leaf_hash: bytes
    """32 bytes."""
    server_tag: bytes
    """Expand(ck2, "fin s", th3, 32); goes out with M4, never before the commit."""
    chain_keys: SecretBytes
    """CK_start of every handshake that was confirmed with it, 64 bytes each (H10); who wipes them all needs no more."""
    row: int
    """Which of them is its own."""

    @property
    def chain_key(self) -> SecretBytes:
        """A copy of CK_start, 64 bytes, which the caller wipes."""
        return self.chain_keys.take_row(self.row, wire.SECRET_BYTES)

    def wipe(self) -> None:
        """Destroy the chain key."""
        zeroize(self.chain_keys.row(self.row, wire.SECRET_BYTES))

    def __enter__(self) -> Self:
        """Lend the confirmation to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the chain key at the end of the block."""
        self.wipe()


class Glued(NamedTuple):
    """A message of fixed size and the record behind it, if there is one."""

    message: bytes
    record: bytes | None


def split_glued(message: bytes) -> Glued:
    """
    Split M3 or ANSWER from the record glued to it; what is no M3 or ANSWER stays whole, to be refused as it is.

    Raises:
        DecodeError: what follows the fixed size does not begin as a record does.

    Source: docs/protocol.md, steps N3 and H10.
    """
    size = {wire.TYPE_M3: wire.M3_BYTES, wire.TYPE_ANSWER: wire.ANSWER_BYTES}.get(message[0] if message else 0)
    if size is None or len(message) <= size:
        return Glued(message, None)
    record = message[size:]
    if len(record) < wire.RECORD_HEADER_BYTES or record[0] != wire.TYPE_RECORD or record[1] != wire.VERSION:
        text = "what follows M3 or ANSWER must be exactly one record"
        raise DecodeError(text)
    return Glued(message[:size], record)


def confirm_hellos(
    messages: Sequence[bytes], keyring: Keyring, *, now_s: int, server_id: bytes
) -> list[Confirmation | Refusal]:
    """
    Check M3s: ticket, expiry, tag.

    Args:
        messages: M3s without glued records (`split_glued`), of any length and content.
        keyring: The live buckets.
        now_s: The server's clock, Unix seconds.
        server_id: 32 bytes, for the leaf.

    Returns:
        One confirmation or `Refusal` a message; the caller owns and wipes the confirmations.

    Source: docs/protocol.md, step H8.
    """
    tickets = [_ticket_of(message) for message in messages]
    with open_tickets(wire.FORM_HELLO, tickets, keyring, now_s=now_s) as opened:
        tags = [messages[place][wire.M3_TAG_AT :] for place in opened.places]
        confirmations = confirm_rows(
            wire.FORM_HELLO,
            terms=opened.terms,
            buckets=opened.buckets,
            ck2=opened.secrets,
            th3=opened.transcripts,
            tags=tags,
            server_id=server_id,
        )
        return opened.spread(confirmations)


def confirm_rows(
    form: int,
    *,
    terms: Sequence[TicketTerms],
    buckets: Sequence[int],
    ck2: SecretBytes,
    th3: bytes,
    tags: Sequence[bytes],
    server_id: bytes,
) -> list[Confirmation | Refusal]:
    """
    Check the devices' tags and derive what M4 and the session need.

    Args:
        form: 1 hello, 2 offer.
        terms: From the tickets, one a row.
        buckets: The tickets' own b, one a row.
        ck2: ``n × 64`` bytes; stays the caller's.
        th3: ``n × 64`` bytes.
        tags: "fin d" as it came, one a row.
        server_id: 32 bytes.

    Returns:
        One confirmation or `Refusal.TAG` a row.

    Source: docs/protocol.md, steps H8 to H10, and O3.
    """
    results: list[Confirmation | Refusal] = [Refusal.TAG] * len(terms)
    size = wire.FINISHED_BYTES
    with expand_th3(len(terms), ck2, labels.EXPAND_FINISHED_DEVICE, th3, size) as tag_rows, tag_rows.view() as expected:
        # CT: the tag proves the device's knowledge; compare_digest takes the same time wherever it differs.
        keep = [
            row for row, tag in enumerate(tags) if hmac.compare_digest(expected[row * size : (row + 1) * size], tag)
        ]
    if not keep:
        return results
    with gather_secret(ck2, wire.SECRET_BYTES, keep) as kept_ck2:
        kept = _derive(
            form,
            terms=[terms[row] for row in keep],
            buckets=[buckets[row] for row in keep],
            ck2=kept_ck2,
            th3=gather(th3, wire.HASH_BYTES, keep),
            server_id=server_id,
        )
    for row, confirmation in zip(keep, kept, strict=True):
        results[row] = confirmation
    return results


def encode_confirmation(sid: bytes, server_tag: bytes, receipt: bytes) -> bytes:
    """
    Write M4, which is sent only after the commit of H8.

    Args:
        sid: 16 bytes.
        server_tag: `Confirmation.server_tag`, 32 bytes.
        receipt: 2445 + 32n bytes.

    Raises:
        LengthError: a part has the wrong size.

    Source: docs/protocol.md, step H9.
    """
    for name, part, size in (("sid", sid, wire.SID_BYTES), ("server_tag", server_tag, wire.FINISHED_BYTES)):
        if len(part) != size:
            raise LengthError(name, expected=size, actual=len(part))
    if len(receipt) < wire.RECEIPT_BYTES_MIN:
        name = "receipt"
        raise LengthError(name, expected=f"at least {wire.RECEIPT_BYTES_MIN}", actual=len(receipt))
    return b"".join((_M4_HEAD, sid, server_tag, receipt))


def _ticket_of(message: bytes) -> bytes | Refusal:
    if len(message) != wire.M3_BYTES:
        return Refusal.LENGTH
    if message[0] != wire.TYPE_M3:
        return Refusal.TYPE
    if message[1] != wire.VERSION:
        return Refusal.VERSION
    return message[wire.M3_TICKET_AT : wire.M3_TAG_AT]


def _derive(
    form: int,
    *,
    terms: Sequence[TicketTerms],
    buckets: Sequence[int],
    ck2: SecretBytes,
    th3: bytes,
    server_id: bytes,
) -> list[Confirmation]:
    count = len(terms)
    th3_hashes = split_rows(transcript_many(count, rows(th3, wire.HASH_BYTES)), wire.HASH_BYTES)
    key, context = rows(ck2, wire.SECRET_BYTES), (rows(th3, wire.HASH_BYTES),)
    # H9
    with (
        expand_many(count, key, labels.EXPAND_WHO, context, WHO_KEY_BYTES) as who_keys,
        expand_many(count, key, labels.EXPAND_FINISHED_SERVER, context, wire.FINISHED_BYTES) as tags,
    ):
        named = b"".join([_WHO.pack(its.tenant_id, its.ref, its.key_version) for its in terms])
        whos = transcript_many(
            count,
            shared(labels.HASH_WHO),
            rows(named, wire.TENANT_BYTES, _WHO.size),
            rows(named, wire.REF_BYTES, _WHO.size, wire.TENANT_BYTES),
            rows(named, 4, _WHO.size, wire.TENANT_BYTES + wire.REF_BYTES),
            rows(who_keys, WHO_KEY_BYTES),
        )
        leaves = [
            session_leaf(
                form=form,
                suite=wire.SUITE,
                server_id=server_id,
                sid=SessionId(its.sid),
                start=its.start,
                th3_hash=th3_hash,
                who=who[:WHO_BYTES],
            )
            for its, th3_hash, who in zip(terms, th3_hashes, split_rows(whos, wire.HASH_BYTES), strict=True)
        ]
        server_tags = split_rows(tags.view(), wire.FINISHED_BYTES)
    # H10
    chain_keys = expand_many(count, key, labels.EXPAND_CHAIN, context, wire.SECRET_BYTES)
    confirmations: list[Confirmation] = []
    try:
        for row, its in enumerate(terms):
            sid, tenant_id, ref, key_version, hdr_bucket, start, _, lifetime, policy = its
            confirmations.append(
                # In the order of the fields: naming them costs as much again.
                Confirmation(
                    form,
                    buckets[row],
                    TenantId(tenant_id),
                    DeviceRef(ref),
                    key_version,
                    SessionId(sid),
                    start,
                    lifetime,
                    policy,
                    hdr_bucket,
                    th3_hashes[row],
                    leaves[row],
                    hash_leaf(leaves[row]),
                    server_tags[row],
                    chain_keys,
                    row,
                )
            )
    except BaseException:
        chain_keys.wipe()
        raise
    return confirmations
