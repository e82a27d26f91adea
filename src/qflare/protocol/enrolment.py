"""
The server's side of enrolment: ENROL in, ENROLLED out, on whole batches (E2, E3).

`open_enrolments`, then the caller looks the tokens up; `check_enrolments`, then the caller's transaction; and
`answer_enrolments`.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from qflare.errors import AuthenticationError
from qflare.model.ids import TenantId, TokenId
from qflare.model.refusal import Refusal
from qflare.primitives import kem
from qflare.primitives.aead import NONCE_ZERO, AeadKey, seal_many
from qflare.primitives.columns import rows, shared
from qflare.primitives.hash import transcript_many, transcript_var_many
from qflare.primitives.kdf import expand_many, extract_many
from qflare.primitives.sig import SIG44
from qflare.protocol import labels, wire
from qflare.protocol.batch import gather_secret, require_same_count, split_rows
from qflare.protocol.bucket import Keyring, body_hashes, decapsulate_by_bucket, encapsulation_refusal, is_open
from qflare.protocol.identity import encode_name
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence

ENROL_HEAD: Final = bytes((wire.TYPE_ENROL, wire.VERSION)) + wire.SUITE_FIELD
ENROLLED_HEAD: Final = bytes((wire.TYPE_ENROLLED, wire.VERSION))

TOKEN_ID_AT: Final = wire.TENANT_BYTES
SECRET_AT: Final = TOKEN_ID_AT + wire.TOKEN_ID_BYTES
VK_AT: Final = SECRET_AT + wire.TOKEN_SECRET_BYTES
EK_AT: Final = VK_AT + SIG44.PK_BYTES
SIGNATURE_AT: Final = EK_AT + kem.EK_BYTES
_BUCKET_AT: Final = len(ENROL_HEAD)
_UNKNOWN_NAME: Final = b"\0"
"""Stands for the device_id where a token is unknown, so that its refusal costs the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentRequest:
    """What an ENROL says once its c1 has opened; to be believed only once `check_enrolments` has nothing against it."""

    tenant_id: TenantId
    token_id: TokenId
    secret_hash: bytes
    """H(secret), 64 bytes."""
    verification_key: bytes
    encapsulation_key: bytes
    key_hash: bytes
    """H(vk_D, ek_D), 64 bytes: names these keys when the same enrolment comes again (E3)."""
    bucket: int

    def has_secret_of(self, secret_hash: bytes) -> bool:
        """Return whether the request carries the secret whose hash the token's row holds."""
        # CT: the hash is no secret, but whoever guesses at tokens learns nothing from the time either.
        return hmac.compare_digest(self.secret_hash, secret_hash)


@dataclass(slots=True, kw_only=True)
class OpenedEnrolments:
    """ENROLs whose c1 has opened, and the refusals of the others; owns the secrets, wiped at the end of its block."""

    claims: list[EnrolmentRequest | Refusal]
    """One a message."""
    places: list[int]
    """Which message each row is."""
    th1: bytes
    """``rows × 64`` bytes."""
    ck1: SecretBytes
    """``rows × 64`` bytes."""
    signatures: list[bytes]
    """One a row."""

    def wipe(self) -> None:
        """Destroy the secrets."""
        self.ck1.wipe()

    def __enter__(self) -> Self:
        """Lend the enrolments to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the secrets at the end of the block."""
        self.wipe()


def open_enrolments(messages: Sequence[bytes], keyring: Keyring, *, server_bucket: int) -> OpenedEnrolments:
    """
    Check ENROLs as far as they can be checked without the tokens' rows.

    Args:
        messages: ENROLs, of any length and content.
        keyring: The live buckets.
        server_bucket: The server's current bucket.

    Returns:
        One request or `Refusal` a message.  A wrong ciphertext is no error of its own (implicit rejection): its c1
        does not open.

    Source: docs/protocol.md, steps E2 and E3.
    """
    claims: list[EnrolmentRequest | Refusal] = []
    places: list[int] = []
    buckets: list[int] = []
    for place, message in enumerate(messages):
        bucket = _check_head(message, keyring, server_bucket)
        if isinstance(bucket, Refusal):
            claims.append(bucket)
            continue
        claims.append(Refusal.TAG)  # stands until c1 has opened
        places.append(place)
        buckets.append(bucket)
    if not places:
        return OpenedEnrolments(claims=claims, places=[], th1=b"", ck1=SecretBytes.zeros(0), signatures=[])
    good = [messages[place] for place in places]
    count = len(good)
    # E2: th1, ck1 as the device made them.
    th1 = enrol_th1_many(b"".join(good), body_hashes(keyring, buckets), count=count, stride=wire.ENROL_BYTES)
    ciphertexts = [message[wire.ENROL_CT_AT : wire.ENROL_HEADER_BYTES] for message in good]
    with decapsulate_by_bucket(keyring, buckets, ciphertexts) as ss_b:
        ck1 = extract_many(count, rows(th1, wire.HASH_BYTES), rows(ss_b, kem.SS_BYTES))
    with ck1, SecretBytes.zeros(count * wire.ENROL_PLAINTEXT_BYTES) as plaintexts:
        keep = _open_rows(plaintexts, ck1, th1, good)
        requests = _read_requests(plaintexts, keep, [buckets[row] for row in keep])
        signatures: list[bytes] = []
        for row, request in zip(keep, requests, strict=True):
            claims[places[row]] = request
            signatures.append(bytes(plaintexts.row(row, wire.ENROL_PLAINTEXT_BYTES)[SIGNATURE_AT:]))
        return OpenedEnrolments(
            claims=claims,
            places=[places[row] for row in keep],
            th1=b"".join([th1[row * wire.HASH_BYTES : (row + 1) * wire.HASH_BYTES] for row in keep]),
            ck1=gather_secret(ck1, wire.SECRET_BYTES, keep),
            signatures=signatures,
        )


