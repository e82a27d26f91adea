"""Pre-shared keys of devices (H4): from when on a change of one holds, and where."""

import asyncio

import pytest

from manager_world import Edge, managers
from qflare.errors import AuthenticationError, RefusedError
from qflare.model.refusal import Refusal
from qflare.primitives.random import random_secret


def holder(edge, psk):
    """The same device, with another psk in its hands."""
    return Edge(edge.pair, psk=psk)


async def answered(edge, manager):
    """Say whether a device's ANSWER to an OFFER of *manager* makes a session."""
    pending = await edge.answer(manager)
    try:
        await manager.confirm(pending.message)
    except RefusedError as refused:
        if refused.reason is not Refusal.TAG:
            raise
        return False
    return True


@pytest.mark.parametrize("change", ["set", "removed"])
async def test_a_change_of_a_psk_holds_at_once_here_and_soon_elsewhere(database_dsn, tmp_path, change):
    """Hellos go by it at once on every worker, answers where it was made at once and elsewhere when news has come."""
    async with managers(database_dsn, tmp_path, 2) as (first, second):
        with random_secret(64) as before, random_secret(64) as after:
            old = await Edge.provision(first, psk=before)
            new = holder(old, after if change == "set" else None)
            for worker in (first, second):
                await old.connect(worker)
                assert await answered(old, worker)
            under_way = await old.hello(second)
            await first.set_device_psk(old.name, after if change == "set" else None)
            for worker in (first, second):
                with pytest.raises(AuthenticationError):
                    await old.hello(worker)
                await new.connect(worker)
            assert not await answered(old, first)
            assert await answered(new, first)
            async with asyncio.timeout(60):
                while not await answered(new, second):
                    await asyncio.sleep(0.02)
            assert not await answered(old, second)
            # What had its M2 before carries its keys in its ticket.
            await second.confirm(under_way.message)
