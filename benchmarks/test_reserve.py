"""What was made ahead: latency with a warm reserve and with an empty one."""

from __future__ import annotations

import asyncio
import time

import pytest
from server import good

from qflare.clock import SystemClock
from qflare.manager.offload import Offload
from qflare.manager.reserve import Reserve
from qflare.manager.settings import ManagerSettings

NOTE = "the warm one was filled before, outside the figure"


@pytest.mark.parametrize("count", [1, 64])
def test_key_pairs(bench, count):
    """Both key pairs of a device, taken from the reserve instead of being made."""
    settings = ManagerSettings(reserve_keys_low=count, reserve_keys_high=count)
    offload = Offload(threads=settings.threads, jobs_max=settings.jobs_max)

    async def taken_s(reserve: Reserve) -> float:
        start = time.perf_counter()
        taken = await reserve.take(count)
        elapsed_s = time.perf_counter() - start
        for keys in taken:
            keys.wipe()
        return elapsed_s

    with asyncio.Runner() as runner:
        warm, empty = (Reserve(offload=offload, clock=SystemClock(), settings=settings) for _ in range(2))

        def one_round() -> tuple[float, float]:
            runner.run(warm.fill())
            return runner.run(taken_s(warm)), runner.run(taken_s(empty))

        bench.warm_up(one_round)
        rounds = bench.rounds_of(one_round)
        warm.close()
    offload.close()
    bench.faster_than(f"key pairs of {count} devices, warm reserve", rounds, "empty reserve", None, note=NOTE)


@pytest.mark.parametrize("count", [1, 64, 256])
def test_offers(bench, server, count):
    """Offers to the devices of a round, encapsulated ahead."""
    manager = server.manager

    def offered_s(devices) -> float:
        pairs = [(device.device_id, device.encapsulation_key) for device in devices]
        cost, offers = server.cost_of(manager.initiate_temporal_key_exchanges_many(pairs))
        good(offers)
        return cost.wall_s

    def one_round() -> tuple[float, float]:
        devices = server.take_devices(count)
        assert count == server.run(manager.prepare_offers([device.device_id for device in devices]))
        return offered_s(devices), offered_s(devices)

    bench.warm_up(one_round)
    rounds = bench.rounds_of(one_round)
    bench.faster_than(f"offers to {count} devices, encapsulated ahead", rounds, "encapsulated then", None, note=NOTE)
