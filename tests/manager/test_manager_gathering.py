"""Look-ups and registrations of many concurrent callers travel together, and each ends by itself."""

import asyncio

import pytest

from manager_world import Edge, make_manager
from qflare.errors import AlreadyExistsError, KeyNotFoundError
from qflare.model.ids import SessionId
from qflare.primitives import kem
from qflare.primitives.sig import SIG44


async def test_concurrent_look_ups_are_one_batch(database, tmp_path):
    """Sixty-four callers that look for sessions at once cost two batches at most, and get what they asked for."""
    async with make_manager(database, tmp_path) as manager:
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        queue = (await manager._engine()).lookups.queue
        before = queue.batches
        found = await asyncio.gather(*(manager.find_session(sid) for _ in range(64)))
        assert {session.sid for session in found} == {sid}
        assert queue.batches - before <= 2


async def test_unknown_session_fails_alone(database, tmp_path):
    """A look-up of a session that does not exist fails by itself, whoever is in the same batch."""
    async with make_manager(database, tmp_path) as manager:
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        other = SessionId(bytes(16))
        good, bad = await asyncio.gather(manager.find_session(sid), manager.find_session(other), return_exceptions=True)
        assert good.sid == sid
        assert isinstance(bad, KeyNotFoundError)


async def test_foreign_session_stays_unknown_in_one_batch(database, tmp_path):
    """Two tenants in one batch of look-ups see their own sessions only."""
    async with make_manager(database, tmp_path) as manager:
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        other = manager.for_tenant(await manager.create_tenant("other"))
        good, bad = await asyncio.gather(manager.find_session(sid), other.find_session(sid), return_exceptions=True)
        assert good.sid == sid
        assert isinstance(bad, KeyNotFoundError)


async def test_concurrent_registrations_end_each_by_itself(database, tmp_path):
    """Of callers that register devices at once, the one with a taken name is refused and no other."""
    async with make_manager(database, tmp_path) as manager:
        keys = {
            "verification_key": SIG44.generate().verification_key,
            "encapsulation_key": kem.generate().encapsulation_key,
        }
        names = ["a", "b", "a", "c"]
        results = await asyncio.gather(
            *(manager.register_device(name, **keys) for name in names), return_exceptions=True
        )
        assert [getattr(result, "device_id", None) for result in results] == ["a", "b", None, "c"]
        assert isinstance(results[2], AlreadyExistsError)
        with pytest.raises(AlreadyExistsError):
            await manager.register_device("a", **keys)
