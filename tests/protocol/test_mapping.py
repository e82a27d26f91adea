"""Mappings: server and device derive alike, and only from what the pinned server key signed (K1 to K4)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tampering import every_flip, every_truncation

from peer import mapping as peer
from peer.notation import KemKey, SigKey
from qflare.errors import (
    AuthenticationError,
    BatchError,
    EntropyError,
    LengthError,
    RefusedError,
    StaleBucketError,
    UnsupportedAlgorithmError,
    UsageError,
)
from qflare.model.refusal import Refusal
from qflare.primitives import kem
from qflare.primitives.random import drawing_from, random_bytes
from qflare.primitives.sig import SIG44, SIG87
from qflare.protocol.mapping import STEPS_MAX, Mapping, MappingSigner, NewMapping, accept_mapping, create_mappings
from qflare.protocol.mapping_state import SEALED_MAPPING_BYTES, restore_mapping, seal_mapping
from qflare.secret import SecretBytes

REF = bytes(range(32))
BUCKET = 5_900_000


@pytest.fixture(scope="module")
def signer():
    return MappingSigner.generate()


@pytest.fixture(scope="module")
def pair():
    return kem.generate()


def create(signer, pair, *, held=None, bucket=BUCKET, ref=REF):
    (made,) = create_mappings(
        signer, [pair.encapsulation_key], refs=[ref], bucket=bucket, width_s=300, held=None if held is None else [held]
    )
    assert isinstance(made, NewMapping)
    return made


def accept(descriptor, signer, pair, **changes):
    arguments = {
        "ref": REF,
        "encapsulation_key": pair.encapsulation_key,
        "decapsulation_key": pair.decapsulation_key,
        "server_key": signer.verification_key,
    }
    return accept_mapping(descriptor, **{**arguments, **changes})


def key(mapping, purpose="model", bucket=BUCKET):
    with mapping.derive_key(purpose, bucket=bucket) as found:
        return bytes(found.view())


def test_both_sides_agree_in_every_bucket_and_purpose(signer, pair):
    """The same keys, all different, over many buckets, whichever side has turned how far."""
    made = create(signer, pair)
    theirs = accept(made.descriptor, signer, pair)
    assert len(made.descriptor) == 4126
    found = set()
    for bucket in (BUCKET, BUCKET + 1, BUCKET + 287, BUCKET + 288, BUCKET + 289, BUCKET + 1000):
        for purpose in ("model", "update"):
            found.add(key(made.mapping, purpose, bucket))
            assert key(theirs, purpose, bucket) == key(made.mapping, purpose, bucket)
        made.mapping.turn_to(bucket)
    assert len(found) == 12


def test_the_peer_agrees_on_both_sides():
    """An independent implementation takes our descriptor and makes one that we take."""
    kem_key, sig_key = KemKey(), SigKey()
    seed = SecretBytes.copy_of(kem_key.seed)
    mine = kem.generate_from_seed(seed)
    signer = MappingSigner.restore(SecretBytes.copy_of(sig_key.seed))
    made = create(signer, mine)
    theirs = peer.take_mapping(made.descriptor, kem=kem_key, ref=REF, server_vk=sig_key.vk)
    assert theirs.key(BUCKET + 300, "model") == key(made.mapping, bucket=BUCKET + 300)
    descriptor, other = peer.make_mapping(ek_d=kem_key.ek, ref=REF, server=sig_key, b=BUCKET)
    assert key(accept(descriptor, signer, mine), bucket=BUCKET + 2) == other.key(BUCKET + 2, "model")


def test_turning_erases_what_is_older_than_one_bucket(signer, pair):
    """After a turn, b and b-1 are derived and b-2 never again (R1)."""
    mapping = create(signer, pair).mapping
    first = key(mapping)
    old = mapping.chain_key
    mapping.turn_to(BUCKET)
    mapping.turn_to(BUCKET + 1)
    assert key(mapping) == first
    mapping.turn_to(BUCKET + 2)
    assert bytes(old.view()) == bytes(64)
    assert mapping.bucket == BUCKET + 1
    with pytest.raises(StaleBucketError):
        key(mapping)
    mapping.turn_to(BUCKET)
    assert mapping.bucket == BUCKET + 1


def test_buckets_outside_the_range_are_refused(signer, pair):
    """Before the descriptor's bucket, and more than 2^20 after it (K2)."""
    mapping = create(signer, pair).mapping
    for bucket in (BUCKET - 1, BUCKET + STEPS_MAX + 1, -1, 2**64):
        with pytest.raises(StaleBucketError):
            key(mapping, bucket=bucket)
    with pytest.raises(UsageError):
        key(mapping, "qfx.record")


