"""Changes repeated by their callers, through connections that are cut (decision 0031)."""

import asyncio
from os import urandom

import pytest

from manager_world import Edge, TurnedClock, make_manager
from proxy import Point, proxied
from qflare.errors import (
    AlreadyExistsError,
    ConflictError,
    IllegalTransitionError,
    KeyNotFoundError,
    LengthError,
    UsageError,
)
from qflare.manager.device_keypair import DeviceKeypair
from qflare.model.device import KeyState
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.rotation import RotationPolicy
from qflare.model.token import TokenState
from qflare.primitives.sig import SIG87
from qflare.protocol.device_keys import DeviceKeys
from qflare.protocol.identity import sign_certificate
from qflare.secret import SecretBytes

EVENT = (SecurityEventType.OPERATOR_ACTION, EventSeverity.INFO)
# Clocks stand still here: a bucket that begins meanwhile has entries of its own in the log.


async def test_an_event_logged_again_is_the_same_entry_with_the_same_receipt(database, tmp_path):
    """Two calls with one call id give one entry and one receipt, which proves it; another event is refused."""
    async with make_manager(database, tmp_path, clock=TurnedClock()) as manager:
        monitor, call_id = manager.monitor, urandom(16)
        first, again, other = await asyncio.gather(
            monitor.log_security_event(*EVENT, {"n": 1}, call_id=call_id),
            monitor.log_security_event(*EVENT, {"n": 1}, call_id=call_id),
            monitor.log_security_event(*EVENT, {"n": 1}),
        )
        later = await monitor.log_security_event(*EVENT, {"n": 1}, call_id=call_id)
        assert 1 == len({(logged.index, logged.leaf_hash, logged.receipt) for logged in (first, again, later)})
        assert other.index != first.index
        for logged in (first, later):
            assert first.index == (await monitor.verify_event_integrity(logged)).index
        with pytest.raises(ConflictError, match="another event"):
            await monitor.log_security_event(*EVENT, {"n": 2}, call_id=call_id)


async def test_a_change_repeated_by_its_caller_is_done_once(database, tmp_path):
    """Suspensions, psks and ends of sessions with a call id are done once; without one the second is its own."""
    async with make_manager(database, tmp_path, clock=TurnedClock()) as manager:
        edge = await Edge.provision(manager)
        established = await edge.connect(manager)
        call_id = urandom(16)
        assert await manager.end_session(established.sid, call_id=call_id)
        assert await manager.end_session(established.sid, call_id=call_id)
        assert not await manager.end_session(established.sid)
        psk = urandom(64)
        size = (await manager.get_key_statistics()).log_size
        for _ in range(2):
            await manager.set_device_psk(edge.name, psk, call_id=call_id)
            device = await manager.suspend_device(edge.name, reason="x", call_id=call_id)
            assert KeyState.SUSPENDED is device.state
        assert size + 2 == (await manager.get_key_statistics()).log_size
        with pytest.raises(IllegalTransitionError):
            await manager.suspend_device(edge.name, reason="x", call_id=urandom(16))
        for bad, error in ((b"short", LengthError), ("text", UsageError)):
            with pytest.raises(error, match="call_id"):
                await manager.revoke_device(edge.name, reason="x", call_id=bad)


def offline(root):
    """Return the exported root's signing key, in whichever form it is kept."""
    if len(root.stored) == SIG87.SEED_BYTES:
        return SIG87.generate_from_seed(root.stored).signing_key
    return SecretBytes.copy_of(root.stored)


async def log_size(manager):
    return (await manager.get_key_statistics()).log_size


async def test_a_tenant_of_one_call_is_one_tenant(database, tmp_path):
    """Tenants made twice at once or later under one id are one, with one entry; under another name it is refused."""
    async with make_manager(database, tmp_path, clock=TurnedClock()) as manager:
        call_id, size = urandom(16), (await manager.monitor.checkpoint()).size
        first, again = await asyncio.gather(*(manager.create_tenant("a", call_id=call_id) for _ in range(2)))
        assert first == again == await manager.create_tenant("a", call_id=call_id)
        assert size + 1 == (await manager.monitor.checkpoint()).size
        for name, change in (("b", call_id), ("a", urandom(16)), ("a", None)):
            with pytest.raises(AlreadyExistsError):
                await manager.create_tenant(name, call_id=change)
        assert 2 == len(await manager.list_tenants())
        assert size + 1 == (await manager.monitor.checkpoint()).size


