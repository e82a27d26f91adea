"""What honest devices do: they train, sleep, reboot, lose messages, drift and come in bursts."""

from contextlib import suppress

from manager_world import Edge
from qflare.device.transport import Step
from qflare.errors import QflareError, StoreUnavailableError
from qflare.testing import TurnableClock

from .recording import NAMES, device_of, new_device


async def work(stage, device, *, count=3, every_s=20):
    """Send some updates; who is refused connects again, as `docs/quickstart.md` says."""
    for _ in range(count):
        try:
            await device.exchange(b"update")
        except StoreUnavailableError:
            # Whether it arrived is not known: the same update in a record of its own.
            await device.exchange(b"update")
        except QflareError:
            await device.connect()
            await device.exchange(b"update")
        stage.clock.turn(every_s)


async def session(stage):
    """A handshake and a few updates."""
    device = await new_device(stage)
    yield
    await device.connect()
    await work(stage, device)


async def offered_session(stage):
    """The same, begun with an offer."""
    device = await new_device(stage)
    yield
    await device.connect("offer")
    await work(stage, device)


async def lost_m2(stage):
    """Two answers to the hello are lost: the same M1 comes three times."""
    device = await new_device(stage)
    device.link.lose = [Step.HELLO, Step.HELLO]
    yield
    await device.connect()
    await work(stage, device)


async def lost_every_m2(stage):
    """No answer to a hello arrives: the device gives up, and begins anew later."""
    device = await new_device(stage)
    device.link.lose = [Step.HELLO] * 4
    yield
    with suppress(QflareError):
        await device.connect(attempts=1)
    stage.clock.turn(60)
    await device.connect()
    await work(stage, device)


async def lost_m4(stage):
    """The confirmation is lost: the same M3 comes again."""
    device = await new_device(stage)
    device.link.lose = [Step.CONFIRM]
    yield
    await device.connect()
    await work(stage, device)


async def lost_answers_to_records(stage):
    """Answers to updates are lost: each update comes again in another record."""
    device = await new_device(stage)
    await device.connect()
    device.link.lose = [Step.RECORD]
    yield
    await work(stage, device, count=4)


async def doubled_by_the_network(stage):
    """A proxy delivers every message twice for a while."""
    device = await new_device(stage)
    yield
    await device.connect()
    device.link.repeat = 3
    await work(stage, device)


async def reboot(stage):
    """A device without a state file restarts in the middle and begins anew."""
    pair = await stage.manager.generate_device_keypair(next(NAMES))
    device = await device_of(stage, pair)
    await device.connect()
    yield
    await work(stage, device, count=1)
    again = await device_of(stage, pair)
    stage.clock.turn(30)
    await again.connect()
    await work(stage, again)


async def asleep_for_hours(stage):
    """A session is used again three hours later."""
    device = await new_device(stage)
    await device.connect()
    yield
    await work(stage, device, count=1)
    for _ in range(36):
        await stage.turn(300)
    await work(stage, device, count=2)


async def asleep_for_days(stage):
    """A session is used again after its end: refused, and begun anew."""
    device = await new_device(stage)
    await device.connect()
    for _ in range(60):
        await stage.turn(1800)
    yield
    await work(stage, device, count=2)


async def stale_announcement(stage):
    """A device falls asleep between announcement and hello."""
    device = await new_device(stage)
    device.link.wait = {Step.HELLO: 1200}
    yield
    await device.connect()
    await work(stage, device)


async def late_m3(stage):
    """A device falls asleep between M2 and M3: its ticket is over."""
    device = await new_device(stage)
    device.link.wait = {Step.CONFIRM: 700}
    yield
    await device.connect()
    await work(stage, device)


async def drifting_clock(stage):
    """A device whose own clock is a day ahead."""
    device = await new_device(stage, clock=TurnableClock(stage.clock.now_s() + 86_400))
    yield
    await device.connect()
    await work(stage, device)


async def burst(stage):
    """Forty updates at once."""
    device = await new_device(stage)
    yield
    await device.connect()
    await work(stage, device, count=40, every_s=0)
    stage.clock.turn(1)


async def care_of_keys(stage):
    """A rekey and a rotation of the device's keys."""
    device = await new_device(stage)
    await device.connect()
    yield
    await device.rekey()
    await work(stage, device, count=1)
    await device.rotate_keys()
    await work(stage, device, count=1)


async def overtaken(stage):
    """A record of the old session arrives after the first of the new one: two connections, one slow."""
    edge = await Edge.provision(stage.manager)
    old = (await edge.connect(stage.manager)).sid
    record = edge.seal(old, b"update")
    yield
    new = (await edge.connect(stage.manager)).sid
    for message in (edge.seal(new, b"update"), record, edge.seal(new, b"update")):
        (await stage.manager.open_record(message)).plaintext.wipe()
    stage.clock.turn(5)


async def another_answer_to_one_offer(stage):
    """Two answers to one offer, as a device gives that restarts between them: the second is refused."""
    edge = await Edge.provision(stage.manager)
    offer = (await stage.manager.initiate_temporal_key_exchange(edge.name, edge.pair.public_key)).offer
    answers = [(await edge.answer(stage.manager, offer)).message for _ in range(2)]
    yield
    await stage.manager.confirm(answers[0])
    with suppress(QflareError):
        await stage.manager.confirm(answers[1])
    stage.clock.turn(5)


EPISODES = (
    session,
    offered_session,
    lost_m2,
    lost_every_m2,
    lost_m4,
    lost_answers_to_records,
    doubled_by_the_network,
    reboot,
    asleep_for_hours,
    asleep_for_days,
    stale_announcement,
    late_m3,
    drifting_clock,
    burst,
    care_of_keys,
    overtaken,
    another_answer_to_one_offer,
)
