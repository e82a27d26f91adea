import pytest

from manager_world import TurnedClock
from qflare.device.key_mapping import DeviceKeyMapping
from qflare.errors import (
    AuthenticationError,
    DecodeError,
    KeyCheckError,
    KeyNotFoundError,
    KeyStateError,
    LengthError,
    QflareError,
    RefusedError,
    StaleBucketError,
    UsageError,
)
from qflare.manager.mappings import SecureKeyMapper
from qflare.primitives import kem
from qflare.primitives.random import random_secret

MASTER = bytes(range(32))


@pytest.fixture
def clock():
    return TurnedClock(5_900_000 * 300 + 5)


@pytest.fixture
def mapper(clock):
    with SecureKeyMapper(MASTER, clock=clock, valid_s=3600) as made:
        yield made


@pytest.fixture
def device():
    pair = kem.generate()
    yield pair
    pair.decapsulation_key.wipe()


def device_side(mapping, device, clock):
    return DeviceKeyMapping(
        mapping.descriptor,
        device_id=mapping.device_id,
        encapsulation_key=device.encapsulation_key,
        decapsulation_key=device.decapsulation_key,
        server_public_key=mapping.server_public_key,
        clock=clock,
    )


async def test_both_sides_derive_the_same(mapper, device, clock):
    """Server and device derive the same key for the same purpose and bucket, and others for others (K2)."""
    with await mapper.generate_server_keypair() as server:
        mapping = await mapper.create_key_mapping("edge-1", device.encapsulation_key, server.private_key)
    with device_side(mapping, device, clock) as theirs:
        assert (mapping.mapping_id, 1) == (theirs.mapping_id, theirs.generation)
        for _ in range(3):
            with (
                await mapper.derive_communication_key(mapping.mapping_id, "encryption") as one,
                theirs.derive_communication_key("encryption") as two,
                await mapper.derive_communication_key(mapping.mapping_id, "signing") as three,
            ):
                assert one.equals(two)
                assert not one.equals(three)
            clock.turn(300)
        with pytest.raises(StaleBucketError):
            await mapper.derive_communication_key(mapping.mapping_id, "encryption", bucket=mapping.bucket - 1)


async def test_rotation_is_followed_and_older_generations_are_refused(mapper, device, clock):
    """The next generation has the same id and other keys; the device takes it and goes back to no older one (K3)."""
    async with mapper:
        server = await mapper.generate_server_keypair()
        first = await mapper.create_key_mapping("edge-1", device.encapsulation_key, server)
        theirs = device_side(first, device, clock)
        with theirs.derive_communication_key("x") as before:
            second = await mapper.rotate_mapping_keys(first.mapping_id)
            assert (first.mapping_id, 2) == (second.mapping_id, second.generation)
            theirs.rotate(second.descriptor)
            with (
                await mapper.derive_communication_key(first.mapping_id, "x") as one,
                theirs.derive_communication_key("x") as two,
            ):
                assert one.equals(two)
                assert not one.equals(before)
        with pytest.raises(RefusedError):
            theirs.rotate(first.descriptor)
        other = await mapper.create_key_mapping("edge-1", device.encapsulation_key, server)
        with pytest.raises(UsageError):
            theirs.rotate(other.descriptor)
        theirs.wipe()


async def test_descriptor_is_verified(mapper, device, clock):
    """An altered descriptor, another device's and another server's are refused on the device, altered ones on the server."""
    server, other = await mapper.generate_server_keypair(), await mapper.generate_server_keypair()
    mapping = await mapper.create_key_mapping("edge-1", device.encapsulation_key, server)
    assert mapping == await mapper.verify_key_mapping(mapping.mapping_id, mapping.descriptor)
    altered = mapping.descriptor[:-1] + bytes((mapping.descriptor[-1] ^ 1,))
    with pytest.raises(AuthenticationError):
        await mapper.verify_key_mapping(mapping.mapping_id, altered)
    keys = {
        "encapsulation_key": device.encapsulation_key,
        "decapsulation_key": device.decapsulation_key,
        "clock": clock,
    }
    for descriptor, name, pinned in (
        (altered, "edge-1", server.public_key),
        (mapping.descriptor, "edge-2", server.public_key),
        (mapping.descriptor, "edge-1", other.public_key),
    ):
        with pytest.raises(AuthenticationError):
            DeviceKeyMapping(descriptor, device_id=name, server_public_key=pinned, **keys)


async def test_wrong_keys_are_refused_with_the_remedy(mapper, device):
    """A KEM private key cannot sign, a bad public key is no key, and each error says so before any work (K1)."""
    with pytest.raises(UsageError, match="generate_server_keypair"):
        await mapper.create_key_mapping("edge-1", device.encapsulation_key, device.decapsulation_key)
    server = await mapper.generate_server_keypair()
    with pytest.raises(LengthError):
        await mapper.create_key_mapping("edge-1", b"short", server)
    with pytest.raises(KeyCheckError):
        await mapper.create_key_mapping("edge-1", b"\xff" * kem.EK_BYTES, server)
    with pytest.raises(UsageError):
        await mapper.create_key_mapping("edge-1", "text", server)
    with pytest.raises(LengthError):
        SecureKeyMapper(b"short")
    results = await mapper.create_key_mappings_many(
        [("a", device.encapsulation_key), ("b", b"\xff" * kem.EK_BYTES), ("c", device.encapsulation_key)], server
    )
    assert isinstance(results[1], KeyCheckError)
    assert ["a", "c"] == [results[0].device_id, results[2].device_id]