async def test_what_is_told_once_is_made_once(database, tmp_path):
    """A repeat of a call whose secret is told once makes nothing, and its error names what there is and what to do."""
    async with make_manager(database, tmp_path, clock=TurnedClock()) as manager:
        edge, other = await Edge.provision(manager), await Edge.provision(manager)
        call_id, size = urandom(16), await log_size(manager)
        ends = await asyncio.gather(
            *(manager.issue_enrolment_token("d", call_id=call_id) for _ in range(2)), return_exceptions=True
        )
        assert {str, AlreadyExistsError} == {type(end) for end in ends}
        (token,) = await manager.list_enrolment_tokens()
        for name in ("d", "e"):
            with pytest.raises(AlreadyExistsError, match=f"{token.token_id.hex()}.*revoke it"):
                await manager.issue_enrolment_token(name, call_id=call_id)
        assert size + 1 == await log_size(manager)
        ends = await asyncio.gather(
            *(manager.rotate_device_keys(edge.name, call_id=call_id) for _ in range(2)), return_exceptions=True
        )
        assert {DeviceKeypair, AlreadyExistsError} == {type(end) for end in ends}
        with pytest.raises(AlreadyExistsError, match=r"version 2 .* rotate again"):
            await manager.rotate_device_keys(edge.name, call_id=call_id)
        assert size + 2 == await log_size(manager)
        repeated, fresh = await manager.rotate_device_keys_many([edge.name, other.name], call_id=call_id)
        assert isinstance(repeated, AlreadyExistsError)
        assert 2 == fresh.key_version
        assert 3 == (await manager.rotate_device_keys(edge.name, call_id=urandom(16))).key_version
        for bad, error in ((b"short", LengthError), ("text", UsageError)):
            for call in (
                manager.create_tenant,
                manager.issue_enrolment_token,
                manager.rotate_device_keys,
                manager.generate_device_keypair,
                manager.request_device_rotation,
            ):
                with pytest.raises(error, match="call_id"):
                    await call(edge.name, call_id=bad)


async def test_a_registration_is_repeated_under_its_id_alone(database, tmp_path):
    """The same keys under the same id are the device that stands; other keys, no id or another one are refused."""
    async with make_manager(database, tmp_path, clock=TurnedClock()) as manager:
        keys, others, call_id = DeviceKeys.generate(), DeviceKeys.generate(), urandom(16)

        def register(name, made, change):
            return manager.register_device(
                name, verification_key=made.verification_key, encapsulation_key=made.encapsulation_key, call_id=change
            )

        size = await log_size(manager)
        first, again = await asyncio.gather(*(register("a", keys, call_id) for _ in range(2)))
        assert first == again == await register("a", keys, call_id)
        assert size + 1 == await log_size(manager)
        with pytest.raises(ConflictError, match="with other keys"):
            await register("a", others, call_id)
        for made, change in ((keys, None), (keys, urandom(16)), (others, None)):
            with pytest.raises(AlreadyExistsError, match="exists already"):
                await register("a", made, change)
        # One id for many devices: each is its own change, and what was not done yet is done.
        rows = [(name, made.verification_key, made.encapsulation_key) for name, made in (("a", keys), ("b", others))]
        assert ["a", "b"] == [row.device_id for row in await manager.register_devices_many(rows, call_id=call_id)]
        await manager.rotate_device_keys("a")
        assert 2 == (await register("a", keys, call_id)).key_version
        assert size + 3 == await log_size(manager)


async def test_keys_and_tokens_of_a_repeated_call_are_not_told_again(database, tmp_path):
    """A repeat makes no device and no token; its error says what stands, and only what was not made is made."""
    async with make_manager(database, tmp_path, clock=TurnedClock()) as manager:
        call_id, size = urandom(16), await log_size(manager)
        ends = await asyncio.gather(
            *(manager.generate_device_keypair("a", call_id=call_id) for _ in range(2)), return_exceptions=True
        )
        assert {DeviceKeypair, AlreadyExistsError} == {type(end) for end in ends}
        with pytest.raises(AlreadyExistsError, match=r"under this call_id.*rotate them under a new call_id"):
            await manager.generate_device_keypair("a", call_id=call_id)
        with pytest.raises(AlreadyExistsError, match="exists already"):
            await manager.generate_device_keypair("a", call_id=urandom(16))
        stood, made = await manager.generate_device_keypairs_many(["a", "b"], call_id=call_id)
        assert (AlreadyExistsError, "b") == (type(stood), made.device_id)
        (first,) = await manager.issue_enrolment_tokens_many(["c"], call_id=call_id)
        stood, fresh = await manager.issue_enrolment_tokens_many(["c", "d"], call_id=call_id)
        assert (str, AlreadyExistsError, str) == (type(first), type(stood), type(fresh))
        (token,) = [each for each in await manager.list_enrolment_tokens() if each.device_id == "c"]
        assert token.token_id.hex() in str(stood)
        assert size + 4 == await log_size(manager)


async def test_a_psk_under_the_id_of_another_one_is_a_conflict(database, tmp_path):
    """The same psk again is done, another one under its id is refused and not stored."""
    async with make_manager(database, tmp_path, clock=TurnedClock()) as manager:
        edge, psk, call_id = await Edge.provision(manager), urandom(64), urandom(16)
        for _ in range(2):
            await manager.set_device_psk(edge.name, psk, call_id=call_id)
        with pytest.raises(ConflictError, match="another psk"):
            await manager.set_device_psk(edge.name, urandom(64), call_id=call_id)
        assert 1 == (await manager.find_device(edge.name)).psk_version
        # Not the psk alone decides: the same one for another device is another change.
        other = await Edge.provision(manager)
        await manager.set_device_psk(other.name, psk, call_id=call_id)
        await manager.set_device_psk(edge.name, None, call_id=call_id)
        assert (2, None) == ((row := await manager.find_device(edge.name)).psk_version, row.sealed_psk)


