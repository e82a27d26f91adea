"""
Mappings (K1 to K4): keys that a server and a device derive alike from one signed descriptor, without a handshake.

Both sides hold the same `Mapping`; only how they come to it differs.  What it gives and what not: docs/protocol.md, K4.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, final

from qflare.errors import (
    AuthenticationError,
    BatchError,
    LengthError,
    RefusedError,
    StaleBucketError,
    UnsupportedAlgorithmError,
    UsageError,
)
from qflare.model.ids import DeviceRef, MappingId
from qflare.model.refusal import Refusal
from qflare.primitives import kem
from qflare.primitives.columns import rows, shared
from qflare.primitives.hash import transcript, transcript_var_many
from qflare.primitives.kdf import CHAIN_STEPS_MAX, chain_advance, expand, expand_many, extract, extract_many
from qflare.primitives.random import random_bytes
from qflare.primitives.rows import as_view
from qflare.primitives.sig import SIG44, SIG87
from qflare.protocol import labels, wire
from qflare.protocol.bucket import encapsulation_refusal
from qflare.protocol.descriptor import Descriptor, key_hash, read_descriptor
from qflare.protocol.purpose import encode_purpose
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.primitives.rows import Readable

STEPS_MAX: Final = 1 << 20
"""Most buckets that one derivation goes forward (K2): ten years of 300 s."""

_TR_AT: Final = 64
_TR_BYTES: Final = 64
"""An expanded ML-DSA signing key carries SHAKE256(vk, 64) there (FIPS 204, Algorithm 24)."""
_KEM_PRIVATE_SIZES: Final = (kem.DK_BYTES, kem.SEED_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class MappingSigner:
    """The ML-DSA-44 pair that signs descriptors; it owns the signing key."""

    verification_key: bytes
    """`vk_S`, which devices pin."""
    signing_key: SecretBytes

    @classmethod
    def generate(cls) -> Self:
        """Generate a pair; `EntropyError` if the random source fails."""
        pair = SIG44.generate()
        return cls(verification_key=pair.verification_key, signing_key=pair.signing_key)

    @classmethod
    def restore(cls, private_key: Readable, *, verification_key: bytes | None = None) -> Self:
        """
        Take a private key as a caller has it: a seed of 32 bytes, or an expanded key of 2560 with its public one.

        Raises:
            UsageError: it is an ML-KEM private key, an ML-DSA-87 key, or another size; or the pair does not fit.
            UnsupportedAlgorithmError: a seed, and the liboqs at hand cannot expand it.
        """
        view = as_view(private_key, name="server_private_key")
        if len(view) == SIG44.SEED_BYTES:
            pair = SIG44.generate_from_seed(view)
            signer = cls(verification_key=pair.verification_key, signing_key=pair.signing_key)
            if verification_key is not None and verification_key != signer.verification_key:
                signer.wipe()
                message = "server_private_key and its public key are not one pair; give both of one pair"
                raise UsageError(message)
            return signer
        _refuse_other_key(len(view))
        if verification_key is None:
            message = (
                "an expanded ML-DSA-44 key does not show its public key: pass the pair from generate_server_keypair(), "
                "or its 32-byte seed"
            )
            raise UsageError(message)
        named = view[_TR_AT : _TR_AT + _TR_BYTES]
        if not hmac.compare_digest(named, hashlib.shake_256(verification_key).digest(_TR_BYTES)):
            message = "server_private_key and its public key are not one pair; give both of one pair"
            raise UsageError(message)
        return cls(verification_key=bytes(verification_key), signing_key=SecretBytes.copy_of(view))

    def wipe(self) -> None:
        """Destroy the signing key."""
        self.signing_key.wipe()

    def __enter__(self) -> Self:
        """Lend the signer to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the signing key at the end of the block."""
        self.wipe()


@final
class Mapping:
    """One side of a mapping: its terms, and the chain key of the oldest bucket that can still be derived."""

    __slots__ = ("_bucket", "_chain_key", "first_bucket", "generation", "mapping_id", "ref", "width_s")

    def __init__(
        self,
        chain_key: SecretBytes,
        *,
        mapping_id: MappingId,
        generation: int,
        first_bucket: int,
        width_s: int,
        ref: DeviceRef,
        bucket: int | None = None,
    ) -> None:
        """
        Take over *chain_key*, the one of *bucket* (of *first_bucket* if not given).

        Raises:
            LengthError: the key, the id or the ref has the wrong size.
            UsageError: a number is out of range.
        """
        for name, size, expected in (
            ("chain key", len(chain_key), wire.SECRET_BYTES),
            ("mapping_id", len(mapping_id), wire.MAPPING_ID_BYTES),
            ("ref", len(ref), wire.REF_BYTES),
        ):
            if size != expected:
                raise LengthError(name, expected=expected, actual=size)
        at = first_bucket if bucket is None else bucket
        require_mapping_terms(generation=generation, bucket=first_bucket, width_s=width_s)
        if not first_bucket <= at <= wire.U64_MAX:
            message = f"a mapping of bucket {first_bucket} cannot stand at bucket {at}"
            raise UsageError(message)
        self.mapping_id = mapping_id
        self.generation = generation
        self.first_bucket = first_bucket
        self.width_s = width_s
        self.ref = ref
        self._bucket = at
        self._chain_key = chain_key

    @property
    def bucket(self) -> int:
        """Return the lowest bucket whose keys can still be derived."""
        return self._bucket

    @property
    def chain_key(self) -> SecretBytes:
        """Return the chain key of `bucket`, which the mapping owns."""
        return self._chain_key

    def derive_key(self, purpose: str, *, bucket: int) -> SecretBytes:
        """
        Derive the communication key of *purpose* in *bucket*, 64 bytes; the caller wipes it.

        Args:
            purpose: ``[a-z0-9._-]{1,64}``, not beginning ``qfx.``.
            bucket: ``floor(time / width)``, from the mapping's own bucket on, at most 2^20 ahead.

        Raises:
            StaleBucketError: the bucket is before the mapping's, or more than 2^20 after it.
            UsageError: the purpose cannot be used.

        Source: docs/protocol.md, step K2.
        """
        encoded = encode_purpose(purpose)
        with self._chain_key_of(bucket) as key:
            return expand(key, labels.EXPAND_MAP_KEY, wire.u64(bucket) + encoded, wire.SECRET_BYTES)

    def turn_to(self, bucket: int) -> None:
        """
        Move on to *bucket*: keys of it and of the bucket before can still be derived, older ones never again (R1).

        Raises:
            StaleBucketError: the bucket is more than 2^20 after the mapping's.
        """
        oldest = bucket - 1
        if oldest <= self._bucket:
            return
        fresh = self._chain_key_of(oldest)
        self._chain_key.wipe()
        self._chain_key, self._bucket = fresh, oldest

    def wipe(self) -> None:
        """Destroy the chain key."""
        self._chain_key.wipe()

    def __enter__(self) -> Self:
        """Lend the mapping to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the chain key at the end of the block."""
        self.wipe()

    def __repr__(self) -> str:
        """Name the mapping, no key."""
        return f"<Mapping {self.mapping_id.hex()} generation {self.generation} at bucket {self._bucket}>"

    def _chain_key_of(self, bucket: int) -> SecretBytes:
        if not self._bucket <= bucket <= min(self._bucket + STEPS_MAX, wire.U64_MAX):
            message = (
                f"bucket {bucket} is outside {self._bucket} to {self._bucket + STEPS_MAX}: "
                "older keys are erased, and a later one needs a rotated mapping"
            )
            raise StaleBucketError(message)
        key, at = SecretBytes.copy_of(self._chain_key), self._bucket
        while at < bucket:
            step = min(bucket, at + CHAIN_STEPS_MAX)
            with key:
                key, at = chain_advance(key, self.mapping_id, at, step), step
        return key


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMapping:
    """What `create_mappings` makes for one device."""

    mapping: Mapping
    """The server's side; the caller owns and wipes it."""
    descriptor: bytes
    """What the device needs, 4126 bytes; public."""