async def test_mappings_expire_and_are_cleaned_up(mapper, device, clock):
    """After its life a mapping derives nothing and is removed."""
    server = await mapper.generate_server_keypair()
    old = await mapper.create_key_mapping("edge-1", device.encapsulation_key, server)
    clock.turn(3000)
    young = await mapper.create_key_mapping("edge-2", device.encapsulation_key, server)
    clock.turn(600)
    with pytest.raises(KeyNotFoundError):
        await mapper.derive_communication_key(old.mapping_id, "x")
    assert 1 == await mapper.cleanup_expired_mappings()
    assert 0 == await mapper.cleanup_expired_mappings()
    (await mapper.derive_communication_key(young.mapping_id, "x")).wipe()


async def test_closed_mapper_does_nothing(device):
    """After close every call is refused; the master key's owner keeps his own."""
    with random_secret(32) as master:
        mapper = SecureKeyMapper(master)
        server = await mapper.generate_server_keypair()
        mapping = await mapper.create_key_mapping("edge-1", device.encapsulation_key, server)
        mapper.close()
        with pytest.raises(KeyStateError):
            await mapper.derive_communication_key(mapping.mapping_id, "x")
        assert not master.equals(bytes(32))


async def test_batches_of_every_call(mapper, device):
    """Derive, rotate and verify take many; a bad item fails alone and the others are what single calls give (K2, K3)."""
    server = await mapper.generate_server_keypair()
    made = await mapper.create_key_mappings_many([(f"edge-{n}", device.encapsulation_key) for n in range(3)], server)
    ids = [mapping.mapping_id for mapping in made]
    absent = bytes(16)
    keys = await mapper.derive_communication_keys_many([(ids[0], "a"), (absent, "a"), (ids[1], "qfx.x"), (ids[2], "b")])
    assert [False, True, True, False] == [isinstance(key, QflareError) for key in keys]
    assert isinstance(keys[1], KeyNotFoundError)
    assert isinstance(keys[2], UsageError)
    with keys[0], keys[3], await mapper.derive_communication_key(ids[0], "a") as single:
        assert keys[0].equals(single)
    rotated = await mapper.rotate_mapping_keys_many([ids[0], absent, ids[2], ids[0]])
    assert (2, 2) == (rotated[0].generation, rotated[2].generation)
    assert isinstance(rotated[1], KeyNotFoundError)
    assert isinstance(rotated[3], UsageError)
    verified = await mapper.verify_key_mappings_many([*ids, absent])
    assert [2, 1, 2] == [mapping.generation for mapping in verified[:3]]
    assert isinstance(verified[3], KeyNotFoundError)


async def test_state_is_exported_and_restored(mapper, device, clock):
    """A new mapper with the master key goes on: same keys, next generations, same expiry; the state shows no secret."""
    server = await mapper.generate_server_keypair()
    one = await mapper.create_key_mapping("edge-1", device.encapsulation_key, server)
    clock.turn(1800)
    two = await mapper.create_key_mapping("edge-2\u00e9", device.encapsulation_key, server)
    theirs = device_side(one, device, clock)
    exported = await mapper.export_state()
    assert 1 == mapper.exports
    with server.private_key.view() as secret:
        assert bytes(secret[:32]) not in exported
    assert b"edge-1" not in exported
    with SecureKeyMapper(MASTER, clock=clock, valid_s=3600) as again, theirs:
        assert 2 == await again.restore_state(exported, at_least=mapper.exports)
        assert 1 == again.exports
        for mapping in (one, two):
            assert mapping == await again.verify_key_mapping(mapping.mapping_id)
        with (
            await again.derive_communication_key(one.mapping_id, "x") as ours,
            await mapper.derive_communication_key(one.mapping_id, "x") as before,
        ):
            assert ours.equals(before)
        # The signing key came along: the device follows the next generation without pinning anything new.
        theirs.rotate((await again.rotate_mapping_keys(one.mapping_id)).descriptor)
        with (
            await again.derive_communication_key(one.mapping_id, "x") as ours,
            theirs.derive_communication_key("x") as mine,
        ):
            assert ours.equals(mine)
        clock.turn(3599)
        assert 0 == await again.cleanup_expired_mappings()
        clock.turn(1)
        with pytest.raises(KeyNotFoundError):
            await again.derive_communication_key(two.mapping_id, "x")
        assert 2 == await again.cleanup_expired_mappings()