def test_every_flipped_bit_and_truncation_of_a_descriptor_is_refused(signer, pair):
    """B2: all with one error."""
    descriptor = create(signer, pair).descriptor
    for altered in (*every_flip(descriptor), *every_truncation(descriptor)):
        with pytest.raises(AuthenticationError):
            accept(altered, signer, pair)


def test_descriptors_for_others_are_refused(signer, pair):
    """Another server key, another device, another ek: all refused, though each is honestly signed."""
    descriptor = create(signer, pair).descriptor
    other = kem.generate()
    with pytest.raises(AuthenticationError):
        accept(descriptor, MappingSigner.generate(), pair)
    with pytest.raises(AuthenticationError):
        accept(descriptor, signer, pair, ref=bytes(32))
    with pytest.raises(AuthenticationError):
        accept(descriptor, signer, other)
    crossed = accept(descriptor, signer, pair, decapsulation_key=other.decapsulation_key)
    assert key(crossed) != key(accept(descriptor, signer, pair))  # implicit rejection: other keys, no error


def test_generations_count_and_never_fall(signer, pair):
    """A rotation keeps the id, counts on, gives fresh keys; the device refuses to go back (K3)."""
    one = create(signer, pair)
    two = create(signer, pair, held=one.mapping)
    assert (one.mapping.generation, two.mapping.generation) == (1, 2)
    assert one.mapping.mapping_id == two.mapping.mapping_id
    assert key(one.mapping) != key(two.mapping)
    held = accept(two.descriptor, signer, pair, held=accept(one.descriptor, signer, pair))
    assert key(held) == key(two.mapping)
    with pytest.raises(RefusedError):
        accept(one.descriptor, signer, pair, held=held)
    assert key(accept(two.descriptor, signer, pair, held=held)) == key(held)
    unrelated = create(signer, pair)
    accept(unrelated.descriptor, signer, pair, held=held)


def test_a_kem_private_key_as_server_key_is_refused_with_the_remedy(pair):
    """K1: both forms of an ML-KEM private key, and an ML-DSA-87 key, are named for what they are."""
    for private in (pair.decapsulation_key, random_bytes(64)):
        with pytest.raises(UsageError, match=r"ML-KEM-1024.*generate_server_keypair"):
            MappingSigner.restore(private)
    with pytest.raises(UnsupportedAlgorithmError, match="generate_server_keypair"):
        MappingSigner.restore(SIG87.generate().signing_key)
    with pytest.raises(LengthError):
        MappingSigner.restore(b"short")


def test_a_signer_is_restored_from_seed_or_expanded_key(signer, pair):
    """Both forms sign what the pinned key verifies; an expanded key needs its own public key beside it."""
    made = SIG44.generate_from_seed(bytes(32))
    for restored in (
        MappingSigner.restore(bytes(32)),
        MappingSigner.restore(bytes(32), verification_key=made.verification_key),
        MappingSigner.restore(made.signing_key, verification_key=made.verification_key),
    ):
        assert restored.verification_key == made.verification_key
        with restored:
            accept(create(restored, pair).descriptor, restored, pair)
        assert bytes(restored.signing_key.view()) == bytes(SIG44.SK_BYTES)
    with pytest.raises(UsageError, match="public key"):
        MappingSigner.restore(made.signing_key)
    for private in (bytes(32), made.signing_key):
        with pytest.raises(UsageError, match="not one pair"):
            MappingSigner.restore(private, verification_key=signer.verification_key)


def test_batches_equal_single_and_bad_keys_fail_alone(signer):
    """Each device gets its own mapping; an ek out of range is refused in its row."""
    pairs = [kem.generate() for _ in range(4)]
    refs = [bytes((number,)) * 32 for number in range(5)]
    eks = [*(its.encapsulation_key for its in pairs[:2]), b"\xff" * 1568, *(its.encapsulation_key for its in pairs[2:])]
    made = create_mappings(signer, eks, refs=refs, bucket=BUCKET, width_s=60)
    assert made[2] is Refusal.ENCAPSULATION_KEY
    good = [(refs[place], made[place], its) for place, its in zip((0, 1, 3, 4), pairs, strict=True)]
    assert len({one.mapping.mapping_id for _, one, _ in good}) == 4
    for ref, one, its in good:
        assert key(accept(one.descriptor, signer, its, ref=ref)) == key(one.mapping)
    assert create_mappings(signer, [], refs=[], bucket=1, width_s=1) == []
    for arguments, error in (
        ({"held": [made[1].mapping] * 5}, UsageError),
        ({"refs": refs[:1]}, BatchError),
        ({"refs": [b"short"] * 5}, LengthError),
        ({"width_s": 0}, UsageError),
        ({"bucket": -1}, UsageError),
        ({"held": []}, BatchError),
    ):
        with pytest.raises(error):
            create_mappings(signer, eks, **{"refs": refs, "bucket": BUCKET, "width_s": 60, **arguments})


