"""The ticket: what the server would have to remember between two messages, sealed for itself (H5)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeVar

from qflare.errors import AuthenticationError, KeyNotFoundError
from qflare.model.refusal import Refusal
from qflare.primitives.aead import AeadKey
from qflare.primitives.columns import rows, shared
from qflare.primitives.random import random_bytes
from qflare.protocol import wire
from qflare.protocol.batch import gather_secret, require_same_count, split_rows
from qflare.protocol.bucket import TICKET_KEY_BYTES
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.protocol.bucket import BucketKeys, Keyring

EXPIRY_S_MAX: Final = 60
"""Longest life of a hello's ticket."""

Result = TypeVar("Result")

_TERMS: Final = struct.Struct(">16s16s32sIQQQHI")
_HEADER: Final = struct.Struct(">BQ")
_SECRET_BYTES: Final = {wire.FORM_HELLO: wire.SECRET_BYTES, wire.FORM_OFFER: 32}
_NO_KEY: Final = bytes(TICKET_KEY_BYTES)
_SEALED_AT: Final = wire.TICKET_HEADER_BYTES + wire.NONCE_BYTES


class TicketTerms(NamedTuple):
    """What stands in a ticket beside the secret and the transcript."""

    sid: bytes
    tenant_id: bytes
    ref: bytes
    key_version: int
    hdr_bucket: int
    start: int
    expiry_s: int
    """Unix seconds by the server's clock; valid while now is below it."""
    lifetime: int
    policy: int


@dataclass(slots=True)
class OpenedTickets:
    """Tickets that opened, in the order of their messages; owns the secrets."""

    verdicts: list[Refusal | None]
    """One a ticket given: None where it opened and lives."""
    places: list[int]
    """Which of the given tickets each row is."""
    buckets: list[int]
    terms: list[TicketTerms]
    secrets: SecretBytes
    """Row-major: ck2 (64 bytes) in form 1, ss_D (32 bytes) in form 2."""
    transcripts: bytes
    """``n × 64`` bytes: th3 in form 1, th1 in form 2."""

    def spread(self, results: Sequence[Result | Refusal]) -> list[Result | Refusal]:
        """Put the *results* of the rows at their places, and the refusals where there is no row."""
        remaining = iter(results)
        return [next(remaining) if verdict is None else verdict for verdict in self.verdicts]

    def wipe(self) -> None:
        """Destroy the secrets."""
        self.secrets.wipe()

    def __enter__(self) -> Self:
        """Lend the tickets to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the secrets at the end of the block."""
        self.wipe()


def hello_expiry_s(now_s: int, width_s: int) -> int:
    """Return when a hello's ticket made now ends: ``now + min(60, width)`` (H5)."""
    return now_s + min(EXPIRY_S_MAX, width_s)


def offer_expiry_s(bucket: int, width_s: int) -> int:
    """Return when an offer's ticket of *bucket* ends: with the bucket after it, as its keys do (H5)."""
    return (bucket + 2) * width_s


def seal_tickets(
    form: int, keys: BucketKeys, terms: Sequence[TicketTerms], secrets: SecretBytes, transcripts: bytes | bytearray
) -> list[bytes]:
    """
    Seal tickets under `TK_b`.

    Args:
        form: 1 hello, 2 offer.
        keys: The server's current bucket.
        terms: One a ticket.
        secrets: ``n × 64`` bytes (form 1) or ``n × 32`` bytes (form 2); stay the caller's.
        transcripts: ``n × 64`` bytes, th3 (form 1) or th1 (form 2).

    Returns:
        Tickets of 263 bytes (form 1) or 231 bytes (form 2).

    Raises:
        BatchError: the columns disagree.
        EntropyError: the random source failed.
        KeyNotFoundError: the bucket's keys were destroyed.

    Source: docs/protocol.md, step H5.
    """
    secret_bytes = _SECRET_BYTES[form]
    require_same_count("secrets", len(secrets), len(terms) * secret_bytes)
    require_same_count("transcripts", len(transcripts), len(terms) * wire.HASH_BYTES)
    header = _HEADER.pack(form, keys.bucket)
    nonces = random_bytes(len(terms) * wire.NONCE_BYTES)
    secret_at, transcript_at = _TERMS.size, _TERMS.size + secret_bytes
    width = transcript_at + wire.HASH_BYTES
    with (
        SecretBytes.copy_of(keys.ticket_key) as ticket_key,
        SecretBytes.zeros(len(terms) * width) as plaintexts,
        plaintexts.view() as out,
        secrets.view() as secret_rows,
    ):
        # The copy is looked at and used: a turn may wipe the key at any moment, and zeros are no secret.
        if ticket_key.equals(_NO_KEY):
            message = f"the keys of bucket {keys.bucket} were destroyed; nothing can be sealed under them"
            raise KeyNotFoundError(message)
        for row, its_terms in enumerate(terms):
            at = row * width
            _TERMS.pack_into(out, at, *its_terms)
            out[at + secret_at : at + transcript_at] = secret_rows[row * secret_bytes : (row + 1) * secret_bytes]
            out[at + transcript_at : at + width] = transcripts[row * wire.HASH_BYTES : (row + 1) * wire.HASH_BYTES]
        sealed = AeadKey(ticket_key).seal_many(len(terms), nonces, rows(plaintexts, width), shared(header))
    return [
        b"".join((header, nonce, box)) for nonce, box in zip(split_rows(nonces, wire.NONCE_BYTES), sealed, strict=True)
    ]


