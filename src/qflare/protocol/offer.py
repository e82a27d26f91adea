"""
The server's side of an offer: OFFER out, ANSWER in, on whole batches (O1, O3).

Between `open_answers` and `confirm_answers` the caller looks up the devices' psks.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from qflare.model.ids import DeviceRef, SessionId, TenantId
from qflare.model.refusal import Refusal
from qflare.primitives import kem
from qflare.primitives.columns import rows, shared
from qflare.primitives.hash import transcript_many
from qflare.primitives.kdf import expand_many, extract_many
from qflare.primitives.random import random_bytes
from qflare.protocol import labels, wire
from qflare.protocol.batch import gather, gather_secret, require_same_count, split_rows
from qflare.protocol.bucket import BucketKeys, Keyring, decapsulate_by_bucket, encapsulation_refusal
from qflare.protocol.confirm import Confirmation, confirm_rows
from qflare.protocol.credential import require_size
from qflare.protocol.hello import require_terms
from qflare.protocol.schedule import derive_ck2
from qflare.protocol.ticket import OpenedTickets, TicketTerms, offer_expiry_s, open_tickets, seal_tickets
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence

_OFFER_HEAD: Final = struct.Struct(">BBHQQHI")
_TARGET: Final = struct.Struct(">16s32sI")


class OfferTarget(NamedTuple):
    """A device to offer a session to, with its current KEM key."""

    tenant_id: TenantId
    ref: DeviceRef
    key_version: int
    encapsulation_key: bytes
    """`ek_D`, 1568 bytes."""


class Offer(NamedTuple):
    """An OFFER, and the session it would begin. Public."""

    message: bytes
    """1841 bytes."""
    sid: SessionId


class AnswerClaim(NamedTuple):
    """Whom an ANSWER is from: its ticket and "pre" tag hold, "fin d" is still to be checked."""

    tenant_id: TenantId
    ref: DeviceRef
    key_version: int
    sid: SessionId


@dataclass(slots=True, kw_only=True)
class OpenedAnswers:
    """ANSWERs whose bucket was decapsulated, and the refusals of the others; owns the secrets."""

    claims: list[AnswerClaim | Refusal]
    """One a message."""
    messages: Sequence[bytes]
    places: list[int]
    """Which message each row is."""
    terms: list[TicketTerms]
    buckets: list[int]
    th3: bytes
    """``rows × 64`` bytes."""
    ck1: SecretBytes
    """``rows × 64`` bytes."""
    ss_b: SecretBytes
    """``rows × 32`` bytes."""

    def wipe(self) -> None:
        """Destroy the secrets."""
        self.ck1.wipe()
        self.ss_b.wipe()
        # Rows of zeros must not be taken for rows: nothing is confirmed from here on.
        self.places.clear()

    def __enter__(self) -> Self:
        """Lend the answers to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the secrets at the end of the block."""
        self.wipe()


def make_offers(
    devices: Sequence[OfferTarget | tuple[TenantId, DeviceRef, int, bytes]],
    bucket_keys: BucketKeys,
    *,
    lifetime: int = wire.LIFETIME_MAX,
    policy: int = wire.POLICY_KNOWN,
    made_ahead: Sequence[kem.Encapsulated | None] | None = None,
) -> list[Offer | Refusal]:
    """
    Make an OFFER for each device.

    Args:
        devices: The devices and their current KEM keys; that they are current is the caller's check.
        bucket_keys: The server's current bucket: b, start and the ticket's key are its.
        lifetime: Buckets the sessions live, 1 to 288.
        policy: Flags; none is defined.
        made_ahead: For each device an encapsulation to its key that serves no other offer, or None; stay the caller's.

    Returns:
        One offer a device, or `Refusal.ENCAPSULATION_KEY` where a key fails FIPS 203, section 7.2.

    Raises:
        BatchError: *made_ahead* has another number of items than *devices*.
        EntropyError: the random source failed; nothing was offered.
        KeyNotFoundError: the bucket's keys were destroyed.
        LengthError: a tenant_id, ref or encapsulation key has the wrong size.
        UsageError: *lifetime* or *policy* is out of range.

    Source: docs/protocol.md, step O1.
    """
    require_terms(lifetime=lifetime, policy=policy)
    if not devices:
        return []
    targets = [OfferTarget(*device) for device in devices]
    # Each by itself: rows that only fit together would be cut at the wrong places.
    for tenant_id, ref, _, ek in targets:
        if len(tenant_id) != wire.TENANT_BYTES or len(ref) != wire.REF_BYTES or len(ek) != kem.EK_BYTES:
            require_size("tenant_id", len(tenant_id), wire.TENANT_BYTES)
            require_size("ref", len(ref), wire.REF_BYTES)
            require_size("encapsulation_key", len(ek), kem.EK_BYTES)
    count = len(targets)
    bucket = bucket_keys.bucket
    ek_rows = b"".join([target.encapsulation_key for target in targets])
    encapsulated = kem.encapsulate_many(ek_rows) if made_ahead is None else _encapsulated(targets, made_ahead)
    with encapsulated.shared_secrets as ss_d:
        sids = split_rows(random_bytes(count * wire.SID_BYTES), wire.SID_BYTES)
        head = _OFFER_HEAD.pack(wire.TYPE_OFFER, wire.VERSION, wire.SUITE, bucket, bucket, lifetime, policy)
        cts = split_rows(encapsulated.ciphertexts, kem.CT_BYTES)
        bodies = [b"".join((head, sid, ct)) for sid, ct in zip(sids, cts, strict=True)]
        named = b"".join([_TARGET.pack(tenant_id, ref, version) for tenant_id, ref, version, _ in targets])
        th1 = transcript_many(
            count,
            shared(labels.HASH_OFFER),
            shared(wire.SUITE_FIELD),
            shared(bucket_keys.announcement.body_hash),
            rows(transcript_many(count, rows(ek_rows, kem.EK_BYTES)), wire.HASH_BYTES),
            rows(named, wire.TENANT_BYTES, _TARGET.size),
            rows(named, wire.REF_BYTES, _TARGET.size, wire.TENANT_BYTES),
            rows(named, 4, _TARGET.size, wire.TENANT_BYTES + wire.REF_BYTES),
            rows(b"".join(bodies), wire.OFFER_TICKET_AT),
        )
        expiry_s = offer_expiry_s(bucket, bucket_keys.width_s)
        terms = [
            # hdr.b and start are both the bucket (O1). In the order of the fields: naming them costs as much again.
            TicketTerms(sid, tenant_id, ref, version, bucket, bucket, expiry_s, lifetime, policy)
            for (tenant_id, ref, version, _), sid in zip(targets, sids, strict=True)
        ]
        tickets = seal_tickets(wire.FORM_OFFER, bucket_keys, terms, ss_d, th1)
    offers: list[Offer | Refusal] = [
        Offer(body + ticket, SessionId(sid)) for body, ticket, sid in zip(bodies, tickets, sids, strict=True)
    ]
    for row, status in enumerate(encapsulated.status):
        if status != 0:
            offers[row] = encapsulation_refusal(targets[row].encapsulation_key)
    return offers


def _encapsulated(
    targets: Sequence[OfferTarget], made_ahead: Sequence[kem.Encapsulated | None]
) -> kem.EncapsulatedMany:
    """Put together what was made ahead and what is made now, row by row."""
    require_same_count("made_ahead", len(made_ahead), len(targets))
    missing = [row for row, made in enumerate(made_ahead) if made is None]
    fresh = kem.encapsulate_many(b"".join([targets[row].encapsulation_key for row in missing]))
    ciphertexts, status = bytearray(len(targets) * kem.CT_BYTES), bytearray(len(targets))
    secrets = SecretBytes.zeros(len(targets) * kem.SS_BYTES)
    with fresh.shared_secrets as fresh_secrets:
        for number, row in enumerate(missing):
            at, source = row * kem.CT_BYTES, number * kem.CT_BYTES
            ciphertexts[at : at + kem.CT_BYTES] = fresh.ciphertexts[source : source + kem.CT_BYTES]
            secrets.row(row, kem.SS_BYTES)[:] = fresh_secrets.row(number, kem.SS_BYTES)
            status[row] = fresh.status[number]
    for row, made in enumerate(made_ahead):
        if made is not None:
            ciphertexts[row * kem.CT_BYTES : (row + 1) * kem.CT_BYTES] = made.ciphertext
            with made.shared_secret.view() as secret:
                secrets.row(row, kem.SS_BYTES)[:] = secret
    return kem.EncapsulatedMany(ciphertexts, secrets, bytes(status))


def open_answers(messages: Sequence[bytes], keyring: Keyring, *, now_s: int) -> OpenedAnswers:
    """
    Check ANSWERs up to the decapsulation: ticket, expiry, "pre" tag.

    Args:
        messages: ANSWERs without glued records (`confirm.split_glued`), of any length and content.
        keyring: The live buckets.
        now_s: The server's clock, Unix seconds.

    Returns:
        One claim or `Refusal` a message.  A wrong ciphertext is no error here (implicit rejection): its "fin d" fails.

    Raises:
        KeyCheckError: a bucket's own decapsulation key is damaged.

    Source: docs/protocol.md, step O3.
    """
    with open_tickets(wire.FORM_OFFER, [_ticket_of(message) for message in messages], keyring, now_s=now_s) as tickets:
        return _open(messages, tickets, keyring)


def confirm_answers(
    opened: OpenedAnswers, psks: Sequence[SecretBytes | None], *, server_id: bytes
) -> list[Confirmation | Refusal]:
    """
    Check "fin d" and derive what M4 and the session need.

    Args:
        opened: From `open_answers`; its owner wipes it.
        psks: One a message: the psk of the claim's device, 64 bytes, or None; stay the caller's.
        server_id: 32 bytes, for the leaf.

    Returns:
        One confirmation or `Refusal` a message; the caller owns and wipes the confirmations.

    Raises:
        BatchError: *psks* has another number of items than there were messages.

    Source: docs/protocol.md, step O3.
    """
    require_same_count("psks", len(psks), len(opened.messages))
    results: list[Confirmation | Refusal] = [
        claim if isinstance(claim, Refusal) else Refusal.TAG for claim in opened.claims
    ]
    if not opened.places:
        return results
    row_psks = [psks[place] for place in opened.places]
    with derive_ck2(len(opened.places), opened.ck1, row_psks, opened.ss_b) as ck2:
        confirmed = confirm_rows(
            wire.FORM_OFFER,
            terms=opened.terms,
            buckets=opened.buckets,
            ck2=ck2,
            th3=opened.th3,
            tags=[opened.messages[place][wire.ANSWER_TAG_AT :] for place in opened.places],
            server_id=server_id,
        )
    for place, result in zip(opened.places, confirmed, strict=True):
        results[place] = result
    return results


def _ticket_of(message: bytes) -> bytes | Refusal:
    if len(message) != wire.ANSWER_BYTES:
        return Refusal.LENGTH
    if message[0] != wire.TYPE_ANSWER:
        return Refusal.TYPE
    if message[1] != wire.VERSION:
        return Refusal.VERSION
    return message[wire.ANSWER_TICKET_AT : wire.ANSWER_CT_AT]


def _open(messages: Sequence[bytes], tickets: OpenedTickets, keyring: Keyring) -> OpenedAnswers:
    verdicts: list[AnswerClaim | Refusal] = [verdict or Refusal.TAG for verdict in tickets.verdicts]
    count = len(tickets.places)
    answers = [messages[place] for place in tickets.places]
    cts = [answer[wire.ANSWER_CT_AT : wire.ANSWER_PRE_AT] for answer in answers]
    th3 = transcript_many(count, rows(tickets.transcripts, wire.HASH_BYTES), rows(b"".join(cts), kem.CT_BYTES))
    with extract_many(count, rows(tickets.transcripts, wire.HASH_BYTES), rows(tickets.secrets, kem.SS_BYTES)) as ck1:
        # O3: the "pre" tag, before any decapsulation.
        with (
            expand_many(
                count, rows(ck1, wire.SECRET_BYTES), labels.EXPAND_PRE, (rows(th3, wire.HASH_BYTES),), wire.PRE_BYTES
            ) as pre,
            pre.view() as expected,
        ):
            # CT: the tag proves knowledge of ss_D; compare_digest takes the same time wherever it differs.
            keep = [
                row
                for row, answer in enumerate(answers)
                if hmac.compare_digest(
                    expected[row * wire.PRE_BYTES : (row + 1) * wire.PRE_BYTES],
                    answer[wire.ANSWER_PRE_AT : wire.ANSWER_TAG_AT],
                )
            ]
        buckets = [tickets.buckets[row] for row in keep]
        terms = [tickets.terms[row] for row in keep]
        places = [tickets.places[row] for row in keep]
        for place, its in zip(places, terms, strict=True):
            verdicts[place] = AnswerClaim(
                TenantId(its.tenant_id), DeviceRef(its.ref), its.key_version, SessionId(its.sid)
            )
        ciphertexts = [cts[row] for row in keep]
        # O3: dk_b lives as long as TK_b does, for both stand in one BucketKeys.
        ss_b = decapsulate_by_bucket(keyring, buckets, ciphertexts)
        return OpenedAnswers(
            claims=verdicts,
            messages=messages,
            places=places,
            terms=terms,
            buckets=buckets,
            th3=gather(th3, wire.HASH_BYTES, keep),
            ck1=gather_secret(ck1, wire.SECRET_BYTES, keep),
            ss_b=ss_b,
        )
