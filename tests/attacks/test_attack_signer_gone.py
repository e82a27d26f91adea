"""While no head can be signed no change succeeds: it stands once, is answered when one can be, and no secret is lost."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from attacks.test_attack_rotation import control
from carried_device import CarriedDevice
from given_time import GivenTime
from manager.test_manager_calls import offline
from manager.test_manager_enrolments import enrol
from manager_world import Edge, TurnedClock, managers
from qflare.errors import AlreadyExistsError, QflareError, SignerUnavailableError, UncoveredError
from qflare.model.device import KeyState
from qflare.model.incident import IncidentState
from qflare.model.rotation import RotationPolicy
from qflare.protocol.device_keys import DeviceKeys
from qflare.protocol.enrolment_device import accept_enrolled
from qflare.protocol.identity import sign_certificate
from qflare.protocol.rotation import make_rotation
from qflare.service.key_manager import QuantumKeyManager
from qflare.service.security_monitor import SecurityMonitor
from qflare.stores.signer import SignerClient
from service.page_served import browsing, log_in, paging, sighted
from service.signers import short_folder, signer
from service.test_covered import BY_MANY, declared
from service.test_page_deciding import decided
from store_records import new_sighting

SIGNER_S = 30.0
"""For a slow machine; of a signer that is gone everybody hears at once."""
HANGS_S = 4.0
CALLERS = 16
BOUND_S = 30
"""Far above what a call may take: for one that waited for another's look, the signer's timeout for four questions."""
WHY = {"reason": "test"}
ACKNOWLEDGED = IncidentState.ACKNOWLEDGED


class World:
    """A manager whose log a process signs, which is killed and started again, and what the changes are about."""

    def __init__(self, place, manager, process, stack, clock):
        self.clock = clock
        self.folder, self.socket = place / "keys", place / "s"
        self.manager, self.monitor = manager, manager.monitor
        self.process = process
        self._stack = stack
        self.keys = DeviceKeys.generate()

    async def prepare(self):
        manager = self.manager
        names = ("revoked", "known", "away", "back", "psk", "due", "left", "cut", "shut", "put back", "two", "wanted")
        self.edges = {name: await Edge.provision(manager, name) for name in names}
        await manager.suspend_device("back", **WHY)
        self.left, self.cut = [(await self.edges[name].connect(manager)).sid for name in ("left", "cut")]
        await manager.issue_enrolment_token("token")
        (self.token,) = await manager.list_enrolment_tokens()
        for name in ("ann", "bob", "old"):
            await manager.add_operator(name)
        self.bucket = await manager.current_bucket()
        self.serial = (await manager.get_identity_report()).certificate.serial
        self.done = await manager.respond("quarantine", device_id="put back", by="ann", reason="x")
        self.proposed = await manager.respond("revoke", device_id="two", by="ann", reason="x")
        self.unwanted = await manager.respond("revoke", device_id="wanted", by="ann", reason="x")

        self.sighting = new_sighting()
        await sighted(manager, self.sighting)
        body = await manager.request_certificate(**WHY)
        with await manager.export_root() as root, offline(root) as root_sk:
            self.certificate = sign_certificate(root_sk, root.root_key, body).encoded
        self.plant = manager.for_tenant(await manager.create_tenant("another"))
        for name in ("ann", "bob"):
            await self.plant.add_operator(name)
        await self.plant.require_two_persons(by="ann")

    async def kill(self):
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def start(self):
        self.process = await self._stack.enter_async_context(signer(self.folder, self.socket))

    async def size(self):
        return await self.monitor.log_size()

    async def signed(self):
        client = SignerClient(str(self.socket), timeout_s=60.0)
        try:
            return (await client.last())[1].size
        finally:
            await client.close()

    async def failed(self):
        log = (await self.manager._engine()).foundation.log
        return sum(count for (step, _), count in log.failures.counts.items() if step == "sign")

    def register(self, call_id):
        return self.manager.register_device(
            "new",
            verification_key=self.keys.verification_key,
            encapsulation_key=self.keys.encapsulation_key,
            call_id=call_id,
        )


@asynccontextmanager
async def world(database_dsn, tmp_path, **changes):
    async with AsyncExitStack() as stack:
        place = stack.enter_context(short_folder())
        process = await stack.enter_async_context(signer(place / "keys", place / "s"))
        changes = {"signer_socket": str(place / "s"), "signer_timeout_s": SIGNER_S} | changes
        # The clock stands still: a bucket that begins meanwhile has entries of its own.
        clock = TurnedClock()
        (manager,) = await stack.enter_async_context(managers(database_dsn, tmp_path, clock=clock, **changes))
        its = World(place, manager, process, stack, clock)
        await its.prepare()
        yield its


CHANGES = {
    "revoke_device": (lambda w, c: w.manager.revoke_device("revoked", **WHY, call_id=c), 1),
    "compromise_device": (lambda w, c: w.manager.compromise_device("known", **WHY, call_id=c), 1),
    "suspend_device": (lambda w, c: w.manager.suspend_device("away", **WHY, call_id=c), 1),
    "resume_device": (lambda w, c: w.manager.resume_device("back", **WHY, call_id=c), 1),
    "set_device_psk": (lambda w, c: w.manager.set_device_psk("psk", b"\x07" * 64, call_id=c), 1),
    "register_device": (lambda w, c: w.register(c), 1),
    "create_tenant": (lambda w, c: w.manager.create_tenant("plant", call_id=c), 1),
    "revoke_enrolment_token": (
        lambda w, c: w.manager.revoke_enrolment_token(w.token.token_id, **WHY, call_id=c),
        1,
    ),
    "end_session": (lambda w, c: w.manager.end_session(w.left, call_id=c), 1),
    "revoke_session": (lambda w, c: w.manager.revoke_session(w.cut, **WHY, call_id=c), 1),
    "set_rotation_policy": (lambda w, c: w.manager.set_rotation_policy(RotationPolicy(max_records=5), call_id=c), 1),
    "request_device_rotation": (lambda w, c: w.manager.request_device_rotation("due", call_id=c), 1),
    "respond": (lambda w, c: w.manager.respond("quarantine", device_id="shut", by="ann", reason="x", call_id=c), 2),
    "confirm_response": (lambda w, _: w.manager.confirm_response(w.proposed.response_id, by="bob"), 2),
    "dismiss_response": (lambda w, _: w.manager.dismiss_response(w.unwanted.response_id, by="bob", reason="x"), 1),
    "undo_response": (lambda w, _: w.manager.undo_response(w.done.response_id, by="bob", reason="x"), 1),
    "revoke_operator": (lambda w, c: w.manager.revoke_operator("old", **WHY, call_id=c), 1),
    "move_incident": (lambda w, _: w.monitor.move_incident(w.sighting.incident_id, ACKNOWLEDGED, by="ann"), 1),
    "allow_one_person": (lambda w, _: w.plant.allow_one_person(by="ann"), 1),
    "import_certificate": (lambda w, _: w.manager.import_certificate(w.certificate), 1),
    "cleanup_expired_keys_and_sessions": (lambda w, _: w.manager.cleanup_expired_keys_and_sessions(), 0),
    "turn": (lambda w, _: w.manager.turn(), 0),
    "accept_clock_jump": (lambda w, _: w.manager.accept_clock_jump(w.bucket), 0),
    "remove_root": (lambda w, _: w.manager.remove_root(), 1),
    # After what would need two.
    "require_two_persons": (lambda w, _: w.manager.require_two_persons(by="ann"), 1),
    "erase_device_entries": (lambda w, _: w.monitor.erase_device_entries("psk"), 1),
}
"""By call: the change, and the entries that it writes."""
TOLD_ONCE = {
    "issue_enrolment_token": lambda w, c: w.manager.issue_enrolment_token("x", call_id=c),
    "issue_enrolment_tokens_many": lambda w, c: w.manager.issue_enrolment_tokens_many(["y", "z"], call_id=c),
    "generate_device_keypair": lambda w, c: w.manager.generate_device_keypair("g", call_id=c),
    "rotate_device_keys": lambda w, c: w.manager.rotate_device_keys("left", call_id=c),
    "add_operator": lambda w, _: w.manager.add_operator("joe"),
    "renew_operator": lambda w, _: w.manager.renew_operator("bob", **WHY),
    "export_root": lambda w, _: w.manager.export_root(),
    # Not told, but the signer itself makes their keys.
    "request_certificate": lambda w, c: w.manager.request_certificate(**WHY, call_id=c),
    "rotate_identity": lambda w, c: w.manager.rotate_identity(**WHY, call_id=c),
}
"""By call: a change of which nothing is done while no head can be signed."""


def test_every_declared_call_is_in_the_tables():
    """What a public call changes is tried with the signer gone."""
    names = {name for kind in (QuantumKeyManager, SecurityMonitor) for name in declared(kind)}
    by_single = {f"{name}s_many" for name in ("generate_device_keypair", "register_device")} | {
        "rotate_device_keys_many"
    }
    assert names - by_single | set(BY_MANY) == set(CHANGES) | set(TOLD_ONCE)


async def test_a_change_stands_once_and_is_answered_under_a_head(database_dsn, tmp_path):
    """Each changing call with the signer killed: no success, soon, counted once, done once; again with it: success."""
    async with world(database_dsn, tmp_path) as its:
        ids = {name: os.urandom(16) for name in (*TOLD_ONCE, *CHANGES)}
        await its.kill()
        for name, call in TOLD_ONCE.items():
            size, failed, given = await its.size(), await its.failed(), GivenTime()
            with pytest.raises(SignerUnavailableError) as ended:
                await call(its, ids[name])
            assert given.is_within(BOUND_S), name
            assert not isinstance(ended.value, UncoveredError), name
            # The signer is not asked for a head where it was asked for a key.
            asked = 0 if name in {"request_certificate", "rotate_identity"} else 1
            assert (size, failed + asked) == (await its.size(), await its.failed()), name
        for name, (call, entries) in CHANGES.items():
            size, failed, given = await its.size(), await its.failed(), GivenTime()
            with pytest.raises(UncoveredError, match=r"done and durable.*qflare signer.*look at what stands"):
                await call(its, ids[name])
            assert given.is_within(BOUND_S), name
            assert (size + entries, failed + 1) == (await its.size(), await its.failed()), name
            with pytest.raises(UncoveredError):
                await call(its, ids[name])
            assert (size + entries, failed + 2) == (await its.size(), await its.failed()), name
        assert KeyState.DEACTIVATED is (await its.manager.find_device("revoked")).state
        assert KeyState.SUSPENDED is (await its.manager.find_device("shut")).state
        assert KeyState.DEACTIVATED is (await its.manager.find_device("two")).state
        await its.start()
        size, failed = await its.size(), await its.failed()
        for name, (call, _) in CHANGES.items():
            await call(its, ids[name])
            assert size == await its.size() == await its.signed(), name
        for name, call in TOLD_ONCE.items():
            if name not in {"export_root", "rotate_identity"}:
                # Those need the root, which was removed above.
                await call(its, ids[name])
                assert await its.size() == await its.signed(), name
        assert failed == await its.failed()
        assert await its.size() == (await its.monitor.verify_log()).size


async def test_many_callers_share_a_look_and_a_failure(database_dsn, tmp_path):
    """Callers at once, with a signer that hangs: each gets an error soon; one failure is counted for each look."""
    names = [f"at once {number}" for number in range(CALLERS)]
    async with world(database_dsn, tmp_path, signer_timeout_s=HANGS_S) as its:
        await its.manager.generate_device_keypairs_many(names)
        log = (await its.manager._engine()).foundation.log
        looks, failed = log._cover._looks.batches, await its.failed()
        its.process.send_signal(signal.SIGSTOP)
        try:
            given = GivenTime()
            ended = await asyncio.gather(
                *(its.manager.suspend_device(name, **WHY) for name in names), return_exceptions=True
            )
            assert given.is_within(BOUND_S)
        finally:
            its.process.send_signal(signal.SIGCONT)
        assert [UncoveredError] * CALLERS == [type(each) for each in ended], ended
        tried = log._cover._looks.batches - looks
        assert tried == await its.failed() - failed
        assert 1 <= tried < CALLERS
        resumed = await asyncio.gather(*(its.manager.resume_device(name) for name in names))
        assert {KeyState.ACTIVE} == {each.state for each in resumed}
        assert await its.size() == await its.signed()


async def test_a_secret_that_may_not_be_told_is_lost_untold(database_dsn, tmp_path):
    """The signer answers and cannot sign: what is told once is made, its secret wiped; the error says what to do."""
    async with world(database_dsn, tmp_path) as its:
        call_id = os.urandom(16)
        away = its.folder.with_name("away")
        its.folder.rename(away)
        with pytest.raises(UncoveredError, match=r"told to nobody") as ended:
            await its.manager.issue_enrolment_token("x", call_id=call_id)
        assert "revoke the token" in str(ended.value)
        # From now on that is known before anything is made.
        size = await its.size()
        for call in TOLD_ONCE.values():
            with pytest.raises(QflareError):
                await call(its, os.urandom(16))
        assert size == await its.size()
        away.rename(its.folder)
        with pytest.raises(AlreadyExistsError, match="issue another under a new call_id"):
            await its.manager.issue_enrolment_token("x", call_id=call_id)
        assert await its.manager.issue_enrolment_token("x", call_id=os.urandom(16))


async def test_devices_hear_of_no_change_before_it_is_covered(database_dsn, tmp_path):
    """ENROL, ROTATE and REKEY with the signer killed: no answer, one entry; the same again with it back: an answer."""
    async with world(database_dsn, tmp_path) as its:
        manager, clock = its.manager, its.clock
        text = await manager.issue_enrolment_token("joins")
        device = await CarriedDevice.provision(manager, clock, tmp_path)
        await device.connect(manager)
        edge = its.edges["psk"]
        sid = (await edge.connect(manager)).sid
        with DeviceKeys.generate() as keys, DeviceKeys.generate() as fresh:
            pending = await enrol(manager, text, "joins", keys)
            rotation = make_rotation(edge.device, fresh)
            await its.kill()
            size, failed = await its.size(), await its.failed()
            for entries in (1, 1):
                with pytest.raises(UncoveredError):
                    await manager.answer_enrolment(pending.message)
                assert size + entries == await its.size()
            for _ in range(2):
                with pytest.raises(UncoveredError):
                    await control(manager, edge, sid, rotation)
                assert size + 2 == await its.size()
            assert failed + 4 == await its.failed()
            with pytest.raises(UncoveredError):
                await device.rekey(manager)
            assert size + 3 == await its.size()
            assert 0 == device.epoch
            await its.start()
            accept_enrolled(pending, await manager.answer_enrolment(pending.message), keys)
            assert await its.size() == await its.signed()
            assert await control(manager, edge, sid, rotation)
            assert 1 == (await device.rekey(manager)).epoch
            assert size + 3 == await its.size() == await its.signed()
            device.device.close()


async def test_the_page_says_that_it_is_done_and_not_covered(database_dsn, tmp_path):
    """What an operator decides on the page while no head can be signed is done once, and is not told as done."""
    async with world(database_dsn, tmp_path) as its, paging(its.manager) as url, browsing(url) as client:
        joe = await its.manager.add_operator("joe")
        await log_in(client, "joe", joe)
        await its.kill()
        answer = await decided(client, its.proposed, "confirm", joe)
        assert 503 == answer.status_code
        for said in ("It was done and stands", "no signed head", "There is nothing to decide about it."):
            assert said in answer.text
        assert KeyState.DEACTIVATED is (await its.manager.find_device("two")).state
        size = await its.size()
        await its.start()
        assert 303 == (await decided(client, its.proposed, "confirm", joe)).status_code
        assert size == await its.size() == await its.signed()


async def test_a_lost_signer_is_replaced(database_dsn, tmp_path):
    """With the folder of the signer gone for good a fresh one takes over by a rotation, which it covers itself."""
    async with world(database_dsn, tmp_path) as its:
        await its.kill()
        its.folder.rename(its.folder.with_name("lost"))
        await its.start()
        with pytest.raises(UncoveredError, match="does not hold that key"):
            await its.manager.suspend_device("away", **WHY, call_id=bytes(16))
        certificate = await its.manager.rotate_identity(reason="signer lost", is_compromised=True)
        assert certificate.serial == its.serial + 2
        assert await its.size() == await its.signed()
        size = await its.size()
        assert KeyState.SUSPENDED is (await its.manager.suspend_device("away", **WHY, call_id=bytes(16))).state
        assert size == await its.size() == (await its.monitor.verify_log()).size