# --- at rest ----------------------------------------------------------------------------------------------------------


def test_a_sealed_mapping_comes_back_and_goes_on(signer, pair):
    """The restored side stands where the sealed one stood and derives the same."""
    master = SecretBytes(bytearray(random_bytes(32)))
    mapping = create(signer, pair).mapping
    mapping.turn_to(BUCKET + 5)
    sealed = seal_mapping(mapping, master)
    assert len(sealed) == SEALED_MAPPING_BYTES
    again = restore_mapping(sealed, master, mapping_id=mapping.mapping_id, generation=1)
    assert (again.bucket, again.first_bucket, again.width_s, again.ref) == (BUCKET + 4, BUCKET, 300, REF)
    assert key(again, bucket=BUCKET + 9) == key(mapping, bucket=BUCKET + 9)
    assert seal_mapping(mapping, master) != sealed


def test_sealed_mappings_cannot_be_altered_or_swapped(signer, pair):
    """Every flip and truncation, another id, generation or master key: refused."""
    master = SecretBytes(bytearray(random_bytes(40)))
    mapping = create(signer, pair).mapping
    sealed = seal_mapping(mapping, master)
    row = {"mapping_id": mapping.mapping_id, "generation": 1}
    for altered in (*every_flip(sealed), *every_truncation(sealed)):
        with pytest.raises(AuthenticationError):
            restore_mapping(altered, master, **row)
    for change in ({"mapping_id": bytes(16)}, {"generation": 2}, {"generation": 0}, {"generation": 2**32}):
        with pytest.raises(AuthenticationError):
            restore_mapping(sealed, master, **{**row, **change})
    with pytest.raises(AuthenticationError):
        restore_mapping(sealed, SecretBytes.zeros(40), **row)
    with pytest.raises(LengthError):
        seal_mapping(mapping, SecretBytes.zeros(31))
    with pytest.raises(LengthError):
        restore_mapping(sealed, SecretBytes.zeros(31), **row)


def test_the_master_key_enters_no_derived_key(signer, pair):
    """Two servers with different master keys and one descriptor derive the same communication keys."""
    made = create(signer, pair)
    expected = key(accept(made.descriptor, signer, pair))
    for byte in (b"\1", b"\2"):
        master = SecretBytes.copy_of(byte * 32)
        sealed = seal_mapping(made.mapping, master)
        again = restore_mapping(sealed, master, mapping_id=made.mapping.mapping_id, generation=1)
        assert key(again) == expected


def test_a_failing_random_source_makes_no_mapping(signer, pair):
    """The signature's randomness fails after the encapsulation's: that row is refused, nothing is half made."""
    arguments = {"refs": [REF], "bucket": BUCKET, "width_s": 300}
    with drawing_from(bytes(32 + 16)):
        assert create_mappings(signer, [pair.encapsulation_key], **arguments) == [Refusal.INTERNAL]
    with drawing_from(bytes(32)), pytest.raises(EntropyError):
        create_mappings(signer, [pair.encapsulation_key], **arguments)


def test_mappings_that_cannot_be_are_refused():
    """Sizes and numbers are checked, and repr shows no key."""
    good = {"mapping_id": bytes(16), "generation": 1, "first_bucket": 5, "width_s": 300, "ref": REF}
    with Mapping(SecretBytes.copy_of(b"\x77" * 64), **good) as mapping:
        assert "7777" not in repr(mapping)
    assert bytes(mapping.chain_key.view()) == bytes(64)
    for change in ({"mapping_id": b"x"}, {"ref": b"x"}):
        with pytest.raises(LengthError):
            Mapping(SecretBytes.zeros(64), **{**good, **change})
    for change in ({"generation": 0}, {"width_s": 0}, {"first_bucket": -1}, {"bucket": 4}, {"bucket": 2**64}):
        with pytest.raises(UsageError):
            Mapping(SecretBytes.zeros(64), **{**good, **change})
    with pytest.raises(LengthError):
        Mapping(SecretBytes.zeros(63), **good)


@given(st.binary(max_size=5000))
def test_the_descriptor_reader_is_total(data):
    """Any bytes give one error."""
    with pytest.raises(AuthenticationError):
        accept_mapping(
            data, ref=REF, encapsulation_key=bytes(1568), decapsulation_key=bytes(3168), server_key=bytes(1312)
        )
