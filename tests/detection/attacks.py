"""What attackers do: one act each, against the real manager; who repeats it, how often, stands in `plans`."""

import os
from contextlib import suppress
from dataclasses import replace

from manager_world import Edge
from qflare.errors import QflareError
from qflare.model.observation import UPDATE, Observation
from qflare.primitives.random import drawing_from
from qflare.protocol.device_identity import DeviceIdentity
from qflare.protocol.device_keys import DeviceKeys
from qflare.protocol.enrolment_device import start_enrolment
from qflare.protocol.hello_device import start_hello
from qflare.protocol.token import decode_token, new_token


async def _try(awaitable):
    with suppress(QflareError):
        opened = await awaitable
        if hasattr(opened, "plaintext"):
            opened.plaintext.wipe()


async def forged_hello(stage):
    """A hello in a device's name, signed with another key."""
    victim, forger = await Edge.provision(stage.manager), await Edge.provision(stage.manager)
    announcement = await victim.announcement(stage.manager)
    yield
    device = replace(victim.device, signing_key=forger.device.signing_key)
    await _try(stage.manager.answer_hello(start_hello(device, announcement).message))


async def forged_record(stage):
    """A record under a device's session whose tag does not hold."""
    victim = await Edge.provision(stage.manager)
    sid = (await victim.connect(stage.manager)).sid
    record = bytearray(victim.seal(sid, b"update"))
    record[-1] ^= 1
    # So that its session is held here: who attacks has seen it at work.
    await _try(stage.manager.open_record(victim.seal(sid, b"update")))
    yield
    await _try(stage.manager.open_record(bytes(record)))


async def broken_hello(stage):
    """A hello with a flipped bit."""
    edge = await Edge.provision(stage.manager)
    message = bytearray(start_hello(edge.device, await edge.announcement(stage.manager)).message)
    message[-1] ^= 1
    yield
    await _try(stage.manager.answer_hello(bytes(message)))


async def bad_ticket(stage):
    """A last message with a ticket that somebody made up."""
    edge = await Edge.provision(stage.manager)
    message = bytearray((await edge.hello(stage.manager)).message)
    message[40] ^= 1
    yield
    await _try(stage.manager.confirm(bytes(message)))


async def replayed_hello(stage):
    """A hello that was answered three times, sent again."""
    edge = await Edge.provision(stage.manager)
    message = start_hello(edge.device, await edge.announcement(stage.manager)).message
    for _ in range(3):
        await stage.manager.answer_hello(message)
    yield
    await _try(stage.manager.answer_hello(message))


async def replayed_record(stage):
    """A record that was taken, sent again."""
    edge = await Edge.provision(stage.manager)
    record = edge.seal((await edge.connect(stage.manager)).sid, b"update")
    await _try(stage.manager.open_record(record))
    yield
    await _try(stage.manager.open_record(record))


async def old_hello(stage):
    """A hello of an hour ago, from a recording."""
    edge = await Edge.provision(stage.manager)
    message = start_hello(edge.device, await edge.announcement(stage.manager)).message
    for _ in range(12):
        await stage.turn(300)
    yield
    await _try(stage.manager.answer_hello(message))


async def clone(stage):
    """Two copies of a device, each with a session of its own, used in turn."""
    edge = await Edge.provision(stage.manager)
    copy = Edge(edge.pair)
    yield
    sids = [(each, (await each.connect(stage.manager)).sid) for each in (edge, copy)]
    for _ in range(3):
        for each, sid in sids:
            await _try(stage.manager.open_record(each.seal(sid, b"update")))
            stage.clock.turn(10)


async def old_keys(stage):
    """A copy of a device made before its keys were rotated, which tries its old ones."""
    edge = await Edge.provision(stage.manager)
    announcement = await edge.announcement(stage.manager)
    await stage.manager.rotate_device_keys(edge.name)
    yield
    await _try(stage.manager.answer_hello(start_hello(edge.device, announcement).message))


async def low_entropy(stage):
    """Two devices whose random source gives the same bytes: two records with one stream id."""
    edges = [await Edge.provision(stage.manager) for _ in range(2)]
    sids = [(await edge.connect(stage.manager)).sid for edge in edges]
    drawn = os.urandom(64)
    yield
    for edge, sid in zip(edges, sids, strict=True):
        with drawing_from(drawn):
            record = edge.seal(sid, b"update")
        await _try(stage.manager.open_record(record))


async def one_source(stage):
    """Two devices whose random source gives the same bytes: two hellos with one key and ciphertext, in one bucket."""
    edges = [await Edge.provision(stage.manager) for _ in range(2)]
    announcement = await edges[0].announcement(stage.manager)
    drawn = os.urandom(4096)
    yield
    for edge in edges:
        with drawing_from(drawn):
            message = start_hello(edge.device, announcement).message
        await _try(stage.manager.answer_hello(message))


async def same_seed_again(stage):
    """A device that is restored from a snapshot and draws the same ephemeral key in another bucket."""
    edge = await Edge.provision(stage.manager)
    drawn = os.urandom(4096)
    yield
    for _ in range(2):
        announcement = await edge.announcement(stage.manager)
        with drawing_from(drawn):
            message = start_hello(edge.device, announcement).message
        await _try(stage.manager.answer_hello(message))
        await stage.turn(300)


async def scan(stage):
    """A hello in the name of a device that does not exist."""
    edge = await Edge.provision(stage.manager)
    announcement = await edge.announcement(stage.manager)
    yield
    device: DeviceIdentity = replace(edge.device, ref=os.urandom(32))
    await _try(stage.manager.answer_hello(start_hello(device, announcement).message))


async def announcements_alone(stage):
    """An announcement fetched by somebody who never speaks."""
    yield
    await stage.manager.announcement("current")


async def half_open(stage):
    """A handshake that a device begins and does not finish."""
    edge = await Edge.provision(stage.manager)
    announcement = await edge.announcement(stage.manager)
    yield
    await _try(stage.manager.answer_hello(start_hello(edge.device, announcement).message))


async def guessed_token(stage):
    """An enrolment with a token that nobody issued."""
    edge = await Edge.provision(stage.manager)
    announcement = await edge.announcement(stage.manager)
    text = await stage.manager.issue_enrolment_token("somebody")
    with decode_token(text) as real:
        guessed = new_token(tenant_id=real.tenant_id, server_id=real.server_id)
    yield
    with guessed, DeviceKeys.generate() as keys:
        await _try(stage.manager.answer_enrolment(start_enrolment(guessed, "somebody", announcement, keys).message))


async def revoked_device(stage):
    """A device that was revoked, and tries on."""
    edge = await Edge.provision(stage.manager)
    announcement = await edge.announcement(stage.manager)
    await stage.manager.revoke_device(edge.name, reason="stolen")
    yield
    await _try(stage.manager.answer_hello(start_hello(edge.device, announcement).message))


async def poisoned_update(stage):
    """An update a hundred times as large as its device's, whose history is part of the act."""
    edge = await Edge.provision(stage.manager)
    yield
    observations = stage.manager._opening.value.foundation.refusals.observations
    for norm in (*[1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 1.0, 1.1, 0.9, 1.0], 100.0):
        observations.note([Observation(UPDATE, None, edge.device.tenant_id, edge.device.ref, value=norm)])


ACTS = (
    forged_hello,
    forged_record,
    broken_hello,
    bad_ticket,
    replayed_hello,
    replayed_record,
    old_hello,
    clone,
    old_keys,
    low_entropy,
    one_source,
    same_seed_again,
    scan,
    announcements_alone,
    half_open,
    guessed_token,
    revoked_device,
    poisoned_update,
)
