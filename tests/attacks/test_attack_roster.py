"""Probing the roster from outside: who exists, and who was there lately."""

import dataclasses
import os

import pytest

from manager_world import Edge, engine_of, managers
from qflare.errors import RefusedError
from qflare.protocol.hello_device import start_hello


async def test_hello_asks_the_database_whoever_it_names(database_dsn, tmp_path):
    """Known, unknown and revoked devices, lately seen or not, cost a hello the same look-ups: time tells nobody apart."""
    async with managers(database_dsn, tmp_path) as (manager,):
        known, revoked, prober = [await Edge.provision(manager) for _ in range(3)]
        await manager.revoke_device(revoked.name, reason="stolen")
        announcement = await known.announcement(manager)
        await known.connect(manager)
        store = engine_of(manager).credentials._store
        asked = []

        class Counting:
            def __getattr__(self, name):
                async def call(*args, **named):
                    asked.append(name)
                    return await getattr(store, name)(*args, **named)

                return call

        engine_of(manager).credentials._store = Counting()
        seen = []
        for ref in (known.device.ref, revoked.device.ref, os.urandom(32)):
            # Signed by a key that is not the device's: what a prober can make for any name.
            forged = dataclasses.replace(prober.device, ref=ref)
            for _ in range(3):
                await manager.offer_for(ref, tenant_id=forged.tenant_id)
                asked.clear()
                with pytest.raises(RefusedError):
                    await manager.answer_hello(start_hello(forged, announcement).message)
                seen.append(tuple(asked))
        assert {("find_devices",)} == set(seen)
