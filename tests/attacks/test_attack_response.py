"""Responses as a weapon: whoever has honest devices accused cannot have rules shut them out."""

import json
from dataclasses import replace
from os import urandom

import pytest

from manager_world import Edge, engine_of, managers
from qflare.errors import RefusedError
from qflare.model.device import KeyState
from qflare.model.ids import DEFAULT_TENANT
from qflare.model.response import ResponseState
from qflare.model.signal import Signal
from qflare.protocol.hello_device import start_hello
from qflare.protocol.record import new_header, seal_record
from qflare.protocol.wire import DIRECTION_TO_SERVER
from qflare.service.metrics.gathering import gather
from store_records import new_event, new_sighting

T = DEFAULT_TENANT
EAGER = """
version = 1
[bounds]
automatic_hour_max = {hour_max}
automatic_ppm = 200_000
[[rule]]
name = "shut-out-whoever-is-accused"
signal = "any"
severity = "debug"
proven_min = 1
action = "quarantine"
mode = "automatic"
why = "An operator who trusts the detector more than is good."
"""
"""The most eager playbook there can be: whatever is seen of a device has it quarantined, as far as the bounds let it."""


@pytest.fixture
def eager(tmp_path):
    path = tmp_path / "eager.toml"
    path.write_text(EAGER.format(hour_max=1000))
    return str(path)


async def refused(*awaitables):
    for awaitable in awaitables:
        with pytest.raises(RefusedError):
            await awaitable


async def respond(manager):
    """Report what is suspected, have the playbook respond, and return the incidents by (signal, device)."""
    await engine_of(manager).detection.settle()
    await engine_of(manager).responder.step(T)
    return {(each.signal, each.device_id): each for each in await manager.monitor.list_incidents()}


def seal_as(edge, sid, *, stream_id, plaintext=b"x"):
    """A record under a chosen stream id."""
    chain = edge.chain(sid)
    header = replace(new_header(sid=sid, bucket=chain.start, direction=DIRECTION_TO_SERVER), stream_id=stream_id)
    with chain.message_key(header.bucket, direction=header.direction, purpose=header.purpose) as key:
        return seal_record(key, header, plaintext, aad=b"")


async def test_forged_messages_shut_no_honest_device_out(database_dsn, tmp_path, eager):
    """Forged records, hellos and key versions, replays and held-back records name the victim, and it goes on working."""
    async with managers(database_dsn, tmp_path, detection=True, playbook=eager) as (manager,):
        victim, attacker = await Edge.provision(manager, "victim"), await Edge.provision(manager, "attacker")
        old = await victim.connect(manager)
        late = [victim.seal(old.sid, b"held back %d" % number) for number in range(8)]
        session = await victim.connect(manager)
        honest = [victim.seal(session.sid, b"update %d" % number) for number in range(14)]
        for record in honest:
            (await manager.open_record(record)).plaintext.wipe()
        # Records in the victim's session id: altered, and made up.
        for _ in range(8):
            tail = urandom(16)
            await refused(manager.open_record(victim.seal(session.sid, b"x")[:-16] + tail))
        # What the victim sent, sent again; and what it sent before, held back until now.
        await refused(*(manager.open_record(record) for record in honest))
        for record in late:
            (await manager.open_record(record)).plaintext.wipe()
        # Hellos in the victim's name: under another key, and of another key version, which is refused unread.
        announcement = await victim.announcement(manager)
        forged = replace(victim.device, signing_key=attacker.device.signing_key)
        for device in (forged, replace(forged, key_version=7)):
            await refused(*(manager.answer_hello(start_hello(device, announcement).message) for _ in range(8)))
        # The victim's own hellos, whose answers somebody drops.
        for _ in range(24):
            await manager.answer_hello(start_hello(victim.device, announcement).message)
        found = await respond(manager)
        accused = {signal for signal, device_id in found if device_id == "victim"}
        assert {Signal.FORGED_MESSAGES, Signal.REPLAYS, Signal.CLONE, Signal.HALF_OPEN} <= accused, (
            "nothing was attacked"
        )
        assert {"critical", "error"} & {found[signal, "victim"].severity.value for signal in accused}
        assert () == await manager.list_responses()
        assert KeyState.ACTIVE is (await manager.find_device("victim")).state
        (await manager.open_record(victim.seal(session.sid, b"still here"))).plaintext.wipe()
        await victim.connect(manager)