def create_mappings(
    signer: MappingSigner,
    encapsulation_keys: Sequence[bytes],
    *,
    refs: Sequence[DeviceRef],
    bucket: int,
    width_s: int,
    held: Sequence[Mapping | None] | None = None,
) -> list[NewMapping | Refusal]:
    """
    Make a mapping with each device, or the next generation of one.

    Args:
        signer: Whose key the devices pin.
        encapsulation_keys: `ek_D` of each device, 1568 bytes.
        refs: Each device's ref.
        bucket: First bucket of the mappings.
        width_s: Seconds a bucket.
        held: Where a device has a mapping already: the result has its id and the next generation (K3).

    Returns:
        A mapping and its descriptor a device, or `Refusal.ENCAPSULATION_KEY`.

    Raises:
        BatchError: the arguments disagree about the number of devices.
        LengthError: a key or ref has the wrong size.
        UsageError: *bucket* or *width_s* is out of range, or a generation cannot grow.
        EntropyError: the random source failed.

    Source: docs/protocol.md, steps K1 and K3.
    """
    count = len(encapsulation_keys)
    earlier = [None] * count if held is None else list(held)
    if len(refs) != count or len(earlier) != count:
        message = f"a batch of {count} devices has {len(refs)} refs and {len(earlier)} held mappings"
        raise BatchError(message)
    generations = [1 if mapping is None else mapping.generation + 1 for mapping in earlier]
    for ref, mapping, generation in zip(refs, earlier, generations, strict=True):
        require_mapping_terms(generation=generation, bucket=bucket, width_s=width_s)
        if mapping is not None and mapping.ref != ref:
            message = f"mapping {mapping.mapping_id.hex()} is another device's: create a new one instead of rotating it"
            raise UsageError(message)
        if len(ref) != wire.REF_BYTES:
            name = "ref"
            raise LengthError(name, expected=wire.REF_BYTES, actual=len(ref))
    if count == 0:
        return []
    encapsulated = kem.encapsulate_many(encapsulation_keys)
    server_key_hash = key_hash(signer.verification_key)
    ids = random_bytes(count * wire.MAPPING_ID_BYTES)
    descriptors = [
        Descriptor(
            mapping_id=MappingId(ids[row * wire.MAPPING_ID_BYTES : (row + 1) * wire.MAPPING_ID_BYTES])
            if mapping is None
            else mapping.mapping_id,
            generation=generations[row],
            bucket=bucket,
            width_s=width_s,
            ref=refs[row],
            server_key_hash=server_key_hash,
            encapsulation_key_hash=key_hash(encapsulation_keys[row]),
            ciphertext=bytes(encapsulated.ciphertexts[row * kem.CT_BYTES : (row + 1) * kem.CT_BYTES]),
        )
        for row, mapping in enumerate(earlier)
    ]
    bodies = [descriptor.body() for descriptor in descriptors]
    hashes = transcript_var_many([(body,) for body in bodies])
    digests = [bytes(hashes[at : at + wire.HASH_BYTES]) for at in range(0, len(hashes), wire.HASH_BYTES)]
    signed = SIG44.sign_many(signer.signing_key, digests, context=labels.CONTEXT_MAPPING)
    with encapsulated.shared_secrets as secrets, _first_chain_keys(hashes, secrets, count) as chain_keys:
        results: list[NewMapping | Refusal] = []
        for row, descriptor in enumerate(descriptors):
            if encapsulated.status[row] != 0:
                results.append(encapsulation_refusal(encapsulation_keys[row]))
            elif signed.status[row] != 0:
                results.append(Refusal.INTERNAL)
            else:
                signature = signed.signatures[row * SIG44.SIG_BYTES : (row + 1) * SIG44.SIG_BYTES]
                mapping = _mapping_of(descriptor, chain_keys.take_row(row, wire.SECRET_BYTES))
                results.append(NewMapping(mapping=mapping, descriptor=bodies[row] + signature))
        return results


