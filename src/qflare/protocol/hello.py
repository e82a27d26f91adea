"""
The server's side of a hello: M1 in, M2 out, on whole batches (H3 to H5).

Between the two calls the caller looks up the devices.  Nothing else is kept: what M3 needs travels in the ticket.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from qflare.errors import KeyNotFoundError, UsageError
from qflare.model.ids import DeviceRef, TenantId
from qflare.model.refusal import Refusal
from qflare.primitives import kem
from qflare.primitives.aead import NONCE_ZERO, open_many_into, seal_many
from qflare.primitives.columns import rows, shared
from qflare.primitives.hash import shake256, transcript_many
from qflare.primitives.kdf import expand_many, extract_many
from qflare.primitives.random import random_bytes
from qflare.primitives.sig import SIG44
from qflare.protocol import labels, wire
from qflare.protocol.batch import gather, gather_secret, keep_secret, require_same_count, split_rows
from qflare.protocol.bucket import (
    BucketKeys,
    Keyring,
    body_hashes,
    decapsulate_by_bucket,
    encapsulation_refusal,
    is_open,
    living,
)
from qflare.protocol.schedule import derive_ck2
from qflare.protocol.ticket import TicketTerms, hello_expiry_s, seal_tickets
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from qflare.protocol.credential import DeviceCredential
    from qflare.protocol.seen import SeenHellos

_M1_HEAD: Final = bytes((wire.TYPE_M1, wire.VERSION)) + wire.SUITE_FIELD
_M2_HEAD: Final = bytes((wire.TYPE_M2, wire.VERSION))
_HEAD: Final = struct.Struct(">4sQ")
_TERMS: Final = struct.Struct(">QHI")
_NAME: Final = struct.Struct(">16s32sI")
_KEY_VERSION_AT: Final = wire.TENANT_BYTES + wire.REF_BYTES
_SIGNATURE_AT: Final = _KEY_VERSION_AT + 4


class HelloClaim(NamedTuple):
    """Whom an M1 says it is from; to be believed only once `answer_hellos` has answered it."""

    tenant_id: TenantId
    ref: DeviceRef
    key_version: int
    bucket: int
    """hdr.b."""


@dataclass(slots=True, kw_only=True)
class OpenedHellos:
    """M1s whose c1 has opened, and the refusals of the others; owns the secrets, wiped at the end of its block."""

    claims: list[HelloClaim | Refusal]
    """One a message."""
    messages: Sequence[bytes]
    places: list[int]
    """Which message each row is."""
    row_claims: list[HelloClaim]
    m1s: bytes
    """The rows' messages behind each other, ``rows × 5636`` bytes."""
    th1: bytes
    """``rows × 64`` bytes."""
    ck1: SecretBytes
    """``rows × 64`` bytes."""
    names: SecretBytes
    """Plaintexts of c1, ``rows × 2472`` bytes."""
    doubled: frozenset[int] = frozenset()
    """Messages whose ct_b came with another M1 before: never answered, and checked for whose source is broken."""

    def wipe(self) -> None:
        """Destroy the secrets."""
        self.ck1.wipe()
        self.names.wipe()
        # Rows of zeros must not be taken for rows: nothing is answered from here on.
        self.places.clear()
        self.row_claims.clear()

    def __enter__(self) -> Self:
        """Lend the hellos to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the secrets at the end of the block."""
        self.wipe()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offered:
    """What the server gives every session of a batch."""

    server_bucket: int
    expiry_s: int
    lifetime: int
    policy: int

    def to(self, claim: HelloClaim, sid: bytes) -> TicketTerms:
        """Return the terms of one session (H4, H5)."""
        # In the order of the fields: naming them costs as much again.
        tenant_id, ref, key_version, bucket = claim
        start = max(self.server_bucket, bucket)
        return TicketTerms(sid, tenant_id, ref, key_version, bucket, start, self.expiry_s, self.lifetime, self.policy)


