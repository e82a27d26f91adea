import asyncio

import pytest

from manager_world import Edge, TurnedClock, managers, settle
from qflare.errors import AlreadyExistsError, IllegalTransitionError, KeyNotFoundError, RefusedError, UsageError
from qflare.model.device import KeyState
from qflare.model.event import SecurityEventType
from qflare.model.refusal import Refusal
from qflare.model.token import TokenState
from qflare.protocol.announcement import verify_announcement
from qflare.protocol.device_keys import DeviceKeys
from qflare.protocol.enrolment_device import accept_enrolled, start_enrolment
from qflare.protocol.identity import decode_identity
from qflare.protocol.token import decode_token


async def refusal_of(call):
    with pytest.raises(RefusedError) as caught:
        await call
    return caught.value.reason


async def enrol(manager, text, name, keys):
    """Make an ENROL for *name* with the token *text*."""
    with decode_token(text) as token:
        identity = decode_identity(await manager.identity(), server_id=token.server_id)
        announcement = verify_announcement(await manager.announcement(), identity.certificate)
        return start_enrolment(token, name, announcement, keys)


async def test_token_lets_one_device_in(database, tmp_path):
    """A device with a token enrols, is on the roster, and begins sessions in both forms; its KEM key proves itself."""
    async with managers(database, tmp_path) as (manager,):
        text = await manager.issue_enrolment_token("edge-1")
        with DeviceKeys.generate() as keys:
            pending = await enrol(manager, text, "edge-1", keys)
            enrolled = accept_enrolled(pending, await manager.answer_enrolment(pending.message), keys)
            assert (1, await manager.current_bucket()) == (enrolled.key_version, enrolled.bucket_mark)
            assert KeyState.PRE_ACTIVE is (await manager.find_device("edge-1")).kem_state
            edge = Edge.__new__(Edge)
            edge.device = keys.identity(
                server_id=await manager.server_id(),
                tenant_id=manager.tenant,
                device_id="edge-1",
                key_version=enrolled.key_version,
                psk=None,
            )
            edge.identity, edge.log_mark, edge.sessions = None, None, {}
            await edge.connect(manager)
            pending = await edge.answer(manager, await manager.offer_for(edge.device.ref))
            edge.accept(pending, (await manager.confirm(pending.message)).confirmation)
            assert KeyState.ACTIVE is (await manager.find_device("edge-1")).kem_state


async def test_revoked_token_lets_nobody_in(database, tmp_path):
    """A token that was taken back is refused as an unknown one is; used or taken back it is not taken back again."""
    async with managers(database, tmp_path) as (manager,):
        text = await manager.issue_enrolment_token("edge-1")
        (token,) = await manager.list_enrolment_tokens()
        revoked = await manager.revoke_enrolment_token(token.token_id, reason="astray")
        assert (TokenState.REVOKED, "astray") == (revoked.state, revoked.reason)
        with DeviceKeys.generate() as keys:
            pending = await enrol(manager, text, "edge-1", keys)
            assert Refusal.TOKEN == await refusal_of(manager.answer_enrolment(pending.message))
        with pytest.raises(IllegalTransitionError, match="used or revoked"):
            await manager.revoke_enrolment_token(token.token_id, reason="again")
        with pytest.raises(KeyNotFoundError):
            await manager.revoke_enrolment_token(bytes(16), reason="none")
        text = await manager.issue_enrolment_token("edge-2")
        with DeviceKeys.generate() as keys:
            await manager.answer_enrolment((await enrol(manager, text, "edge-2", keys)).message)
        (used,) = [each for each in await manager.list_enrolment_tokens() if each.device_id == "edge-2"]
        assert TokenState.USED is used.state
        with pytest.raises(IllegalTransitionError, match="revoke_device"):
            await manager.revoke_enrolment_token(used.token_id, reason="late")


async def test_same_enrolment_again_is_answered_afresh_and_another_is_refused(database, tmp_path):
    """The same token and keys again get a fresh answer; other keys are refused, counted and in the log (E3)."""
    async with managers(database, tmp_path, 2) as (one, two):
        text = await one.issue_enrolment_token("edge-1")
        with DeviceKeys.generate() as keys, DeviceKeys.generate() as others:
            for manager in (one, two):
                pending = await enrol(manager, text, "edge-1", keys)
                accept_enrolled(pending, await manager.answer_enrolment(pending.message), keys)
            pending = await enrol(two, text, "edge-1", others)
            assert Refusal.TOKEN == await refusal_of(two.answer_enrolment(pending.message))
        await settle(two)
        entries = await two.monitor.list_events()
        assert any(
            entry.event_type is SecurityEventType.POLICY_VIOLATION and b'"token-used"' in entry.data
            for entry in entries
        )
        assert 1 == (await one.get_key_statistics()).devices_total


