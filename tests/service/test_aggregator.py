"""Devices speak to an Aggregator over sockets, with a real database under it."""

import asyncio
import re
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest

from manager_world import Edge, make_manager, managers
from qflare.device import AsyncDevice, Device, HttpTransport, Step
from qflare.errors import ConfigError, RefusedError, StoreUnavailableError
from qflare.model.refusal import Refusal
from qflare.primitives import kem
from qflare.primitives.kdf import expand
from qflare.primitives.sig import SIG44
from qflare.protocol import labels, wire
from qflare.protocol.chain import SessionChain
from qflare.protocol.device_keys import DeviceKeys
from qflare.protocol.envelope import encode_envelope, split_envelope
from qflare.protocol.record import KIND_CONTROL, new_header, read_header, seal_record
from qflare.protocol.rotation import accept_rotated, make_rotation
from qflare.service.aggregator import Aggregator, AggregatorSettings, Reply
from service.processes import until
from service.served import serving, url_of

OCTETS = {"content-type": "application/octet-stream"}


async def echo(record, aad):
    """Answer with what came, and its associated data."""
    with record:
        return Reply(b"echo " + bytes(record.plaintext.view()), aad=b"re " + aad)


@asynccontextmanager
async def aggregating(dsn, folder, *, count=1, settings=None, changes=None, **handlers):
    """Yield managers, aggregators and clients of *count* workers over one database."""
    async with managers(dsn, folder, count, **(changes or {})) as opened:
        applications = [Aggregator(manager, settings=settings, **handlers) for manager in opened]
        async with AsyncExitStack() as stack:
            servers = [await stack.enter_async_context(serving(app)) for app in applications]
            clients = [
                await stack.enter_async_context(
                    httpx.AsyncClient(base_url=url_of(server), headers=OCTETS, trust_env=False, timeout=60)
                )
                for server in servers
            ]
            yield opened, applications, clients


async def post(client, step, body, **more):
    return await client.post(f"/v1/{step}", content=body, **more)


async def agreed(client, manager, edge):
    """Make a session over HTTP and return its sid."""
    pending = await edge.hello(manager)
    answer = await post(client, "confirm", pending.message)
    return edge.accept(pending, answer.content).sid


def shape(response):
    """Return everything about an answer that a peer can see, but for the time and the request's id, which is random."""
    seen = {name: value for name, value in response.headers.items() if name not in {"date", "x-request-id"}}
    return response.status_code, seen, response.content


REFUSAL = (
    403,
    {"content-type": "application/octet-stream", "cache-control": "no-store", "content-length": "16"},
    wire.REFUSED,
)


async def test_a_device_enrols_and_works_over_http(database_dsn, tmp_path):
    """A blocking device enrols, agrees in both forms, and exchanges records with a server over sockets."""
    async with aggregating(database_dsn, tmp_path, on_record=echo) as ((manager,), _, (client,)):
        token = await manager.issue_enrolment_token("pump 7")

        def work():
            with Device.enrol(str(client.base_url), token, device_id="pump 7", state=tmp_path / "state") as device:
                device.connect("hello")
                first = device.exchange(b"update", aad=b"round 1")
                device.connect("offer")
                second = device.exchange(b"other")
            with Device.open(tmp_path / "state", str(client.base_url)) as device:
                third = device.exchange(b"after a restart")
            return [(bytes(reply.plaintext.view()), reply.aad) for reply in (first, second, third)]

        replies = await asyncio.to_thread(work)
        assert [
            (b"echo update", b"re round 1"),
            (b"echo other", b"re "),
            (b"echo after a restart", b"re "),
        ] == replies
        assert not manager.refusals


async def test_an_asynchronous_device_does_the_same(database_dsn, tmp_path):
    """An asyncio device enrols, agrees in both forms, and exchanges records."""
    async with aggregating(database_dsn, tmp_path, on_record=echo) as ((manager,), _, (client,)):
        token = await manager.issue_enrolment_token("pump 8")
        device = await AsyncDevice.enrol(str(client.base_url), token, device_id="pump 8", state=tmp_path / "state")
        async with device:
            for form in ("hello", "offer"):
                await device.connect(form)
                reply = await device.exchange(form.encode(), aad=b"a")
                assert b"echo " + form.encode() == bytes(reply.plaintext.view())