async def test_policies_tokens_and_requests_are_changed_once(database, tmp_path):
    """Repeated under its id each is done once, also where something else came in between."""
    async with make_manager(database, tmp_path, clock=TurnedClock()) as manager:
        call_id, policy = urandom(16), RotationPolicy(max_records=5)
        await manager.issue_enrolment_token("x")
        (token,) = await manager.list_enrolment_tokens()
        edge = await Edge.provision(manager)
        size = await log_size(manager)
        for _ in range(2):
            await manager.set_rotation_policy(policy, call_id=call_id)
            revoked = await manager.revoke_enrolment_token(token.token_id, reason="lost", call_id=call_id)
            mark = await manager.request_device_rotation(edge.name, call_id=call_id)
            assert (TokenState.REVOKED, 1) == (revoked.state, mark.key_version)
        with pytest.raises(IllegalTransitionError):
            await manager.revoke_enrolment_token(token.token_id, reason="lost")
        await manager.set_rotation_policy(RotationPolicy(max_records=9))
        await manager.set_rotation_policy(policy, call_id=call_id)
        assert 9 == (await manager.rotation_policy()).max_records
        for _ in range(2):
            await manager.set_rotation_policy(None, call_id=call_id)
        with pytest.raises(KeyNotFoundError):
            await manager.set_rotation_policy(None)
        await manager.rotate_device_keys(edge.name)
        with pytest.raises(AlreadyExistsError, match=r"version 1 .* nothing is left to do"):
            await manager.request_device_rotation(edge.name, call_id=call_id)
        # Policy, token, request; the policy between, its removal, the rotation.
        assert size + 6 == await log_size(manager)


async def test_the_identity_changes_once_for_a_call(database, tmp_path):
    """A rotation, a request and a certificate asked for again answer as the first time; what is over says so."""
    async with make_manager(database, tmp_path, clock=TurnedClock()) as manager:
        call_id, reason = urandom(16), "yearly"
        first, again = await asyncio.gather(
            *(manager.rotate_identity(reason=reason, call_id=call_id) for _ in range(2))
        )
        assert first == again == await manager.rotate_identity(reason=reason, call_id=call_id)
        assert 2 == first.serial
        second = await manager.rotate_identity(reason=reason)
        assert (3, first) == (second.serial, await manager.rotate_identity(reason=reason, call_id=call_id))
        bodies = {await manager.request_certificate(reason=reason, call_id=call_id) for _ in range(3)}
        assert 1 == len(bodies)
        with await manager.export_root() as root, offline(root) as root_sk:
            certificate = sign_certificate(root_sk, root.root_key, bodies.pop()).encoded
        size = await log_size(manager)
        installed = [await manager.import_certificate(certificate) for _ in range(2)]
        assert [4, 4] == [each.serial for each in installed]
        with pytest.raises(AlreadyExistsError, match="wait no more"):
            await manager.request_certificate(reason=reason, call_id=call_id)
        for _ in range(2):
            await manager.remove_root()
        assert size + 2 == await log_size(manager)


async def test_many_events_under_one_id_are_entries_once(database, tmp_path):
    """Each event of the call has its place in it: again they are the same entries, another one is refused."""
    async with make_manager(database, tmp_path, clock=TurnedClock()) as manager:
        events, call_id = [(*EVENT, {"n": n}, None) for n in (1, 1, 2)], urandom(16)
        first, again = [await manager.monitor.log_security_events_many(events, call_id=call_id) for _ in range(2)]
        assert [each.index for each in first] == [each.index for each in again]
        assert 3 == len({each.index for each in first})
        changed = [*events[:2], (*EVENT, {"n": 3}, None)]
        ended = await manager.monitor.log_security_events_many(changed, call_id=call_id)
        assert isinstance(ended[2], ConflictError)


async def test_callers_of_a_batch_get_their_own_answers_through_cut_connections(database_dsn, tmp_path):
    """Handshakes, records and events whose connections are cut after COMMIT end once, for each caller of the batch."""
    async with proxied(database_dsn) as proxy, make_manager(proxy.dsn, tmp_path) as manager:
        edges = [await Edge.provision(manager) for _ in range(4)]
        for point in (Point.FORWARDED, Point.ANSWERED, Point.COMPLETE):
            proxy.cut("head_sessions", point)
            established = await asyncio.gather(*(edge.connect(manager) for edge in edges))
            proxy.cut("accept_streams", point)
            opened = await asyncio.gather(
                *(manager.open_record(edge.seal(it.sid, b"x")) for edge, it in zip(edges, established, strict=True))
            )
            for record in opened:
                with record, record.plaintext.view() as view:
                    assert b"x" == bytes(view)
            proxy.cut("append_entries", point)
            logged = await asyncio.gather(*(manager.monitor.log_security_event(*EVENT, {"n": n}) for n in range(5)))
            assert 5 == len({each.index for each in logged})
        assert 9 == proxy.made
        report = await manager.monitor.verify_log()
        assert (4 * 3, 5 * 3) == (report.entries["key_exchange"], report.entries["operator_action"])