def check_enrolments(opened: OpenedEnrolments, device_ids: Sequence[str | None]) -> list[Refusal | None]:
    """
    Check ek_D and the signature of each request, with the device_id of its token.

    Args:
        opened: From `open_enrolments`.
        device_ids: One a message: the device_id of the token's row, or None where the token is unknown, expired, used
            for other keys, or its secret is another (`has_secret_of`).

    Returns:
        Why a message is refused, or None, one a message.

    Raises:
        BatchError: *device_ids* has another number of items than there were messages.

    Source: docs/protocol.md, step E3.
    """
    require_same_count("device_ids", len(device_ids), len(opened.claims))
    verdicts: list[Refusal | None] = [claim if isinstance(claim, Refusal) else None for claim in opened.claims]
    requests = _requests(opened)
    if not requests:
        return verdicts
    names = [device_ids[place] for place in opened.places]
    # Token, key and signature are all looked at whatever the first of them says: refusals take the same time (N5).
    key_statuses = kem.check_encapsulation_keys_many([request.encapsulation_key for request in requests])
    digests = transcript_var_many(
        [
            (
                th1,
                request.token_id,
                request.tenant_id,
                _UNKNOWN_NAME if name is None else encode_name(name),
                request.verification_key,
                request.encapsulation_key,
            )
            for th1, request, name in zip(split_rows(opened.th1, wire.HASH_BYTES), requests, names, strict=True)
        ]
    )
    signature_statuses = SIG44.verify_many(
        [request.verification_key for request in requests],
        split_rows(digests, wire.HASH_BYTES),
        opened.signatures,
        context=labels.CONTEXT_ENROL,
    )
    for place, name, key_status, signature_status in zip(
        opened.places, names, key_statuses, signature_statuses, strict=True
    ):
        if name is None:
            verdicts[place] = Refusal.TOKEN
        elif key_status != 0:
            verdicts[place] = Refusal.ENCAPSULATION_KEY
        elif signature_status != 0:
            verdicts[place] = Refusal.SIGNATURE
    return verdicts


def answer_enrolments(
    opened: OpenedEnrolments, key_versions: Sequence[int | Refusal], *, bucket_mark: int
) -> list[bytes | Refusal]:
    """
    Answer enrolments whose transaction has committed; each answer has a fresh ct_D.

    Args:
        opened: From `open_enrolments`; its owner wipes it.
        key_versions: One a message: the device's key_version, or why it is refused.
        bucket_mark: The server's bucket, which becomes the device's mark.

    Returns:
        ENROLLED (1598 bytes) or `Refusal` a message.

    Raises:
        BatchError: *key_versions* has another number of items than there were messages.

    Source: docs/protocol.md, step E3.
    """
    require_same_count("key_versions", len(key_versions), len(opened.claims))
    answers: list[bytes | Refusal] = [
        claim if isinstance(claim, Refusal) else _refusal_of(verdict)
        for claim, verdict in zip(opened.claims, key_versions, strict=True)
    ]
    keep = [row for row, place in enumerate(opened.places) if not isinstance(key_versions[place], Refusal)]
    if not keep:
        return answers
    all_requests, all_th1 = _requests(opened), split_rows(opened.th1, wire.HASH_BYTES)
    count = len(keep)
    th1 = b"".join([all_th1[row] for row in keep])
    encapsulated = kem.encapsulate_many([all_requests[row].encapsulation_key for row in keep])
    with encapsulated.shared_secrets as ss_d, gather_secret(opened.ck1, wire.SECRET_BYTES, keep) as ck1:
        inner = extract_many(count, rows(ck1, wire.SECRET_BYTES), rows(ss_d, kem.SS_BYTES))
    with (
        inner,
        expand_many(
            count,
            rows(inner, wire.SECRET_BYTES),
            labels.EXPAND_ENROLLED,
            (rows(th1, wire.HASH_BYTES),),
            wire.AEAD_KEY_BYTES,
        ) as keys,
    ):
        bound = transcript_many(count, rows(th1, wire.HASH_BYTES), rows(encapsulated.ciphertexts, kem.CT_BYTES))
        mark = wire.u64(bucket_mark)
        plaintexts = [wire.u32(_version_of(key_versions[opened.places[row]])) + mark for row in keep]
        sealed = seal_many(keys, NONCE_ZERO, plaintexts, rows(bound, wire.HASH_BYTES))
    ciphertexts = split_rows(encapsulated.ciphertexts, kem.CT_BYTES)
    for row, ciphertext, its_sealed, status in zip(keep, ciphertexts, sealed, encapsulated.status, strict=True):
        if status != 0:
            answers[opened.places[row]] = encapsulation_refusal(all_requests[row].encapsulation_key)
        else:
            answers[opened.places[row]] = b"".join((ENROLLED_HEAD, ciphertext, its_sealed))
    return answers


