"""ROTATE abused: by another device, twice at once, after a revocation, with keys of somebody else (E4)."""

import asyncio

import pytest

from manager_world import Edge, managers
from qflare.errors import QflareError, RefusedError
from qflare.model.refusal import Refusal
from qflare.protocol.device_keys import DeviceKeys
from qflare.protocol.record import KIND_CONTROL, KIND_DATA
from qflare.protocol.rotation import make_rotation


async def control(manager, edge, sid, body, *, kind=KIND_CONTROL):
    with await manager.open_record(edge.seal(sid, body, kind=kind)) as opened:
        return await manager.answer_control(opened)


async def reason_of(call):
    with pytest.raises(RefusedError) as caught:
        await call
    return caught.value.reason


async def test_rotation_of_another_device_changes_nothing(database_dsn, tmp_path):
    """A ROTATE that another device made, cut, altered, or sent as data is refused; keys, version and session stand."""
    async with managers(database_dsn, tmp_path) as (manager,):
        mine, other = await Edge.provision(manager), await Edge.provision(manager)
        sid = (await mine.connect(manager)).sid
        before = [await manager.get_device_public_key(edge.name) for edge in (mine, other)]
        with DeviceKeys.generate() as keys:
            foreign, own = make_rotation(other.device, keys), make_rotation(mine.device, keys)
        for body in (
            foreign,
            own[:-1],
            own + b"x",
            own[:1],
            b"",
            b"\x01" + own[1:],
            own[:100] + b"\xff" * 16 + own[116:],
        ):
            await reason_of(control(manager, mine, sid, body))
        assert Refusal.UNEXPECTED == await reason_of(control(manager, mine, sid, own, kind=KIND_DATA))
        for edge, public in zip((mine, other), before, strict=True):
            assert public == await manager.get_device_public_key(edge.name)
        with await manager.open_record(mine.seal(sid, b"still here")):
            pass


async def test_rotations_at_once_make_one_version(database_dsn, tmp_path):
    """Two different ROTATEs in two sessions on two workers at once: one becomes current, the other is refused."""
    async with managers(database_dsn, tmp_path, 2) as (one, two):
        edge = await Edge.provision(one)
        sids = [(await edge.connect(one)).sid, (await edge.connect(two)).sid]
        with DeviceKeys.generate() as first, DeviceKeys.generate() as second:
            bodies = [make_rotation(edge.device, keys) for keys in (first, second)]
            public = [first.encapsulation_key, second.encapsulation_key]
        ended = await asyncio.gather(
            *(control(manager, edge, sid, body) for manager, sid, body in zip((one, two), sids, bodies, strict=True)),
            return_exceptions=True,
        )
        won = [place for place, end in enumerate(ended) if not isinstance(end, Exception)]
        assert 1 == len(won)
        assert isinstance(ended[1 - won[0]], RefusedError)
        now = await one.get_device_public_key(edge.name)
        assert (2, public[won[0]]) == (now.key_version, now.public_key)
        # The same body again is answered again, the other one never.
        assert await control(two, edge, sids[0], bodies[won[0]])
        await reason_of(control(two, edge, sids[0], bodies[1 - won[0]]))


async def test_rotation_that_a_revocation_overtakes_is_refused(database_dsn, tmp_path):
    """A ROTATE that was opened before its device was revoked changes nothing after it, and tells as a refusal."""
    async with managers(database_dsn, tmp_path, 2) as (one, two):
        for change in ("revoke_device", "suspend_device"):
            edge = await Edge.provision(one)
            sid = (await edge.connect(one)).sid
            with DeviceKeys.generate() as keys:
                body = make_rotation(edge.device, keys)
            with await one.open_record(edge.seal(sid, body, kind=KIND_CONTROL)) as opened:
                await getattr(two, change)(edge.name, reason="stolen")
                with pytest.raises(QflareError) as caught:
                    await one.answer_control(opened)
            assert isinstance(caught.value, RefusedError), repr(caught.value)
            assert 1 == (await one.get_device_public_key(edge.name)).key_version
