"""Responses decided on the live page: with the operator's secret again, by two persons where two are needed, once."""

import json

import pytest

from manager_world import managers
from qflare.model.device import KeyState
from qflare.model.response import ResponseState
from qflare.testing import TurnableClock
from service.page_served import TOKEN, browsing, log_in, paging

OTHER = bytes(15) + b"\x01"


REFUSE_MOVES = """
    CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE 'no' USING ERRCODE = 'check_violation', CONSTRAINT = '{constraint}'; END $$;
    CREATE TRIGGER aa_refused BEFORE UPDATE ON qflare.device FOR EACH ROW EXECUTE FUNCTION public.refuse();
"""


async def decided(client, response, act, secret, *, reason="", headers=None, **more):
    """Send a response's form with the visit's own token; return the answer."""
    token = TOKEN.search((await client.get("/")).text).group(1)
    fields = {"token": token, "id": response.response_id.hex(), "act": act, "secret": secret, "reason": reason}
    return await client.post("/response", data=fields | more, headers=headers)


async def test_two_persons_carry_a_response_out_on_the_page(database_dsn, tmp_path):
    """Who asked cannot confirm, a login alone is not enough, nor another's secret; the second person's own is."""
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager) as url:
        ann, bob = [await manager.add_operator(name) for name in ("ann", "bob")]
        await manager.generate_device_keypair("pump-1")
        wanted = await manager.respond("revoke", by="ann", reason="stolen", device_id="pump-1")
        async with browsing(url) as hers, browsing(url) as his:
            await log_in(hers, "ann", ann)
            await log_in(his, "bob", bob)
            about = f"/response?id={wanted.response_id.hex()}"
            shown = (await his.get(about)).text
            assert (">Confirm<" in shown, ">Refuse<" in shown, "The secret of bob, again" in shown) == (
                True,
                True,
                True,
            )
            assert about in (await his.get("/responses")).text
            own = await decided(hers, wanted, "confirm", ann)
            assert (409, True) == (own.status_code, "another operator must confirm it" in own.text)
            # One less than a name may guess wrongly.
            for wrong in ("", "x", ann, bob[:-1]):
                answer = await decided(his, wanted, "confirm", wrong)
                assert (403, True) == (answer.status_code, "The secret is wrong." in answer.text), wrong
                assert 'role="alert"' in answer.text
            assert KeyState.ACTIVE is (await manager.find_device("pump-1")).state
            done = await decided(his, wanted, "confirm", bob)
            assert (303, about) == (done.status_code, done.headers["location"])
            found = await manager.find_response(wanted.response_id)
            assert (ResponseState.APPLIED, "ann", "bob") == (found.state, found.first_by, found.second_by)
            assert KeyState.DEACTIVATED is (await manager.find_device("pump-1")).state
            after = (await his.get(about)).text
            assert ("Carried out" in after, "There is nothing to decide about it." in after) == (True, True)
            assert 'name="secret"' not in after
        said = [each.data for each in await manager.monitor.list_events(limit=200)]
        assert 4 == sum(b"operator login refused" in each for each in said)
        assert not any(secret.encode() in each for secret in (ann, bob) for each in said)


async def test_a_response_is_refused_or_undone_with_a_reason(database_dsn, tmp_path):
    """Without one nothing is done; name and reason stand with it; what is over already says so."""
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager) as url, browsing(url) as client:
        ann = await manager.add_operator("ann")
        await manager.add_operator("bob")
        await manager.generate_device_keypairs_many(["pump-1", "pump-2"])
        proposed = await manager.respond("revoke", by="bob", reason="stolen", device_id="pump-1")
        applied = await manager.respond("quarantine", by="bob", reason="look", device_id="pump-2")
        await log_in(client, "ann", ann)
        for response, act in ((proposed, "dismiss"), (applied, "undo")):
            answer = await decided(client, response, act, ann)
            assert (409, True) == (answer.status_code, "say why" in answer.text)
            assert 400 == (await decided(client, response, act, ann, reason="a\nb")).status_code
            assert 303 == (await decided(client, response, act, ann, reason="found <it>")).status_code
            text = (await client.get(f"/response?id={response.response_id.hex()}")).text
            assert "by ann" in text
            assert "found &lt;it&gt;" in text
        states = [(await manager.find_response(each.response_id)).state for each in (proposed, applied)]
        assert [ResponseState.DISMISSED, ResponseState.UNDONE] == states
        assert KeyState.ACTIVE is (await manager.find_device("pump-2")).state
        late = await decided(client, proposed, "confirm", ann)
        assert (409, True) == (late.status_code, "It was not done" in late.text)
        assert KeyState.ACTIVE is (await manager.find_device("pump-1")).state