async def test_state_that_does_not_belong_is_refused(mapper, device, clock):
    """Wrong master key, cut, altered at any place, another tenant or width, a mapper in use: refused, and nothing taken."""
    server = await mapper.generate_server_keypair()
    mapping = await mapper.create_key_mapping("edge-1", device.encapsulation_key, server)
    exported = await mapper.export_state()
    with SecureKeyMapper(bytes(32), clock=clock) as other, pytest.raises(AuthenticationError):
        await other.restore_state(exported)
    for wrong in ({"width_s": 600}, {"tenant": bytes(range(16))}):
        other = SecureKeyMapper(MASTER, clock=clock, **wrong)
        with other, pytest.raises(UsageError, match="make the mapper with these"):
            await other.restore_state(exported)
    with SecureKeyMapper(MASTER, clock=clock) as fresh:
        for cut in (exported[:-1], exported + b"\0", exported[:120]):
            with pytest.raises(AuthenticationError):
                await fresh.restore_state(cut)
        for nothing in (b"", b"QFLARE-MAPPER\x01", b"x" * len(exported)):
            with pytest.raises(DecodeError, match="no state of a SecureKeyMapper"):
                await fresh.restore_state(nothing)
        for at in range(14, len(exported), 97):
            altered = bytearray(exported)
            altered[at] ^= 1
            with pytest.raises(AuthenticationError):
                await fresh.restore_state(bytes(altered))
        with pytest.raises(KeyNotFoundError):
            await fresh.derive_communication_key(mapping.mapping_id, "x")
        assert 1 == await fresh.restore_state(exported)
        with pytest.raises(KeyStateError, match="in use already"):
            await fresh.restore_state(exported)


async def test_rolled_back_state_is_told(mapper, device, clock):
    """An older export is refused by its number; without one the device refuses the generation it has left behind."""
    server = await mapper.generate_server_keypair()
    mapping = await mapper.create_key_mapping("edge-1", device.encapsulation_key, server)
    old = await mapper.export_state()
    with device_side(mapping, device, clock) as theirs:
        for _ in range(2):
            theirs.rotate((await mapper.rotate_mapping_keys(mapping.mapping_id)).descriptor)
        newest = await mapper.export_state()
        assert 2 == mapper.exports
        with SecureKeyMapper(MASTER, clock=clock) as again:
            with pytest.raises(KeyStateError, match="of export 1, export 2 was made since: it is rolled back"):
                await again.restore_state(old, at_least=2)
            assert 1 == await again.restore_state(old)
            stale = await again.rotate_mapping_keys(mapping.mapping_id)
            with pytest.raises(RefusedError, match="generation 2, 3 is held"):
                theirs.rotate(stale.descriptor)
            assert 3 == theirs.generation
        with SecureKeyMapper(MASTER, clock=clock) as again:
            await again.restore_state(newest, at_least=2)
            theirs.rotate((await again.rotate_mapping_keys(mapping.mapping_id)).descriptor)
            assert 4 == theirs.generation


async def test_cleanup_is_bounded_and_knows_rotations(mapper, device, clock):
    """One clean-up removes at most its limit; a mapping that was rotated lives from its rotation on."""
    server = await mapper.generate_server_keypair()
    made = await mapper.create_key_mappings_many([(f"edge-{n}", device.encapsulation_key) for n in range(5)], server)
    clock.turn(1800)
    await mapper.rotate_mapping_keys(made[0].mapping_id)
    clock.turn(1800)
    with pytest.raises(UsageError):
        await mapper.cleanup_expired_mappings(limit=0)
    assert [3, 1, 0] == [await mapper.cleanup_expired_mappings(limit=3) for _ in range(3)]
    assert 2 == (await mapper.verify_key_mapping(made[0].mapping_id)).generation


async def test_device_pins_another_server_key_when_it_is_told(mapper, device, clock):
    """A rotation under another signing key is refused until the device is given that key, and then followed."""
    first = await mapper.generate_server_keypair()
    second = await mapper.generate_server_keypair()
    mapping = await mapper.create_key_mapping("edge-1", device.encapsulation_key, first)
    with device_side(mapping, device, clock) as theirs:
        rotated = await mapper.rotate_mapping_keys(mapping.mapping_id, server_private_key=second)
        with pytest.raises(AuthenticationError):
            theirs.rotate(rotated.descriptor)
        theirs.rotate(rotated.descriptor, server_public_key=second.public_key)
        with pytest.raises(LengthError):
            theirs.rotate(rotated.descriptor, server_public_key=b"short")
        theirs.rotate((await mapper.rotate_mapping_keys(mapping.mapping_id)).descriptor)
        assert 3 == theirs.generation


async def test_everything_is_wiped_at_the_end(device, clock):
    """Closing wipes the master key's copy and every signing key, restored ones too."""
    mapper = SecureKeyMapper(MASTER, clock=clock)
    await mapper.create_key_mapping("edge-1", device.encapsulation_key, await mapper.generate_server_keypair())
    exported = await mapper.export_state()
    again = SecureKeyMapper(MASTER, clock=clock)
    await again.restore_state(exported)
    for each in (mapper, again):
        keys = [each._master_key, *(signer.signing_key for signer in each._signers.values())]
        assert 2 == len(keys)
        each.close()
        for key in keys:
            with key.view() as view:
                assert not any(view)
        with pytest.raises(KeyStateError, match="closed"):
            await each.export_state()