def open_tickets(form: int, tickets: Sequence[bytes | Refusal], keyring: Keyring, *, now_s: int) -> OpenedTickets:
    """
    Open tickets under the `TK_b` that each names, and check what stands in them.

    Args:
        form: The one form that is taken here: 1 in M3, 2 in ANSWER.
        tickets: Of the form's fixed size; a `Refusal` where the message was refused already.
        keyring: The live buckets.
        now_s: The server's clock, Unix seconds.

    Source: docs/protocol.md, steps H8 and O3.
    """
    secret_bytes = _SECRET_BYTES[form]
    secret_at, transcript_at = _TERMS.size, _TERMS.size + secret_bytes
    opened = OpenedTickets([], [], [], [], SecretBytes.zeros(len(tickets) * secret_bytes), b"")
    transcripts: list[bytes] = []
    keys = _TicketKeys(keyring)
    try:
        with (
            SecretBytes.zeros(transcript_at + wire.HASH_BYTES) as plaintext,
            plaintext.view() as out,
            opened.secrets.view() as secrets,
        ):
            secret_end = 0
            for place, ticket in enumerate(tickets):
                if isinstance(ticket, Refusal):
                    opened.verdicts.append(ticket)
                    continue
                # H8, O3: the form before anything is opened, then whether TK_b lives, then the ticket.
                its_form, bucket = _HEADER.unpack_from(ticket)
                verdict = Refusal.TICKET if its_form != form else _open_into(out, ticket, keys.find(bucket))
                if verdict is None:
                    terms = TicketTerms(*_TERMS.unpack_from(out))
                    verdict = _check(terms, now_s)
                opened.verdicts.append(verdict)
                if verdict is not None:
                    continue
                secrets[secret_end : secret_end + secret_bytes] = out[secret_at:transcript_at]
                secret_end += secret_bytes
                transcripts.append(bytes(out[transcript_at:]))
                opened.places.append(place)
                opened.buckets.append(bucket)
                opened.terms.append(terms)
        if len(opened.places) < len(tickets):
            whole = opened.secrets
            opened.secrets = gather_secret(whole, secret_bytes, range(len(opened.places)))
            whole.wipe()
    except BaseException:
        opened.wipe()
        raise
    finally:
        keys.wipe()
    opened.transcripts = b"".join(transcripts)
    return opened


class _TicketKeys:
    """The ticket keys that one batch needs, each copied and looked at once."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._copies: list[SecretBytes] = []
        self._keys: dict[int, AeadKey | None] = {}

    def find(self, bucket: int) -> AeadKey | None:
        """Return `TK_b`, or None if it does not live."""
        key = self._keys.get(bucket)
        if key is None and bucket not in self._keys:
            # What a stranger writes there is not remembered: only live buckets make an entry.
            live = self._keyring.get(bucket)
            if live is None:
                return None
            key = self._keys[bucket] = self._copy(live)
        return key

    def wipe(self) -> None:
        """Destroy the copies."""
        for copy in self._copies:
            copy.wipe()

    def _copy(self, live: BucketKeys) -> AeadKey | None:
        copy = SecretBytes.copy_of(live.ticket_key)
        self._copies.append(copy)
        # A turn may wipe the key at any moment: whoever sealed a ticket under zeros must not be believed.
        return None if copy.equals(_NO_KEY) else AeadKey(copy)


def _open_into(out: memoryview, ticket: bytes, key: AeadKey | None) -> Refusal | None:
    if key is None:
        return Refusal.BUCKET
    header, nonce = ticket[: wire.TICKET_HEADER_BYTES], ticket[wire.TICKET_HEADER_BYTES : _SEALED_AT]
    try:
        key.open_into(nonce, ticket[_SEALED_AT:], header, out)
    except AuthenticationError:
        return Refusal.TICKET
    return None


def _check(terms: TicketTerms, now_s: int) -> Refusal | None:
    if not 1 <= terms.lifetime <= wire.LIFETIME_MAX or terms.policy & ~wire.POLICY_KNOWN:
        return Refusal.TICKET
    if now_s >= terms.expiry_s:
        return Refusal.EXPIRED
    return None