async def test_what_only_the_device_can_have_done_shuts_it_out(database_dsn, tmp_path, eager):
    """Under the same playbook a device that draws the same twice is quarantined, once, by whichever worker looks."""
    async with managers(database_dsn, tmp_path, 2, detection=True, playbook=eager) as (first, second):
        broken = await Edge.provision(first, "broken")
        stream_id = urandom(16)
        for _ in range(2):
            session = await broken.connect(first)
            (await first.open_record(seal_as(broken, session.sid, stream_id=stream_id))).plaintext.wipe()
        found = await respond(first)
        assert {"record drawn twice": 1} == json.loads(found[Signal.BROKEN_RANDOMNESS, "broken"].evidence)["seen"]
        await respond(second)
        await respond(first)
        (response,) = await first.list_responses()
        assert (ResponseState.APPLIED, 1, True) == (response.state, response.proven, response.is_automatic)
        assert KeyState.SUSPENDED is (await second.find_device("broken")).state
        with pytest.raises(RefusedError):
            await broken.connect(second)


async def test_a_pile_of_forgeries_on_one_proof_counts_for_nothing(database_dsn, tmp_path):
    """A rule that wants three proofs is not met by one and a thousand forgeries of the same signal."""
    path = tmp_path / "three.toml"
    path.write_text(EAGER.format(hour_max=1000).replace("proven_min = 1", "proven_min = 3"))
    async with managers(database_dsn, tmp_path, playbook=str(path)) as (manager,):
        edge = await Edge.provision(manager, "victim")
        seen = {"control conflict": 1, "hello key-version": 1000}
        await accuse(manager, edge, seen)
        assert 0 == await engine_of(manager).responder.step(T)
        assert KeyState.ACTIVE is (await manager.find_device("victim")).state


async def test_rules_shut_out_a_few_devices_and_then_ask_a_person(database_dsn, tmp_path):
    """Against an attack on many, keys and all, rules quarantine what they may; the rest waits, as a critical incident."""
    path = tmp_path / "few.toml"
    path.write_text(EAGER.format(hour_max=2))
    async with managers(database_dsn, tmp_path, playbook=str(path)) as (manager,):
        await manager.add_operator("ann")
        edges = [await Edge.provision(manager) for _ in range(12)]
        for edge in edges[:6]:
            await accuse(manager, edge, {"control conflict": 5})
        for _ in range(2):
            await engine_of(manager).responder.step(T)
        states = [(await manager.find_device(edge.name)).state for edge in edges]
        assert (2, 10) == (states.count(KeyState.SUSPENDED), states.count(KeyState.ACTIVE))
        waiting = await manager.list_responses(states=[ResponseState.PROPOSED])
        assert 4 == len(waiting)
        bounds = [each for each in await manager.monitor.list_incidents() if each.signal is Signal.RESPONSE_BOUND]
        assert [("critical", 4, None)] == [(each.severity.value, each.count, each.device_id) for each in bounds]
        # Told to whoever watches metrics, too.
        its = (await gather(engine_of(manager), timeout_s=60)).values
        assert {("quarantine",): (4.0,)} == its["qflare_responses_refused_total"]
        assert {("first",): (4.0,), ("second",): (0.0,)} == its["qflare_responses_waiting"]
        assert (1.0,) == its["qflare_incidents"]["critical", "open"]
        assert ((2.0,), (4.0,)) == tuple(
            its["qflare_responses"]["quarantine", each] for each in ("applied", "proposed")
        )
        done = await manager.confirm_response(waiting[0].response_id, by="ann")
        assert (ResponseState.APPLIED, "ann") == (done.state, done.first_by)


async def accuse(manager, edge, seen, *, tenant_id=T):
    """An incident of a device, as the detector would write it."""
    evidence = json.dumps({"score": 9, "seen": seen}).encode()
    sighting = new_sighting(Signal.CLONE, ref=edge.device.ref, device_id=edge.name, evidence=evidence)
    await engine_of(manager).foundation.store.report_incidents(
        tenant_id, [sighting], opened=[new_event()], raised=[new_event()], call_id=urandom(16)
    )