def enrol_th1_many(messages: bytes, body_hash_rows: bytes, *, count: int, stride: int) -> bytearray:
    """Return `H("QFX/1 enrol", suite, H(body_b), hdr)` of each ENROL, ``count × 64`` bytes (E2)."""
    return transcript_many(
        count,
        shared(labels.HASH_ENROL),
        shared(wire.SUITE_FIELD),
        rows(body_hash_rows, wire.HASH_BYTES),
        rows(messages, wire.ENROL_HEADER_BYTES, stride),
    )


def _check_head(message: bytes, keyring: Keyring, server_bucket: int) -> int | Refusal:
    if len(message) != wire.ENROL_BYTES:
        return Refusal.LENGTH
    if message[0] != wire.TYPE_ENROL:
        return Refusal.TYPE
    if message[1] != wire.VERSION:
        return Refusal.VERSION
    if message[:_BUCKET_AT] != ENROL_HEAD:
        return Refusal.SUITE
    bucket = int.from_bytes(message[_BUCKET_AT : wire.ENROL_CT_AT], "big")
    return bucket if is_open(keyring, bucket, server_bucket=server_bucket) else Refusal.BUCKET


def _open_rows(plaintexts: SecretBytes, ck1: SecretBytes, th1: bytearray, messages: Sequence[bytes]) -> list[int]:
    """Open every c1 into its row of *plaintexts*; return the rows that opened."""
    count = len(messages)
    opened: list[int] = []
    with expand_many(
        count, rows(ck1, wire.SECRET_BYTES), labels.EXPAND_ENROL, (rows(th1, wire.HASH_BYTES),), wire.AEAD_KEY_BYTES
    ) as keys:
        for row, message in enumerate(messages):
            aad = th1[row * wire.HASH_BYTES : (row + 1) * wire.HASH_BYTES]
            out = plaintexts.row(row, wire.ENROL_PLAINTEXT_BYTES)
            try:
                AeadKey(keys.row(row, wire.AEAD_KEY_BYTES)).open_into(
                    NONCE_ZERO, message[wire.ENROL_HEADER_BYTES :], aad, out
                )
            except AuthenticationError:
                continue
            opened.append(row)
    return opened


def _read_requests(plaintexts: SecretBytes, keep: Sequence[int], buckets: Sequence[int]) -> list[EnrolmentRequest]:
    views = [plaintexts.row(row, wire.ENROL_PLAINTEXT_BYTES) for row in keep]
    secret_hashes = split_rows(transcript_var_many([(view[SECRET_AT:VK_AT],) for view in views]), wire.HASH_BYTES)
    key_hashes = split_rows(
        transcript_var_many([(view[VK_AT:EK_AT], view[EK_AT:SIGNATURE_AT]) for view in views]), wire.HASH_BYTES
    )
    return [
        EnrolmentRequest(
            tenant_id=TenantId(bytes(view[:TOKEN_ID_AT])),
            token_id=TokenId(bytes(view[TOKEN_ID_AT:SECRET_AT])),
            secret_hash=bytes(secret_hash),
            verification_key=bytes(view[VK_AT:EK_AT]),
            encapsulation_key=bytes(view[EK_AT:SIGNATURE_AT]),
            key_hash=bytes(key_hash),
            bucket=bucket,
        )
        for view, secret_hash, key_hash, bucket in zip(views, secret_hashes, key_hashes, buckets, strict=True)
    ]


def _requests(opened: OpenedEnrolments) -> list[EnrolmentRequest]:
    claims = [opened.claims[place] for place in opened.places]
    return [claim for claim in claims if isinstance(claim, EnrolmentRequest)]


def _refusal_of(verdict: int | Refusal) -> Refusal:
    return verdict if isinstance(verdict, Refusal) else Refusal.INTERNAL  # stands until it is answered


def _version_of(verdict: int | Refusal) -> int:
    return 0 if isinstance(verdict, Refusal) else verdict