def open_hellos(messages: Sequence[bytes], keyring: Keyring, *, server_bucket: int, seen: SeenHellos) -> OpenedHellos:
    """
    Check M1s as far as they can be checked without the devices' rows.

    Args:
        messages: M1s, of any length and content.
        keyring: The live buckets.
        server_bucket: The server's current bucket.
        seen: This worker's memory of hellos; changed.

    Returns:
        One claim or `Refusal` a message.  A wrong ciphertext is no error of its own (implicit rejection): its c1 does
        not open.

    Raises:
        KeyCheckError: a bucket's own decapsulation key is damaged.

    Source: docs/protocol.md, step H3.
    """
    # H3: length, type, version, suite; bucket; seen set.
    keyring = living(keyring)
    taken = {bucket for bucket in keyring if is_open(keyring, bucket, server_bucket=server_bucket)}
    claims: list[HelloClaim | Refusal] = []
    places: list[int] = []
    buckets: list[int] = []
    ciphertexts: list[bytes] = []
    for place, message in enumerate(messages):
        bucket = _check_head(message, taken)
        if not isinstance(bucket, Refusal):
            ciphertext = message[wire.M1_CT_AT : wire.M1_HEADER_BYTES]
            if seen.has_room_for(ciphertext, message):
                claims.append(Refusal.TAG)  # stands until c1 has opened
                places.append(place)
                buckets.append(bucket)
                ciphertexts.append(ciphertext)
                continue
            bucket = Refusal.SEEN
        claims.append(bucket)
    if not places:
        none = SecretBytes.zeros(0)
        return OpenedHellos(
            claims=claims, messages=messages, places=[], row_claims=[], m1s=b"", th1=b"", ck1=none, names=none
        )
    # H3: decapsulate, th1, ck1.
    count = len(places)
    m1s = b"".join([messages[place] for place in places])
    th1 = bytes(
        transcript_many(
            count,
            shared(labels.HASH_HELLO),
            shared(wire.SUITE_FIELD),
            rows(body_hashes(keyring, buckets), wire.HASH_BYTES),
            rows(m1s, wire.M1_HEADER_BYTES, wire.M1_BYTES),
        )
    )
    with decapsulate_by_bucket(keyring, buckets, ciphertexts) as ss_b:
        ck1 = extract_many(count, rows(th1, wire.HASH_BYTES), rows(ss_b, kem.SS_BYTES))
    names = SecretBytes.zeros(count * wire.M1_PLAINTEXT_BYTES)
    try:
        tagged = [row for row, status in enumerate(_open_names(names, ck1, th1, m1s)) if status == 0]
        # H3: only who made ct_b gets here, so only he can fill the set.
        admitted = seen.admit_many([ciphertexts[row] for row in tagged], [messages[places[row]] for row in tagged])
        keep: list[int] = []
        doubled: set[int] = set()
        row_claims: list[HelloClaim] = []
        with names.view() as plaintexts:
            for row, refusal in zip(tagged, admitted, strict=True):
                if refusal is Refusal.SEEN:
                    claims[places[row]] = refusal
                    continue
                if refusal is not None:
                    doubled.add(places[row])
                tenant_id, ref, key_version = _NAME.unpack_from(plaintexts, row * wire.M1_PLAINTEXT_BYTES)
                claim = HelloClaim(tenant_id, ref, key_version, buckets[row])
                claims[places[row]] = claim
                row_claims.append(claim)
                keep.append(row)
        return OpenedHellos(
            claims=claims,
            messages=messages,
            places=[places[row] for row in keep],
            row_claims=row_claims,
            m1s=gather(m1s, wire.M1_BYTES, keep),
            th1=gather(th1, wire.HASH_BYTES, keep),
            ck1=keep_secret(ck1, wire.SECRET_BYTES, keep),
            names=keep_secret(names, wire.M1_PLAINTEXT_BYTES, keep),
            doubled=frozenset(doubled),
        )
    except BaseException:
        ck1.wipe()
        names.wipe()
        raise


