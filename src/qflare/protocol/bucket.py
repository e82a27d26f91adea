"""The keys of one live bucket on the server's side, and decapsulation under them (A3, A4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeAlias

from qflare.errors import KeyCheckError, LengthError
from qflare.model.refusal import Refusal
from qflare.primitives import kem
from qflare.primitives.random import random_secret
from qflare.protocol.announcement import Announcement, sign_announcement, verify_announcement
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from qflare.protocol.identity import Certificate

TICKET_KEY_BYTES: Final = 32
"""TK_b."""
_NO_KEY: Final = bytes(TICKET_KEY_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketKeys:
    """`dk_b` and `TK_b` with the announcement of `ek_b`; wiped at the end of bucket b + 1 (A4)."""

    announcement: Announcement
    decapsulation_key: SecretBytes
    """`dk_b`, 3168 bytes."""
    ticket_key: SecretBytes
    """`TK_b`, 32 bytes."""

    @property
    def bucket(self) -> int:
        """Return the bucket's index."""
        return self.announcement.bucket

    @property
    def width_s(self) -> int:
        """Return the width in seconds."""
        return self.announcement.width_s

    def announced(self, announcement: Announcement) -> BucketKeys:
        """Return the same keys under an announcement that was signed again; the secrets are shared, not copied."""
        return BucketKeys(
            announcement=announcement, decapsulation_key=self.decapsulation_key, ticket_key=self.ticket_key
        )

    @property
    def is_destroyed(self) -> bool:
        """Return whether the keys were wiped; what is made or opened under wiped keys would be known to everybody."""
        return self.ticket_key.equals(_NO_KEY)

    def wipe(self) -> None:
        """Destroy both keys."""
        self.ticket_key.wipe()
        self.decapsulation_key.wipe()

    def __enter__(self) -> Self:
        """Lend the keys to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the keys at the end of the block."""
        self.wipe()


Keyring: TypeAlias = Mapping[int, BucketKeys]
"""The live buckets by index: b-1, b, and b+1 once it is published.  What is not in it is refused."""


class NewBucketKeys(NamedTuple):
    """A bucket's keys as they were made, and the seed that is stored sealed; the caller owns both."""

    keys: BucketKeys
    seed: SecretBytes
    """`d ‖ z` of ML-KEM-1024, 64 bytes."""


def make_bucket_keys(announce_sk: SecretBytes, *, server_id: bytes, width_s: int, bucket: int) -> NewBucketKeys:
    """
    Make a bucket's fresh keys and sign its announcement.

    Raises:
        EntropyError: the random source failed.
        LengthError: *server_id* is not 32 bytes.
        UsageError: *width_s* or *bucket* is out of range.

    Source: docs/protocol.md, steps A3 and A4.
    """
    seed = random_secret(kem.SEED_BYTES)
    ticket_key: SecretBytes | None = None
    pair: kem.KemKeyPair | None = None
    try:
        ticket_key = random_secret(TICKET_KEY_BYTES)
        pair = kem.generate_from_seed(seed)
        announcement = sign_announcement(
            announce_sk,
            server_id=server_id,
            width_s=width_s,
            bucket=bucket,
            encapsulation_key=pair.encapsulation_key,
        )
    except BaseException:
        seed.wipe()
        if ticket_key is not None:
            ticket_key.wipe()
        if pair is not None:
            pair.decapsulation_key.wipe()
        raise
    keys = BucketKeys(announcement=announcement, decapsulation_key=pair.decapsulation_key, ticket_key=ticket_key)
    return NewBucketKeys(keys=keys, seed=seed)


def restore_bucket_keys(
    announcement_encoded: bytes, certificate: Certificate, seed: SecretBytes, ticket_key: SecretBytes
) -> BucketKeys:
    """
    Rebuild a bucket's keys from what was stored; *seed* and *ticket_key* stay the caller's.

    Raises:
        AuthenticationError: the announcement is not under *certificate*.
        KeyCheckError: *seed* does not give the announced key.
        LengthError: *seed* is not 64 bytes or *ticket_key* not 32.
    """
    if len(ticket_key) != TICKET_KEY_BYTES:
        name = "ticket_key"
        raise LengthError(name, expected=TICKET_KEY_BYTES, actual=len(ticket_key))
    announcement = verify_announcement(announcement_encoded, certificate)
    pair = kem.generate_from_seed(seed)
    if pair.encapsulation_key != announcement.encapsulation_key:
        pair.decapsulation_key.wipe()
        message = f"the stored seed of bucket {announcement.bucket} does not give the key that was announced"
        raise KeyCheckError(message)
    return BucketKeys(
        announcement=announcement,
        decapsulation_key=pair.decapsulation_key,
        ticket_key=SecretBytes.copy_of(ticket_key),
    )


def decapsulate_by_bucket(keyring: Keyring, buckets: Sequence[int], ciphertexts: Sequence[bytes]) -> SecretBytes:
    """
    Decapsulate each ciphertext under its bucket's key, all of one bucket in one call.

    Args:
        keyring: Holds every bucket of *buckets*.
        buckets: One index a ciphertext.
        ciphertexts: 1568 bytes each.

    Returns:
        ``n × 32`` bytes, row-major, in the order given.  A wrong ciphertext is not an error: its row is pseudorandom
        (FIPS 203, implicit rejection), and the next tag fails.

    Source: docs/protocol.md, steps H3 and O3.
    """
    distinct = set(buckets)
    if len(distinct) == 1:
        return _decapsulate(keyring[buckets[0]], ciphertexts)
    secrets = SecretBytes.zeros(len(buckets) * kem.SS_BYTES)
    try:
        for bucket in distinct:
            places = [place for place, its_bucket in enumerate(buckets) if its_bucket == bucket]
            with _decapsulate(keyring[bucket], [ciphertexts[place] for place in places]) as found:
                for row, place in enumerate(places):
                    secrets.row(place, kem.SS_BYTES)[:] = found.row(row, kem.SS_BYTES)
    except BaseException:
        secrets.wipe()
        raise
    return secrets


def _decapsulate(keys: BucketKeys, ciphertexts: Sequence[bytes]) -> SecretBytes:
    # A copy, for C works without the GIL and a turn may wipe the key at any moment: half a key must not decide. The
    # copy is whole or zero, and zero fails the check of FIPS 203, section 7.3.
    with SecretBytes.copy_of(keys.decapsulation_key) as decapsulation_key:
        return kem.decapsulate_one_key(decapsulation_key, b"".join(ciphertexts))


def body_hashes(keyring: Keyring, buckets: Sequence[int]) -> bytes:
    """Return `H(body_b)` of each bucket, ``n × 64`` bytes."""
    return b"".join([keyring[bucket].announcement.body_hash for bucket in buckets])


def living(keyring: Keyring) -> dict[int, BucketKeys]:
    """Return the buckets of *keyring* whose keys were not wiped; the turn that wipes them may be under way."""
    return {bucket: keys for bucket, keys in keyring.items() if not keys.is_destroyed}


def is_open(keyring: Keyring, bucket: int, *, server_bucket: int) -> bool:
    """Return whether the server takes new messages under *bucket*: b-1, b, and b+1 once published (H3, R1)."""
    return bucket in keyring and abs(bucket - server_bucket) <= 1


def encapsulation_refusal(encapsulation_key: bytes) -> Refusal:
    """Return why encapsulation to a device's key failed: the key (FIPS 203, section 7.2), or ourselves."""
    status = kem.check_encapsulation_keys_many(encapsulation_key)[0]
    return Refusal.INTERNAL if status == 0 else Refusal.ENCAPSULATION_KEY