async def test_a_record_without_a_reply_is_answered_empty(database_dsn, tmp_path):
    """An application that returns nothing gives an empty 200, and the device gets None."""
    seen = []

    async def keep(record, aad):
        seen.append((record.session.device_id, bytes(record.plaintext.view()), aad))

    async with aggregating(database_dsn, tmp_path, on_record=keep) as ((manager,), _, (client,)):
        edge = await Edge.provision(manager)
        sid = await agreed(client, manager, edge)
        answer = await post(client, "record", encode_envelope(b"x", edge.seal(sid, b"data", aad=b"x")))
        assert (200, b"") == (answer.status_code, answer.content)
        assert [(edge.name, b"data", b"x")] == seen


async def test_every_refusal_looks_the_same(database_dsn, tmp_path):
    """Whatever is wrong with a message, status, headers and bytes are the same; inside the reasons are exact."""
    async with aggregating(database_dsn, tmp_path, on_record=echo) as ((manager,), (app,), (client,)):
        edge = await Edge.provision(manager)
        sid = await agreed(client, manager, edge)
        record = edge.seal(sid, b"once")
        first = await post(client, "record", encode_envelope(b"", record))
        assert first.status_code == 200
        pending = await edge.hello(manager)
        stranger = await Edge.provision(manager)
        revoked = await stranger.hello(manager)
        await manager.revoke_device(stranger.name, reason="test")
        flipped = bytearray(pending.message)
        flipped[-1] ^= 1
        cases = {
            ("record", Refusal.REPLAY): ("record", encode_envelope(b"", record)),
            ("record", Refusal.TAG): ("record", encode_envelope(b"other", edge.seal(sid, b"x"))),
            ("record", Refusal.UNKNOWN_SESSION): (
                "record",
                encode_envelope(b"", record[:3] + bytes(16) + record[19:]),
            ),
            ("confirm", Refusal.TAG): ("confirm", bytes(flipped)),
            ("confirm", Refusal.TYPE): ("confirm", bytes(wire.M3_BYTES)),
            ("confirm", Refusal.DEVICE_STATE): ("confirm", revoked.message),
            ("hello", Refusal.LENGTH): ("hello", b"\x01\x01"),
            ("hello", Refusal.TYPE): ("hello", bytes(wire.M1_BYTES)),
            ("enrol", Refusal.LENGTH): ("enrol", b""),
        }
        for (step, reason), (path, body) in cases.items():
            before = manager.refusals[step, reason]
            answer = await post(client, path, body)
            assert shape(answer) == REFUSAL, (step, reason)
            assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"])
            assert manager.refusals[step, reason] == before + 1, (step, reason, manager.refusals)
        for path, body in (("offer", b"short"), ("record", b"no envelope")):
            assert shape(await post(client, path, body)) == REFUSAL
            assert app.http_refusals[path, "length"] == 1


async def test_captured_bytes_do_nothing_at_the_other_worker(database_dsn, tmp_path):
    """What one worker took, the other refuses or answers as it was answered."""
    async with aggregating(database_dsn, tmp_path, count=2, on_record=echo) as (opened, _, (one, other)):
        edge = await Edge.provision(opened[0])
        pending = await edge.hello(opened[0])
        done = await post(one, "confirm", pending.message)
        sid = edge.accept(pending, done.content).sid
        again = await post(other, "confirm", pending.message)
        assert again.status_code == 200
        assert done.content[: wire.M4_RECEIPT_AT] == again.content[: wire.M4_RECEIPT_AT]
        body = encode_envelope(b"", edge.seal(sid, b"once"))
        assert (await post(one, "record", body)).status_code == 200
        assert shape(await post(other, "record", body)) == REFUSAL
        assert shape(await post(one, "record", body)) == REFUSAL
        assert opened[1].refusals["record", Refusal.REPLAY] == 1


async def test_an_unknown_device_gets_an_offer_nobody_can_answer(database_dsn, tmp_path):
    """Asking for an offer tells nobody who is on the roster."""
    async with aggregating(database_dsn, tmp_path) as ((manager,), _, (client,)):
        edge = await Edge.provision(manager)
        known = await post(client, "offer", edge.device.ref + edge.device.tenant_id)
        unknown = await post(client, "offer", bytes(48))
        assert (200, wire.OFFER_BYTES) == (known.status_code, len(known.content))
        assert (200, wire.OFFER_BYTES) == (unknown.status_code, len(unknown.content))
        pending = await edge.answer(manager, known.content)
        done = await post(client, "confirm", pending.message)
        edge.accept(pending, done.content)


