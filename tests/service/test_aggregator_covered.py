"""What devices hear over HTTP while no head can be signed, and that they repeat until one can."""

import asyncio

from manager.test_manager_cover import without_marks
from manager.test_manager_enrolments import enrol
from manager_world import TurnedClock, engine_of
from qflare import AsyncDevice
from qflare.protocol.device_keys import DeviceKeys
from qflare.protocol.enrolment_device import accept_enrolled
from service.served import serving, url_of
from service.test_aggregator import Aggregator, aggregating, post


async def test_an_enrolment_that_no_head_covers_is_answered_when_it_is_repeated(database_dsn, tmp_path):
    """503 with a time to wait, as often as it is sent; the same bytes once a head can be signed: ENROLLED, one entry."""
    async with aggregating(database_dsn, tmp_path, changes={"clock": TurnedClock()}) as ((manager,), _, (client,)):
        text = await manager.issue_enrolment_token("joins")
        with DeviceKeys.generate() as keys:
            pending = await enrol(manager, text, "joins", keys)
            async with without_marks(manager, tmp_path):
                for _ in range(2):
                    answer = await post(client, "enrol", pending.message)
                    assert (503, "1") == (answer.status_code, answer.headers["retry-after"])
                    assert b"head" not in answer.content
            size = await manager.monitor.log_size()
            answer = await post(client, "enrol", pending.message)
            assert 200 == answer.status_code
            accept_enrolled(pending, answer.content, keys)
            assert size == await manager.monitor.log_size()


async def test_a_device_repeats_until_a_head_covers_it(database_dsn, tmp_path):
    """The device's own enrolment and rekey, begun while no head can be signed, end once one can."""
    async with aggregating(database_dsn, tmp_path) as ((manager,), _, _), serving(Aggregator(manager)) as server:
        failures = engine_of(manager).foundation.log.failures.counts
        text = await manager.issue_enrolment_token("joins")

        async def uncovered(call):
            failed = failures.total()
            async with without_marks(manager, tmp_path):
                task = asyncio.create_task(call)
                async with asyncio.timeout(60):
                    while failures.total() == failed and not task.done():
                        await asyncio.sleep(0.01)
                assert not task.done()
            return await task

        device = await uncovered(AsyncDevice.enrol(url_of(server), text, device_id="joins", state=tmp_path / "state"))
        async with device:
            await device.connect()
            assert 1 == (await uncovered(device.rekey())).epoch
