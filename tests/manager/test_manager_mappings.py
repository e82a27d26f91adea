import pytest

from manager_world import TurnedClock
from qflare.device.key_mapping import DeviceKeyMapping
from qflare.errors import (
    AuthenticationError,
    KeyCheckError,
    KeyNotFoundError,
    KeyStateError,
    LengthError,
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