@pytest.mark.parametrize("constraint", ["device_two_persons", "device_key_of_device", "device_some"])
async def test_what_the_database_refuses_is_told_as_refused(database_dsn, tmp_path, admin, constraint):
    """Whatever keeps a confirmed response from being done is said where it was decided, not that nobody answers."""
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager) as url, browsing(url) as client:
        ann = await manager.add_operator("ann")
        await manager.add_operator("bob")
        await manager.generate_device_keypair("pump-1")
        wanted = await manager.respond("revoke", by="bob", reason="stolen", device_id="pump-1")
        await log_in(client, "ann", ann)
        await admin.execute(REFUSE_MOVES.format(constraint=constraint))
        answer = await decided(client, wanted, "confirm", ann)
        assert (409, True) == (answer.status_code, "It was not done: " in answer.text)
        assert 'role="alert"' in answer.text
        assert KeyState.ACTIVE is (await manager.find_device("pump-1")).state


async def test_no_other_site_tenant_or_guess_decides_a_response(database_dsn, tmp_path):
    """A decision needs the page's origin, the visit's token, a response of the tenant, and few wrong secrets before."""
    async with managers(database_dsn, tmp_path) as (manager,):
        await manager.create_tenant("theirs", tenant_id=OTHER)
        view = manager.for_tenant(OTHER)
        secrets = await manager.add_operator("ann"), await view.add_operator("ann")
        for each in (manager, view):
            await each.add_operator("bob")
            await each.generate_device_keypair("pump-1")
        ours, theirs = [
            await each.respond("revoke", by="bob", reason="x", device_id="pump-1") for each in (manager, view)
        ]
        async with paging(manager, page_guesses_max=2) as url, browsing(url) as client:
            out = await client.post("/response", data={"id": ours.response_id.hex(), "token": "x"})
            assert (303, "/login") == (out.status_code, out.headers["location"])
            await log_in(client, "ann", secrets[0])
            assert 404 == (await client.get(f"/response?id={theirs.response_id.hex()}")).status_code
            for response, act, secret, more, status in (
                (theirs, "confirm", secrets[0], {}, 404),
                (ours, "confirm", secrets[0], {"token": "x"}, 403),
                (ours, "confirm", secrets[0], {"headers": {"origin": "http://evil.example"}}, 403),
                (ours, "confirm", secrets[0], {"headers": {"sec-fetch-site": "cross-site"}}, 403),
                (ours, "burn", secrets[0], {}, 400),
                (ours, "confirm", secrets[0], {"id": "x"}, 400),
                # The same name in another tenant is another operator.
                (ours, "confirm", secrets[1], {}, 403),
                (ours, "confirm", "x", {}, 403),
            ):
                answer = await decided(client, response, act, secret, **more)
                assert status == answer.status_code, (act, more, answer.text)
            late = await decided(client, ours, "confirm", secrets[0])
            assert (429, True) == (late.status_code, int(late.headers["retry-after"]) > 0)
        for each, response in ((manager, ours), (view, theirs)):
            found = await each.find_response(response.response_id)
            assert (ResponseState.PROPOSED, None) == (found.state, found.second_by)
        events = [json.loads(each.data or b"{}").get("what") for each in await manager.monitor.list_events(limit=200)]
        assert "response confirmed" not in events


async def test_who_guesses_at_the_login_form_keeps_no_operator_from_deciding(database_dsn, tmp_path):
    """With the name's and all guesses used up by strangers a visit's operator confirms; the visit's own are bounded."""
    async with managers(database_dsn, tmp_path) as (manager,):
        ann = await manager.add_operator("ann")
        await manager.add_operator("bob")
        await manager.generate_device_keypair("pump-1")
        await manager.generate_device_keypair("pump-2")
        wanted, more = [
            await manager.respond("revoke", by="bob", reason="x", device_id=name) for name in ("pump-1", "pump-2")
        ]
        clock = TurnableClock()
        limits = {"page_guesses_max": 2, "page_guesses_all_max": 3}
        async with paging(manager, clock=clock, **limits) as url, browsing(url) as client, browsing(url) as stranger:
            await log_in(client, "ann", ann)
            for name, status in (("ann", 403), ("ann", 403), ("ann", 429), ("bob", 403), ("bob", 429)):
                assert status == (await log_in(stranger, name, "x")).status_code
            assert 303 == (await decided(client, wanted, "confirm", ann)).status_code
            for status in (403, 403, 429):
                assert status == (await decided(client, more, "dismiss", "x", reason="x")).status_code
        assert KeyState.DEACTIVATED is (await manager.find_device("pump-1")).state
