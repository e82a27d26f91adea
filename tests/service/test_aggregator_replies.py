"""Late replies through the Aggregator (PROTOCOL R6): an application asks and answers by what it returns."""

import pytest

from carried_device import CarriedDevice
from manager_world import TurnedClock, managers
from qflare.protocol.envelope import split_envelope
from qflare.protocol.record import KIND_REPLY, KIND_REQUEST
from qflare.service.aggregator.intake import ApplicationError, Intake, Reply


async def test_an_application_asks_and_answers_late(database_dsn, tmp_path):
    """R6: what `on_record` returns becomes a request or a late reply; both at once is the application's mistake."""
    clock = TurnedClock()
    async with managers(database_dsn, tmp_path, clock=clock) as (manager,):
        device = await CarriedDevice.provision(manager, clock, tmp_path)
        await device.connect(manager)
        answers, taken = [], []

        async def on_record(record, aad):
            with record:
                taken.append((record.header.kind, record.request_id, bytes(record.plaintext.view()), aad))
            return answers.pop(0)

        intake = Intake(manager, on_record=on_record, on_records=None, batch_max=8)

        async def send(record, answer):
            answers.append(answer)
            body = await intake.reply_to(await manager.open_record(record), b"")
            return split_envelope(body) if body else None

        request_id, record = device.device.seal_request(b"a model?")
        aad, request = await send(record, Reply(b"train first", aad=b"round 1", reply_lifetime=9))
        asked = device.device.open_request(request, aad=aad)
        assert (KIND_REQUEST, b"round 1") == (asked.kind, asked.aad)
        assert asked.plaintext.equals(b"train first")
        assert None is await send(device.device.seal_reply(asked.request_id, b"trained"), None)
        aad, late = await send(device.device.seal(b"now?"), Reply(b"the model", request_id=request_id))
        reply = device.device.open_reply(late, aad=aad)
        assert (KIND_REPLY, request_id) == (reply.kind, reply.request_id)
        assert reply.plaintext.equals(b"the model")
        assert [(3, request_id), (2, asked.request_id), (0, None)] == [it[:2] for it in taken]
        both = Reply(b"x", request_id=request_id, reply_lifetime=9)
        with pytest.raises(ApplicationError):
            await send(device.device.seal(b"wrong"), both)
        await intake.close(1.0)
        device.device.close()