def answer_hellos(
    opened: OpenedHellos,
    devices: Sequence[DeviceCredential | None],
    keyring: Keyring,
    *,
    server_bucket: int,
    now_s: int,
    lifetime: int = wire.LIFETIME_MAX,
    policy: int = wire.POLICY_KNOWN,
) -> list[bytes | Refusal]:
    """
    Finish the checks of M1s and answer them.

    Args:
        opened: From `open_hellos`; its owner wipes it.
        devices: One a message: the row of the claim's device, or None where there is none (or no claim).
        keyring: The live buckets, *server_bucket* among them.
        server_bucket: The server's current bucket: names the ticket key and the earliest start.
        now_s: The server's clock, Unix seconds.
        lifetime: Buckets the sessions live, 1 to 288.
        policy: Flags; none is defined.

    Returns:
        M2 (1879 bytes) or `Refusal` a message.

    Raises:
        BatchError: *devices* has another number of items than there were messages.
        EntropyError: the random source failed; nothing was answered.
        KeyNotFoundError: *server_bucket* is not in *keyring*.
        UsageError: *lifetime* or *policy* is out of range.

    Source: docs/protocol.md, steps H3 to H5.
    """
    require_same_count("devices", len(devices), len(opened.messages))
    require_terms(lifetime=lifetime, policy=policy)
    bucket_keys = keyring.get(server_bucket)
    if bucket_keys is None:
        message = f"bucket {server_bucket} has no live keys; make or load them before answering"
        raise KeyNotFoundError(message)
    answers: list[bytes | Refusal] = [
        claim if isinstance(claim, Refusal) else Refusal.INTERNAL for claim in opened.claims
    ]
    if not opened.places:
        return answers
    verdicts = [
        Refusal.DRAWN_TWICE if verdict is None and place in opened.doubled else verdict
        for place, verdict in zip(
            opened.places,
            _check_devices(opened, [devices[place] for place in opened.places], server_bucket),
            strict=True,
        )
    ]
    keep = [row for row, verdict in enumerate(verdicts) if verdict is None]
    for place, verdict in zip(opened.places, verdicts, strict=True):
        if verdict is not None:
            answers[place] = verdict
    if not keep:
        return answers
    offered = _Offered(
        server_bucket=server_bucket,
        expiry_s=hello_expiry_s(now_s, bucket_keys.width_s),
        lifetime=lifetime,
        policy=policy,
    )
    kept_devices = [devices[opened.places[row]] for row in keep]
    m2s = _make_m2s(opened, kept_devices, keep, offered, bucket_keys)
    for row, m2 in zip(keep, m2s, strict=True):
        answers[opened.places[row]] = m2
    return answers


def require_terms(*, lifetime: int, policy: int) -> None:
    """
    Check the terms that the server gives a session.

    Raises:
        UsageError: *lifetime* is not 1 to 288, or *policy* has a flag that is not defined.
    """
    if type(lifetime) is not int or not 1 <= lifetime <= wire.LIFETIME_MAX:
        message = f"lifetime must be 1 to {wire.LIFETIME_MAX} buckets, got {lifetime}"
        raise UsageError(message)
    if type(policy) is not int or policy & ~wire.POLICY_KNOWN:
        message = f"policy must be {wire.POLICY_KNOWN}, no other flag is defined, got {policy}"
        raise UsageError(message)


def _check_head(message: bytes, taken: AbstractSet[int]) -> int | Refusal:
    if len(message) != wire.M1_BYTES:
        return Refusal.LENGTH
    head: bytes
    bucket: int
    head, bucket = _HEAD.unpack_from(message)
    if head != _M1_HEAD:
        if message[0] != wire.TYPE_M1:
            return Refusal.TYPE
        return Refusal.VERSION if message[1] != wire.VERSION else Refusal.SUITE
    return bucket if bucket in taken else Refusal.BUCKET


def _open_names(names: SecretBytes, ck1: SecretBytes, th1: bytes, m1s: bytes) -> bytes:
    # H3: the AEAD tag of c1; returns a status a row, 0 where it opened.
    with expand_many(
        len(th1) // wire.HASH_BYTES,
        rows(ck1, wire.SECRET_BYTES),
        labels.EXPAND_M1,
        (rows(th1, wire.HASH_BYTES),),
        wire.AEAD_KEY_BYTES,
    ) as k1:
        c1 = rows(m1s, wire.M1_C1_BYTES, wire.M1_BYTES, wire.M1_HEADER_BYTES)
        return open_many_into(k1, NONCE_ZERO, c1, rows(th1, wire.HASH_BYTES), names)


@cache
def _dummy_verification_key() -> bytes:
    # Any bytes are a key to verify with, as slowly as with another (FIPS 204, Algorithm 23), and of these nobody has
    # the signing key. Who had it would gain nothing: an unknown device is refused whatever the signature says.
    return bytes(shake256(b"QFX/1 no device", SIG44.PK_BYTES))