def accept_mapping(
    encoded: bytes,
    *,
    ref: DeviceRef,
    encapsulation_key: bytes,
    decapsulation_key: Readable,
    server_key: bytes,
    held: Mapping | None = None,
) -> Mapping:
    """
    Take a descriptor on the device's side; the caller owns the mapping.

    Args:
        encoded: The descriptor, 4126 bytes.
        ref: The device's own ref; its tenant is 16 zero bytes unless one was given.
        encapsulation_key: The device's `ek_D`.
        decapsulation_key: `dk_D`, 3168 bytes.
        server_key: `vk_S`, pinned out of band.
        held: The mapping of that id that the device has, if it has one.

    Raises:
        AuthenticationError: the descriptor is not this server key's for this device and key.
        RefusedError: it is, but of an older generation than the one held.

    Source: docs/protocol.md, step K1.
    """
    descriptor = read_descriptor(encoded, server_key=server_key)
    if descriptor.ref != ref or descriptor.encapsulation_key_hash != key_hash(encapsulation_key):
        raise AuthenticationError
    if held is not None and held.mapping_id == descriptor.mapping_id and descriptor.generation < held.generation:
        message = f"the descriptor is of generation {descriptor.generation}, {held.generation} is held"
        raise RefusedError(message)
    digest = transcript(descriptor.body())
    with kem.decapsulate(decapsulation_key, descriptor.ciphertext) as secret, extract(digest, secret) as key:
        chain_key = expand(key, labels.EXPAND_MAP, b"", wire.SECRET_BYTES)
    return _mapping_of(descriptor, chain_key)