async def test_race_on_one_token_lets_one_in(database, tmp_path):
    """Many devices race with one token over two workers: exactly one is let in."""
    async with managers(database, tmp_path, 2) as pair:
        text = await pair[0].issue_enrolment_token("edge-1")
        keys = [DeviceKeys.generate() for _ in range(8)]
        pendings = [await enrol(pair[0], text, "edge-1", each) for each in keys]
        ended = await asyncio.gather(
            *(pair[place % 2].answer_enrolment(pending.message) for place, pending in enumerate(pendings)),
            return_exceptions=True,
        )
        assert 1 == sum(isinstance(end, bytes) for end in ended)
        assert all(isinstance(end, bytes) or Refusal.TOKEN == end.reason for end in ended)
        for each in keys:
            each.wipe()


async def test_expired_unknown_and_stolen_tokens_are_refused_alike(database, tmp_path):
    """An expired token, one of another server, one with another secret and one for another name all fail."""
    clock = TurnedClock()
    async with managers(database, tmp_path, clock=clock) as (manager,):
        text = await manager.issue_enrolment_token("edge-1", valid_s=60)
        with DeviceKeys.generate() as keys:
            wrong_name = await enrol(manager, text, "edge-2", keys)
            assert Refusal.SIGNATURE == await refusal_of(manager.answer_enrolment(wrong_name.message))
            with decode_token(text) as token:
                forged = type(token)(
                    tenant_id=token.tenant_id,
                    token_id=token.token_id,
                    secret=type(token.secret).zeros(32),
                    server_id=token.server_id,
                )
                pending = await enrol(manager, forged.encode(), "edge-1", keys)
            assert Refusal.TOKEN == await refusal_of(manager.answer_enrolment(pending.message))
            late = await enrol(manager, text, "edge-1", keys)
            clock.turn(60)
            assert Refusal.TOKEN == await refusal_of(manager.answer_enrolment(late.message))
        assert 0 == (await manager.get_key_statistics()).devices_total


async def test_bad_enrolment_fails_alone_in_its_batch(database, tmp_path):
    """Good, altered, repeated and foreign enrolments in one batch each get their own answer."""
    async with managers(database, tmp_path) as (manager,):
        names = [f"edge-{number}" for number in range(6)]
        texts = await manager.issue_enrolment_tokens_many(names)
        keys = [DeviceKeys.generate() for _ in names]
        pendings = [await enrol(manager, *each) for each in zip(texts, names, keys, strict=True)]
        messages = [pending.message for pending in pendings]
        messages[2] = messages[2][:-1] + bytes((messages[2][-1] ^ 1,))
        messages.append(messages[0])
        ended = await manager.answer_enrolments_many(messages)
        assert [2] == [place for place, end in enumerate(ended) if not isinstance(end, bytes)]
        for place in (0, 1, 3, 4, 5, 6):
            accept_enrolled(pendings[place % 6], ended[place], keys[place % 6])
        assert 5 == (await manager.get_key_statistics()).devices_total


async def test_token_for_a_name_that_exists_is_refused_at_use(database, tmp_path):
    """A name that was taken meanwhile is not taken over by a token."""
    async with managers(database, tmp_path) as (manager,):
        text = await manager.issue_enrolment_token("edge-1")
        with await manager.generate_device_keypair("edge-1") as pair, DeviceKeys.generate() as keys:
            pending = await enrol(manager, text, "edge-1", keys)
            assert Refusal.TOKEN == await refusal_of(manager.answer_enrolment(pending.message))
            assert pair.public_key == (await manager.get_device_public_key("edge-1")).public_key
            with pytest.raises(AlreadyExistsError):
                await manager.generate_device_keypair("edge-1")


@pytest.mark.parametrize("valid_s", [0, -1, 10**9, 1.5, True])
async def test_life_of_a_token_is_bounded(database, tmp_path, valid_s):
    """A token lives 1 s to 366 days."""
    async with managers(database, tmp_path) as (manager,):
        with pytest.raises(UsageError):
            await manager.issue_enrolment_token("edge-1", valid_s=valid_s)