def glued(pending, plaintext):
    """Return M3 with a record behind it, sealed before M4 is known."""
    key = expand(pending.ck2, labels.EXPAND_CHAIN, pending.th3, wire.SECRET_BYTES)
    chain = SessionChain.begin(key, sid=pending.sid, start=pending.start, lifetime=pending.lifetime)
    header = new_header(sid=pending.sid, bucket=pending.start, direction=wire.DIRECTION_TO_SERVER)
    with chain.message_key(header.bucket, direction=header.direction, purpose=header.purpose) as key:
        return pending.message + seal_record(key, header, plaintext)


async def test_a_glued_record_is_answered_behind_m4(database_dsn, tmp_path):
    """M3 with a record glued to it gives M4 and the reply; repeated, M4 and a refusal of the record alone."""
    async with aggregating(database_dsn, tmp_path, on_record=echo) as ((manager,), _, (client,)):
        edge = await Edge.provision(manager)
        pending = await edge.hello(manager)
        message = glued(pending, b"early")
        answer = (await post(client, "confirm", message)).content
        size = wire.M4_BYTES_MIN + 32 * answer[wire.M4_RECEIPT_AT + 24]
        sid = edge.accept(pending, answer[:size]).sid
        aad, reply = split_envelope(answer[size:])
        with edge.open(sid, bytes(reply), read_header(reply), aad=aad) as plaintext:
            assert b"echo early" == bytes(plaintext.view())
        again = (await post(client, "confirm", message)).content
        assert answer[: wire.M4_RECEIPT_AT] == again[: wire.M4_RECEIPT_AT]
        assert again.endswith(wire.REFUSED)
        assert manager.refusals["record", Refusal.REPLAY] == 1


async def test_an_application_that_fails_says_nothing_outside(database_dsn, tmp_path, caplog):
    """An exception of the application is a bare 500 outside and a traceback inside; the record stays accepted."""

    async def fail(_record, _aad):
        raise ValueError("the application's secret")

    async with aggregating(database_dsn, tmp_path, on_record=fail) as ((manager,), _, (client,)):
        edge = await Edge.provision(manager)
        sid = await agreed(client, manager, edge)
        body = encode_envelope(b"", edge.seal(sid, b"x"))
        answer = await post(client, "record", body)
        its = answer.headers["x-request-id"]
        assert (500, f"internal error (request {its})\n") == (answer.status_code, answer.text)
        assert "the application's secret" in caplog.text
        assert shape(await post(client, "record", body)) == REFUSAL


@pytest.mark.parametrize("wrong", ["text", 5, Reply(b"", aad=bytes(2**14 + 1)), object()])
async def test_an_application_answers_bytes_a_reply_or_nothing(database_dsn, tmp_path, wrong):
    """Anything else is the application's mistake: 500 outside, said in the log."""

    async def answer(_record, _aad):
        return wrong

    async with aggregating(database_dsn, tmp_path, on_record=answer) as ((manager,), _, (client,)):
        edge = await Edge.provision(manager)
        sid = await agreed(client, manager, edge)
        assert (await post(client, "record", encode_envelope(b"", edge.seal(sid, b"x")))).status_code == 500


async def test_batches_reach_the_application_and_answers_their_senders(database_dsn, tmp_path):
    """Records that come while a batch is worked on make the next batch; each sender gets its own answer."""
    batches = []

    async def answer(items):
        batches.append(len(items))
        # No batch is answered before all have come: more than one waits, however slow the machine is.
        await until(lambda: sum(batches) + app._intake._batches.statistics.waiting == len(edges))
        return [bytes(record.plaintext.view()).upper() for record, _ in items]

    async with aggregating(database_dsn, tmp_path, on_records=answer) as ((manager,), (app,), (client,)):
        edges = [await Edge.provision(manager) for _ in range(12)]
        sids = [await agreed(client, manager, edge) for edge in edges]

        async def send(edge, sid, text):
            answer = await post(client, "record", encode_envelope(b"", edge.seal(sid, text)))
            aad, record = split_envelope(answer.content)
            with edge.open(sid, bytes(record), read_header(record), aad=aad) as plaintext:
                return bytes(plaintext.view())

        texts = [f"device {number}".encode() for number in range(12)]
        got = await asyncio.gather(*(send(*each) for each in zip(edges, sids, texts, strict=True)))
        assert [text.upper() for text in texts] == got
        assert sum(batches) == 12
        assert max(batches) > 1