def require_mapping_terms(*, generation: int, bucket: int, width_s: int) -> None:
    """
    Check the numbers of a mapping.

    Raises:
        UsageError: one is out of range.
    """
    if not 1 <= generation <= wire.U32_MAX or not 0 <= bucket <= wire.U64_MAX or not 1 <= width_s <= wire.U32_MAX:
        message = (
            f"a mapping has generations from 1 and a width from 1 s (32 bits), and buckets from 0 (64 bits); "
            f"got {generation}, {width_s} and {bucket}"
        )
        raise UsageError(message)


def _first_chain_keys(hashes: bytearray, secrets: SecretBytes, count: int) -> SecretBytes:
    # K1: CK_b = Expand(Extract(H(desc), ss), "map", "", 64), all rows in two calls.
    with extract_many(count, rows(hashes, wire.HASH_BYTES), rows(secrets, kem.SS_BYTES)) as keys:
        return expand_many(count, rows(keys, wire.SECRET_BYTES), labels.EXPAND_MAP, (shared(b""),), wire.SECRET_BYTES)


def _mapping_of(descriptor: Descriptor, chain_key: SecretBytes) -> Mapping:
    return Mapping(
        chain_key,
        mapping_id=descriptor.mapping_id,
        generation=descriptor.generation,
        first_bucket=descriptor.bucket,
        width_s=descriptor.width_s,
        ref=descriptor.ref,
    )


def _refuse_other_key(size: int) -> None:
    remedy = "use the ML-DSA-44 key from generate_server_keypair()"
    if size in _KEM_PRIVATE_SIZES:
        message = f"server_private_key is an ML-KEM-1024 private key of {size} bytes, which cannot sign: {remedy}"
        raise UsageError(message)
    if size == SIG87.SK_BYTES:
        name = SIG87.name
        raise UnsupportedAlgorithmError(name, (SIG44.name,), reason=f"descriptors are signed with it: {remedy}")
    if size != SIG44.SK_BYTES:
        name, expected = "server_private_key", f"{SIG44.SEED_BYTES} (a seed) or {SIG44.SK_BYTES} (ML-DSA-44)"
        raise LengthError(name, expected=expected, actual=size)
