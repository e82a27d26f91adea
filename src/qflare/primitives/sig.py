"""
ML-DSA-44 and ML-DSA-87 (FIPS 204): hedged, pure signatures with a context, one at a time and in batches.

`SIG44` and `SIG87` are the two schemes.  A batch's row that fails is all zero, has a status other than 0, and harms no
other row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from qflare._native import sig as native
from qflare._native.border import check
from qflare.errors import AuthenticationError, UnsupportedAlgorithmError
from qflare.primitives import engine as engines
from qflare.primitives.engine import Engine
from qflare.primitives.rows import as_buffer, as_rows, as_view, lent_rows, one_row
from qflare.primitives.stopwatch import begun, ended

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.primitives.rows import Readable, RowsLike
    from qflare.secret import SecretBytes

CONTEXT_MAX: Final = native.CONTEXT_MAX
"""Most bytes of a context (FIPS 204, section 5.2)."""


class SigKeyPair(NamedTuple):
    """A key pair: the verification key is public; the signing key is wiped by its holder."""

    verification_key: bytes
    signing_key: SecretBytes


class SigKeyPairs(NamedTuple):
    """n key pairs, row-major, and n status bytes (0 is good)."""

    verification_keys: bytearray
    signing_keys: SecretBytes
    status: bytes


class SignedMany(NamedTuple):
    """n signatures, row-major, and n status bytes (0 is good)."""

    signatures: bytearray
    status: bytes


@dataclass(frozen=True, slots=True)
class SignatureScheme:
    """One parameter set of ML-DSA and what can be done with it."""

    name: str
    parameter_set: int
    PK_BYTES: int
    SK_BYTES: int
    SIG_BYTES: int
    SEED_BYTES: int = native.SEED_BYTES

    def has_keys_from_seed(self) -> bool:
        """Say whether `generate_from_seed` works with the liboqs at hand (found out at load)."""
        return native.has_seeded_keys(self.parameter_set)

    def generate(self) -> SigKeyPair:
        """
        Generate a key pair.

        Raises:
            EntropyError: the system's random source failed.

        Source: FIPS 204, Algorithm 1.
        """
        pk, sk = native.keygen_one(self.parameter_set)
        return SigKeyPair(pk, sk)

    def generate_from_seed(self, seed: Readable) -> SigKeyPair:
        """
        Derive the key pair of *seed*, 32 bytes.

        Raises:
            LengthError: *seed* has another size.
            UnsupportedAlgorithmError: the liboqs at hand draws other bytes than the seed; store expanded keys then.

        Source: FIPS 204, Algorithm 6.
        """
        self._require_keys_from_seed()
        pk, sk, status = native.keygen_seeded_batch(self.parameter_set, one_row(seed, self.SEED_BYTES, name="seed"), 1)
        check(status[0], f"{self.name} key generation from a seed")
        return SigKeyPair(bytes(pk), sk)

    def generate_many(self, count: int) -> SigKeyPairs:
        """
        Generate *count* key pairs in one call, without the GIL.

        Raises:
            BatchError: *count* is not 0 to 65,536; nothing was allocated.
        """
        began_ns = begun()
        pk, sk, status = native.keygen_batch(self.parameter_set, count)
        ended("sig-generate", count, began_ns)
        return SigKeyPairs(pk, sk, status)

    def generate_from_seeds_many(self, seeds: RowsLike) -> SigKeyPairs:
        """
        Derive a key pair from each seed of 32 bytes.

        Raises:
            LengthError: *seeds* are no whole rows.
            BatchError: too many rows.
            UnsupportedAlgorithmError: as `generate_from_seed`.
        """
        self._require_keys_from_seed()
        with lent_rows(seeds, self.SEED_BYTES, name="seeds") as rows:
            pk, sk, status = native.keygen_seeded_batch(self.parameter_set, rows, len(rows) // self.SEED_BYTES)
        return SigKeyPairs(pk, sk, status)

    def sign(self, signing_key: Readable, message: Readable, *, context: bytes) -> bytes:
        """
        Sign *message*, hedged with fresh randomness.

        Args:
            signing_key: `SK_BYTES` bytes.
            message: Any length, 0 included.
            context: At most 255 bytes; says what the signature is for.

        Raises:
            LengthError: *signing_key* or *context* has the wrong size.
            EntropyError: the system's random source failed.

        Source: FIPS 204, Algorithm 2.
        """
        began_ns = begun()
        signature = native.sign_one(
            self.parameter_set, as_buffer(signing_key, name="signing key"), as_buffer(message, name="message"), context
        )
        ended("sig-sign", 1, began_ns)
        return signature

    def verify(
        self,
        verification_key: Readable,
        message: Readable,
        signature: Readable,
        *,
        context: bytes,
        engine: Engine | None = None,
    ) -> None:
        """
        Return if *signature* is one of *message* under *verification_key* and *context*.

        Args:
            verification_key: `PK_BYTES` bytes.
            message: Any length.
            signature: `SIG_BYTES` bytes.
            context: At most 255 bytes.
            engine: What computes; None for what the process chose.

        Raises:
            LengthError: *verification_key* or *context* has the wrong size.
            UsageError: *engine* is the lanes, and there are none for this scheme or processor.
            AuthenticationError: the signature does not verify, whatever is wrong with it, its size included.

        Source: FIPS 204, Algorithm 3.
        """
        # A signature comes from outside: a wrong size is an inauthentic one, not a caller's mistake.
        if not native.verify_one(
            self.parameter_set,
            as_buffer(verification_key, name="verification key"),
            as_buffer(message, name="message"),
            as_buffer(signature, name="signature"),
            context,
            is_in_lanes=self._is_in_lanes(engine),
        ):
            raise AuthenticationError

    def sign_many(self, signing_keys: RowsLike, messages: Sequence[Readable], *, context: bytes) -> SignedMany:
        """
        Sign each message, with its own key or all with one.

        Args:
            signing_keys: One row of `SK_BYTES` a message, or one row for all.
            messages: n buffers of any length.
            context: At most 255 bytes, the same for all.

        Raises:
            LengthError: *signing_keys* are no whole rows, or *context* is too long.
            BatchError: too many messages, or another number of keys.
        """
        views = [as_view(message, name="message") for message in messages]
        with lent_rows(signing_keys, self.SK_BYTES, name="signing keys") as sks:
            began_ns = begun()
            signatures, status = native.sign_batch(self.parameter_set, sks, views, context)
            ended("sig-sign", len(views), began_ns)
        return SignedMany(signatures, status)

    def verify_many(
        self,
        verification_keys: RowsLike,
        messages: Sequence[Readable],
        signatures: RowsLike,
        *,
        context: bytes,
        engine: Engine | None = None,
    ) -> bytes:
        """
        Verify a signature a message: a status byte a row, 0 for a good one.

        Args:
            verification_keys: One row of `PK_BYTES` a message, or one row for all.
            messages: n buffers of any length.
            signatures: n rows of `SIG_BYTES`.
            context: At most 255 bytes, the same for all.
            engine: What computes; None for what the process chose.

        Raises:
            LengthError: keys or signatures are no whole rows, or *context* is too long.
            BatchError: too many messages, or another number of keys or signatures.
            UsageError: *engine* is the lanes, and there are none for this scheme or processor.
        """
        views = [as_view(message, name="message") for message in messages]
        pks = as_rows(verification_keys, self.PK_BYTES, name="verification keys")
        rows = as_rows(signatures, self.SIG_BYTES, name="signatures", count=len(views))
        is_in_lanes = self._is_in_lanes(engine)
        began_ns = begun()
        status = native.verify_batch(self.parameter_set, pks, views, rows, context, is_in_lanes=is_in_lanes)
        ended("sig-verify", len(views), began_ns)
        return status

    def _is_in_lanes(self, engine: Engine | None) -> bool:
        """Say whether the lanes verify: if they are asked for, or were chosen and can."""
        if engine is not None:
            return engine is Engine.LANES
        return engines.engine() is Engine.LANES and self.parameter_set == 44 and native.lanes_items() > 0  # noqa: PLR2004

    def _require_keys_from_seed(self) -> None:
        if not self.has_keys_from_seed():
            reason = "the liboqs at hand does not draw a key's seed as its randomness; store expanded keys"
            name = f"{self.name} key from a seed"
            raise UnsupportedAlgorithmError(name, (f"{self.name} fresh key",), reason=reason)


SIG44: Final = SignatureScheme("ML-DSA-44", 44, *native.SIZES[44])
SIG87: Final = SignatureScheme("ML-DSA-87", 87, *native.SIZES[87])
