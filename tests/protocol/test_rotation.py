"""Rotation of a device's keys: the old key and the new one both say so, and nothing altered does (E4)."""

import dataclasses

import pytest
from parties import OTHER_TENANT, make_device, make_server
from tampering import batches, every_flip, every_truncation

from peer import enrol as peer
from qflare.errors import AuthenticationError, BatchError, UsageError
from qflare.model.refusal import Refusal
from qflare.protocol.credential import DeviceCredential
from qflare.protocol.device_keys import DeviceKeys
from qflare.protocol.rotation import Rotation, accept_rotated, check_rotations, encode_rotated, make_rotation


@pytest.fixture(scope="module")
def server():
    return make_server()


@pytest.fixture(scope="module")
def device(server):
    return make_device(server)


@pytest.fixture(scope="module")
def fresh():
    return DeviceKeys.generate()


@pytest.fixture(scope="module")
def body(device, fresh):
    return make_rotation(device, fresh)


def check(server, device, *bodies, row=None):
    credential = server.roster[device.tenant_id, device.ref] if row is None else row
    count = len(bodies)
    return check_rotations(bodies, server_id=server.server_id, refs=[device.ref] * count, devices=[credential] * count)


def test_a_rotation_is_accepted_and_answered(server, device, fresh, body):
    """The server learns version and keys; the device takes the answer for that version alone."""
    (rotation,) = check(server, device, body)
    assert rotation == Rotation(
        key_version=2,
        verification_key=fresh.verification_key,
        encapsulation_key=fresh.encapsulation_key,
        is_repeated=False,
    )
    answer = encode_rotated(2)
    assert (len(body), len(answer)) == (7725, 5)
    accept_rotated(answer, key_version=2)
    for bad in (*every_flip(answer), *every_truncation(answer)):
        with pytest.raises(AuthenticationError):
            accept_rotated(bad, key_version=2)
    with pytest.raises(AuthenticationError):
        accept_rotated(answer, key_version=3)


def test_the_peer_takes_the_same_body(server, device, fresh, body):
    """An independent implementation reads our ROTATE."""
    found = peer.take_rotate(
        body, server_id=server.server_id, ref=device.ref, key_version=1, vk=device.verification_key
    )
    assert found == (2, fresh.verification_key, fresh.encapsulation_key)


def test_every_truncation_and_every_flip_is_refused(server, device, body):
    """B2: both signatures cover server, device, version and both keys; no altered body is accepted."""
    for batch in batches((*every_truncation(body), *every_flip(body)).__iter__(), 2048):
        assert all(isinstance(result, Refusal) for result in check(server, device, *batch))


def test_the_same_body_again_is_a_repetition_and_another_is_refused(server, device, fresh, body):
    """After the commit the same keys are answered again; other keys for the taken version are not (E4)."""
    current = DeviceCredential(
        key_version=2,
        is_accepted=True,
        verification_key=fresh.verification_key,
        encapsulation_key=fresh.encapsulation_key,
    )
    (rotation,) = check(server, device, body, row=current)
    assert rotation.is_repeated
    other = make_rotation(device, DeviceKeys.generate())
    forged = body[:-1] + bytes((body[-1] ^ 1,))
    assert check(server, device, other, forged, row=current) == [Refusal.KEY_VERSION, Refusal.SIGNATURE]


def test_versions_follow_each_other(server, device, fresh):
    """A version left out or taken back is refused."""
    ahead = dataclasses.replace(device, key_version=2)
    assert check(server, device, make_rotation(ahead, fresh)) == [Refusal.KEY_VERSION]
    behind = dataclasses.replace(server.roster[device.tenant_id, device.ref], key_version=5)
    assert check(server, device, make_rotation(device, fresh), row=behind) == [Refusal.KEY_VERSION]
    with pytest.raises(UsageError):
        make_rotation(dataclasses.replace(device, key_version=2**32 - 1), fresh)


def test_a_rotation_is_for_one_device_and_one_server(server, device, body):
    """The same body in another device's session, or at another server, fails its signatures."""
    row = server.roster[device.tenant_id, device.ref]
    other = make_device(server, tenant_id=OTHER_TENANT)
    results = check_rotations([body], server_id=server.server_id, refs=[other.ref], devices=[row])
    assert results == [Refusal.SIGNATURE]
    assert check_rotations([body], server_id=bytes(32), refs=[device.ref], devices=[row]) == [Refusal.SIGNATURE]


def test_both_signatures_are_needed(server, device, fresh):
    """Without the old key nobody rotates, and without the new one nobody takes it over as his."""
    mallory = make_device(server, "mallory")
    thief = dataclasses.replace(device, signing_key=mallory.signing_key)
    assert check(server, device, make_rotation(thief, fresh)) == [Refusal.SIGNATURE]
    stolen = dataclasses.replace(fresh, signing_key=mallory.signing_key)
    assert check(server, device, make_rotation(device, stolen)) == [Refusal.SIGNATURE]


def test_revoked_unknown_and_malformed_rows_fail_alone(server, device, fresh, body):
    """A bad row at any place leaves its neighbours accepted."""
    row = server.roster[device.tenant_id, device.ref]
    revoked = dataclasses.replace(row, is_accepted=False)
    bad_ek = make_rotation(device, dataclasses.replace(fresh, encapsulation_key=b"\xff" * 1568))
    results = check_rotations(
        [body, body, body, b"", b"\4" + body[1:], bad_ek, body],
        server_id=server.server_id,
        refs=[device.ref] * 7,
        devices=[row, revoked, None, row, row, row, row],
    )
    assert [isinstance(result, Rotation) for result in results] == [True, *[False] * 5, True]
    assert results[1:6] == [
        Refusal.DEVICE_STATE,
        Refusal.UNKNOWN_DEVICE,
        Refusal.LENGTH,
        Refusal.TYPE,
        Refusal.ENCAPSULATION_KEY,
    ]
    assert check_rotations([], server_id=server.server_id, refs=[], devices=[]) == []
    with pytest.raises(BatchError):
        check_rotations([body], server_id=server.server_id, refs=[], devices=[row])