def _check_devices(
    opened: OpenedHellos, devices: Sequence[DeviceCredential | None], server_bucket: int
) -> list[Refusal | None]:
    # H3: the signature is verified whatever the row says, so that all refusals from here on take the same time.
    count = len(devices)
    size = wire.M1_PLAINTEXT_BYTES
    digests = transcript_many(
        count,
        rows(opened.th1, wire.HASH_BYTES),
        rows(opened.names, wire.TENANT_BYTES, size),
        rows(opened.names, wire.REF_BYTES, size, wire.TENANT_BYTES),
        rows(opened.names, 4, size, _KEY_VERSION_AT),
    )
    dummy = _dummy_verification_key()
    with opened.names.view() as names:
        statuses = SIG44.verify_many(
            b"".join([dummy if device is None else device.verification_key for device in devices]),
            split_rows(digests, wire.HASH_BYTES),
            b"".join([names[row * size + _SIGNATURE_AT : (row + 1) * size] for row in range(count)]),
            context=labels.CONTEXT_DEVICE,
        )
    verdicts: list[Refusal | None] = []
    for device, claim, status in zip(devices, opened.row_claims, statuses, strict=True):
        verdict = Refusal.UNKNOWN_DEVICE if device is None else device.verdict(claim.key_version)
        if verdict is None and status != 0:
            verdict = Refusal.SIGNATURE
        # The bucket may have turned while the devices were looked up.
        if verdict is None and abs(claim.bucket - server_bucket) > 1:
            verdict = Refusal.BUCKET
        verdicts.append(verdict)
    return verdicts


def _make_m2s(
    opened: OpenedHellos,
    devices: Sequence[DeviceCredential | None],
    keep: Sequence[int],
    offered: _Offered,
    bucket_keys: BucketKeys,
) -> list[bytes | Refusal]:
    count = len(keep)
    m1s = gather(opened.m1s, wire.M1_BYTES, keep)
    eks = [m1s[at : at + kem.EK_BYTES] for at in range(wire.M1_EK_AT, len(m1s), wire.M1_BYTES)]
    # H4: the check of FIPS 203, section 7.2, is part of encapsulation; a row that fails it is all zero, and refused.
    encapsulated = kem.encapsulate_many(b"".join(eks))
    with encapsulated.shared_secrets as ss_e, gather_secret(opened.ck1, wire.SECRET_BYTES, keep) as ck1:
        psks = [None if device is None else device.psk for device in devices]
        ck2 = derive_ck2(count, ck1, psks, ss_e)
    with ck2:
        sids = random_bytes(count * wire.SID_BYTES)
        th2 = transcript_many(
            count,
            rows(gather(opened.th1, wire.HASH_BYTES, keep), wire.HASH_BYTES),
            rows(m1s, wire.M1_C1_BYTES, wire.M1_BYTES, wire.M1_HEADER_BYTES),
            rows(encapsulated.ciphertexts, kem.CT_BYTES),
            rows(sids, wire.SID_BYTES),
        )
        terms = [
            offered.to(opened.row_claims[row], sids[at : at + wire.SID_BYTES])
            for row, at in zip(keep, range(0, len(sids), wire.SID_BYTES), strict=True)
        ]
        with expand_many(
            count, rows(ck2, wire.SECRET_BYTES), labels.EXPAND_M2, (rows(th2, wire.HASH_BYTES),), wire.AEAD_KEY_BYTES
        ) as k2:
            plaintexts = [_TERMS.pack(its.start, its.lifetime, its.policy) for its in terms]
            c2 = seal_many(k2, NONCE_ZERO, plaintexts, rows(th2, wire.HASH_BYTES))
        th3 = transcript_many(count, rows(th2, wire.HASH_BYTES), rows(b"".join(c2), wire.M2_C2_BYTES))
        # H5
        tickets = seal_tickets(wire.FORM_HELLO, bucket_keys, terms, ck2, th3)
    ct_rows = split_rows(encapsulated.ciphertexts, kem.CT_BYTES)
    m2s: list[bytes | Refusal] = [
        b"".join((_M2_HEAD, its.sid, ct_e, c2_row, ticket))
        for its, ct_e, c2_row, ticket in zip(terms, ct_rows, c2, tickets, strict=True)
    ]
    for row, status in enumerate(encapsulated.status):
        if status != 0:
            m2s[row] = encapsulation_refusal(eks[row])
    return m2s