async def test_a_batch_that_fails_fails_for_its_senders_alone(database_dsn, tmp_path):
    """A wrong number of answers is a 500 for that batch; the next one is served."""
    is_broken = True

    async def answer(items):
        return [] if is_broken else [None] * len(items)

    async with aggregating(database_dsn, tmp_path, on_records=answer) as ((manager,), _, (client,)):
        edge = await Edge.provision(manager)
        sid = await agreed(client, manager, edge)
        assert (await post(client, "record", encode_envelope(b"", edge.seal(sid, b"1")))).status_code == 500
        is_broken = False
        assert (await post(client, "record", encode_envelope(b"", edge.seal(sid, b"2")))).status_code == 200


async def test_a_device_rotates_its_keys_over_http(database_dsn, tmp_path):
    """A control record is answered by the manager, not by the application."""
    asked = []

    async def keep(record, _aad):
        asked.append(record)

    async with aggregating(database_dsn, tmp_path, on_record=keep) as ((manager,), _, (client,)):
        edge = await Edge.provision(manager)
        sid = await agreed(client, manager, edge)
        k, s = kem.generate(), SIG44.generate()
        keys = DeviceKeys(
            verification_key=s.verification_key,
            signing_key=s.signing_key,
            encapsulation_key=k.encapsulation_key,
            decapsulation_key=k.decapsulation_key,
        )
        body = make_rotation(edge.device, keys)
        sealed = edge.seal(sid, body, kind=KIND_CONTROL)
        answer = await post(client, "record", encode_envelope(b"", sealed))
        assert answer.status_code == 200
        aad, record = split_envelope(answer.content)
        with edge.open(sid, bytes(record), read_header(record), aad=aad) as plaintext:
            accept_rotated(bytes(plaintext.view()), key_version=2)
        assert asked == []


async def test_the_server_being_away_is_its_own_error():
    """A device that cannot reach the server says so, and which address it tried."""

    def work():
        transport = HttpTransport("http://127.0.0.1:9")
        try:
            transport.exchange(Step.IDENTITY, b"")
        finally:
            transport.close()

    with pytest.raises(StoreUnavailableError, match=re.escape("127.0.0.1:9")):
        await asyncio.to_thread(work)


async def test_a_used_token_is_refused(database_dsn, tmp_path):
    """A token enrols once; another device with it is refused and counted."""
    async with aggregating(database_dsn, tmp_path) as ((manager,), _, (client,)):
        token = await manager.issue_enrolment_token("twice")

        def enrol(name):
            with Device.enrol(str(client.base_url), token, device_id="twice", state=tmp_path / name):
                pass

        await asyncio.to_thread(enrol, "first")
        with pytest.raises(RefusedError):
            await asyncio.to_thread(enrol, "second")
        assert manager.refusals["enrol", Refusal.TOKEN] == 1


async def test_a_manager_opens_and_closes_with_the_lifespan(database_dsn, tmp_path):
    """Served by itself the application opens its manager at start-up and closes it at shutdown."""
    manager = make_manager(database_dsn, tmp_path)
    async with serving(Aggregator(manager), lifespan="on"):
        assert manager.is_open
    assert not manager.is_open


async def test_a_manager_of_the_caller_stays_open(database_dsn, tmp_path):
    """What was open before start-up is still open after shutdown."""
    async with managers(database_dsn, tmp_path) as (manager,):
        async with serving(Aggregator(manager), lifespan="on"):
            pass
        assert manager.is_open


async def test_shutdown_waits_for_what_was_accepted(database_dsn, tmp_path):
    """A record that the application works on at shutdown is still answered."""
    started = asyncio.Event()

    async def slow(_record, _aad):
        started.set()
        await asyncio.sleep(0.5)
        return b"done"

    async with managers(database_dsn, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        app = Aggregator(manager, on_record=slow)
        async with (
            serving(app) as server,
            httpx.AsyncClient(base_url=url_of(server), headers=OCTETS, timeout=60) as client,
        ):
            sid = await agreed(client, manager, edge)
            sending = asyncio.create_task(post(client, "record", encode_envelope(b"", edge.seal(sid, b"x"))))
            await started.wait()
            server.should_exit = True
            answer = await sending
        assert answer.status_code == 200
        assert answer.content


async def test_settings_out_of_range_are_refused():
    """A setting that cannot work is named."""
    for name, value in (("requests_max", 0), ("drain_s", 0), ("bodies_bytes_max", 5), ("retry_after_s", True)):
        with pytest.raises(ConfigError, match=name):
            AggregatorSettings(**{name: value})
