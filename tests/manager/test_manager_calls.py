"""Changes repeated by their callers, through connections that are cut (decision 0031)."""

import asyncio
from os import urandom

import pytest

from manager_world import Edge, make_manager
from proxy import Point, proxied
from qflare.errors import AlreadyExistsError, ConflictError, IllegalTransitionError, LengthError, UsageError
from qflare.manager.devices import DeviceKeypair
from qflare.model.device import KeyState
from qflare.model.event import EventSeverity, SecurityEventType

EVENT = (SecurityEventType.OPERATOR_ACTION, EventSeverity.INFO)


async def test_an_event_logged_again_is_the_same_entry_with_the_same_receipt(database, tmp_path):
    """Two calls with one call id give one entry and one receipt, which proves it; another event is refused."""
    async with make_manager(database, tmp_path) as manager:
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
    async with make_manager(database, tmp_path) as manager:
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


async def log_size(manager):
    return (await manager.get_key_statistics()).log_size


async def test_a_tenant_of_one_call_is_one_tenant(database, tmp_path):
    """Tenants made twice at once or later under one id are one, with one entry; under another name it is refused."""
    async with make_manager(database, tmp_path) as manager:
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
    async with make_manager(database, tmp_path) as manager:
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
            for call in (manager.create_tenant, manager.issue_enrolment_token, manager.rotate_device_keys):
                with pytest.raises(error, match="call_id"):
                    await call(edge.name, call_id=bad)


async def test_callers_of_a_batch_get_their_own_answers_through_cut_connections(database_dsn, tmp_path):
    """Handshakes, records and events whose connections are cut after COMMIT end once, for each caller of the batch."""
    async with proxied(database_dsn) as proxy, make_manager(proxy.dsn, tmp_path) as manager:
        edges = [await Edge.provision(manager) for _ in range(4)]
        for point in (Point.FORWARDED, Point.ANSWERED, Point.COMPLETE):
            proxy.cut("confirm_sessions", point)
            established = await asyncio.gather(*(edge.connect(manager) for edge in edges))
            proxy.cut("accept_streams", point)
            opened = await asyncio.gather(
                *(manager.open_record(edge.seal(it.sid, b"x")) for edge, it in zip(edges, established, strict=True))
            )
            for record in opened:
                with record, record.plaintext.view() as view:
                    assert b"x" == bytes(view)
            proxy.cut("append_events", point)
            logged = await asyncio.gather(*(manager.monitor.log_security_event(*EVENT, {"n": n}) for n in range(5)))
            assert 5 == len({each.index for each in logged})
        assert 9 == proxy.made
        report = await manager.monitor.verify_log()
        assert (4 * 3, 5 * 3) == (report.entries["key_exchange"], report.entries["operator_action"])
