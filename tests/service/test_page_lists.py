"""The live page's lists over sockets: page by page with links alone, searched by name, and incidents that are moved."""

import json
import re
from html import unescape
from itertools import chain
from os import urandom

import pytest

from manager_world import managers
from qflare.model.incident import IncidentState
from qflare.service.page import lists
from qflare.testing import TurnableClock
from service.page_served import TOKEN, browsing, log_in, paging, sighted
from store_records import NOW_S, new_sighting

ROW = re.compile(r'<th scope="row"><span class="name">([^<]*)</span>')
LINK = re.compile(r'<a href="(/incident\?id=[0-9a-f]{32})"><strong>')
NEXT = re.compile(r'<a href="([^"]+)" rel="next">Next page</a>')
OTHER = bytes(15) + b"\x01"


async def walked(client, path, pattern):
    """Follow a list's links to its end; return what the pattern finds on each page."""
    pages = []
    while path is not None:
        answer = await client.get(path)
        assert (200, "text/html; charset=utf-8") == (answer.status_code, answer.headers["content-type"])
        assert "<script" not in answer.text
        assert ("First page" in answer.text) == bool(pages)
        pages.append([unescape(each) for each in pattern.findall(answer.text)])
        found = NEXT.search(answer.text)
        path = None if found is None else unescape(found.group(1))
    return pages


async def test_the_roster_is_walked_by_links_and_searched_by_name(database_dsn, tmp_path, monkeypatch):
    """Every device once, in order of name; a search finds what begins so, as text, and nothing of another tenant."""
    monkeypatch.setattr(lists, "ROWS", 5)
    names = sorted([f"pump-{n}" for n in range(11)] + ["p%mp", "<b>&'\"", "fan & co", "ünit+1"], key=str.encode)
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager) as url, browsing(url) as client:
        await manager.create_tenant("theirs", tenant_id=OTHER)
        await manager.generate_device_keypairs_many(names)
        await manager.for_tenant(OTHER).generate_device_keypairs_many(["pump-theirs", "a"])
        out = await client.get("/devices")
        assert (303, "/login") == (out.status_code, out.headers["location"])
        await log_in(client, "ann", await manager.add_operator("ann"))
        pages = await walked(client, "/devices", ROW)
        assert ([5, 5, 5], names) == ([len(page) for page in pages], list(chain(*pages)))
        for prefix in ("pump-", "pump-1", "p%", "p_", "<b>", "fan & ", "ünit+", "Pump", "x" * 255):
            address = str(client.build_request("GET", "/devices", params={"prefix": prefix}).url)
            pages = await walked(client, address, ROW)
            assert [name for name in names if name.startswith(prefix)] == list(chain(*pages)), prefix
        found = (await client.get("/devices", params={"prefix": "<b>"})).text
        assert 'value="&lt;b&gt;"' in found
        assert "<b>" not in found
        assert "No device has a name that begins with “Pump”" in (await client.get("/devices?prefix=Pump")).text
        for wrong in ("prefix=%00", "after=" + "x" * 256, "prefix=" + "x" * 300):
            assert 400 == (await client.get(f"/devices?{wrong}")).status_code, wrong


async def test_incidents_are_walked_by_links(database_dsn, tmp_path, monkeypatch):
    """The last seen first, page by page; those that are closed stand among all alone."""
    monkeypatch.setattr(lists, "ROWS", 3)
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager) as url, browsing(url) as client:
        await manager.create_tenant("theirs", tenant_id=OTHER)
        await sighted(manager.for_tenant(OTHER), new_sighting(ref=urandom(32)))
        made = [new_sighting(ref=urandom(32), seen_s=NOW_S + n) for n in range(8)]
        await sighted(manager, *made)
        await log_in(client, "ann", await manager.add_operator("ann"))
        await manager.monitor.move_incident(made[4].incident_id, IncidentState.CLOSED, by="ann")
        wanted = [f"/incident?id={each.incident_id.hex()}" for each in reversed(made)]
        pages = await walked(client, "/incidents?show=all", LINK)
        assert ([3, 3, 2], wanted) == ([len(page) for page in pages], list(chain(*pages)))
        pages = await walked(client, "/incidents", LINK)
        assert [each for each in wanted if made[4].incident_id.hex() not in each] == list(chain(*pages))
        for wrong in ("after=x", "after=" + "0" * 31, "after=" + "0" * 34):
            assert 400 == (await client.get(f"/incidents?{wrong}")).status_code
        assert "There are no more." in (await client.get(f"/incidents?after={'0' * 32}")).text


async def moved(client, incident_id, state, *, note="", **more):
    """Send an incident's own form; return the answer."""
    page = (await client.get(f"/incident?id={incident_id.hex()}")).text
    token = TOKEN.search(page).group(1)
    fields = {"token": token, "id": incident_id.hex(), "state": state, "note": note}
    return await client.post("/incident", data=fields | more)


async def test_an_incident_is_acknowledged_in_the_operators_name(database_dsn, tmp_path):
    """Who did it and why stand on the page, in the database and in the log; what is no move any more changes nothing."""
    nasty = "seen <b>&'\" on the floor"
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager) as url, browsing(url) as client:
        facts = {"seen": {"record tag": 1234, "<i>": 1}, "other": {"a": "b"}, "long": "x" * 300}
        sighting = new_sighting(evidence=json.dumps(facts).encode())
        await sighted(manager, sighting)
        await log_in(client, "ann", await manager.add_operator("ann"))
        about = f"/incident?id={sighting.incident_id.hex()}"
        before = (await client.get(about)).text
        assert ("x" * 300 in before, "open, " in before, ">Acknowledge<" in before) == (True, True, True)
        assert "record tag: 1,234, &lt;i&gt;: 1" in before
        assert "{&quot;a&quot;: &quot;b&quot;}" in before
        answer = await moved(client, sighting.incident_id, "acknowledged", note=nasty)
        assert (303, about) == (answer.status_code, answer.headers["location"])
        after = (await client.get(about)).text
        for expected in ("acknowledged by ann", "seen &lt;b&gt;&amp;", ">Open again<", ">Close for good<"):
            assert expected in after, expected
        assert ">Acknowledge<" not in after
        token = TOKEN.search(after).group(1)
        assert "acknowledged by ann" in (await client.get("/incidents")).text
        assert 303 == (await moved(client, sighting.incident_id, "closed")).status_code
        closed = (await client.get(about)).text
        assert ("closed by ann" in closed, "closed for good" in closed, "<h3>Evidence" in closed) == (True, True, True)
        assert 'name="state"' not in closed
        fields = {"token": token, "id": sighting.incident_id.hex(), "state": "acknowledged", "note": "late"}
        late = await client.post("/incident", data=fields)
        assert (409, True, True) == (late.status_code, "It was not done" in late.text, 'role="alert"' in late.text)
        found = await manager.monitor.find_incident(sighting.incident_id)
        assert (IncidentState.CLOSED, "ann") == (found.state, found.changed_by)
        said = [json.loads(each.data) for each in await manager.monitor.list_events() if b"incident_id" in each.data]
        assert [
            {"what": f"incident {state}", "incident_id": sighting.incident_id.hex(), "by": "ann", "note": note}
            for state, note in (("acknowledged", nasty), ("closed", ""))
        ] == said


async def test_no_other_site_tenant_or_login_moves_an_incident(database_dsn, tmp_path):
    """A move needs the page's origin, the visit's own token and an incident of the operator's tenant."""
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager) as url, browsing(url) as client:
        await manager.create_tenant("theirs", tenant_id=OTHER)
        ours, theirs = new_sighting(), new_sighting()
        await sighted(manager, ours)
        await sighted(manager.for_tenant(OTHER), theirs)
        fields = {"id": ours.incident_id.hex(), "state": "acknowledged", "note": "", "token": "x"}
        out = await client.post("/incident", data=fields)
        assert (303, "/login") == (out.status_code, out.headers["location"])
        await log_in(client, "ann", await manager.add_operator("ann"))
        async with browsing(url) as another:
            await log_in(another, "bob", await manager.add_operator("bob"))
            token = TOKEN.search((await another.get("/")).text).group(1)
        for more, headers in (
            ({}, {}),
            ({"token": token}, {}),
            ({"token": ""}, {}),
        ):
            assert 403 == (await client.post("/incident", data=fields | more, headers=headers)).status_code
        own = TOKEN.search((await client.get("/")).text).group(1)
        for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
            assert 403 == (await client.post("/incident", data=fields | {"token": own}, headers=headers)).status_code
        assert 404 == (await client.get(f"/incident?id={theirs.incident_id.hex()}")).status_code
        for change, status in (
            ({"id": theirs.incident_id.hex()}, 404),
            ({"id": "0" * 32}, 404),
            ({"id": "x"}, 400),
            ({"id": ""}, 404),
            ({"state": "gone"}, 400),
            ({"note": "a\0b"}, 400),
            ({"note": "a\nb"}, 400),
            ({"note": "ä" * 501}, 409),
        ):
            answer = await client.post("/incident", data=fields | {"token": own} | change)
            assert status == answer.status_code, (change, answer.text)
        for view, sighting in ((manager, ours), (manager.for_tenant(OTHER), theirs)):
            assert IncidentState.OPEN is (await view.monitor.find_incident(sighting.incident_id)).state
        # Who was revoked a moment ago moves nothing either.
        await manager.revoke_operator("ann", reason="left")
        gone = await client.post("/incident", data=fields | {"token": own})
        assert (303, "/login") == (gone.status_code, gone.headers["location"])
        assert IncidentState.OPEN is (await manager.monitor.find_incident(ours.incident_id)).state


async def test_responses_say_what_waits_what_ran_and_what_was_refused(database_dsn, tmp_path, monkeypatch):
    """Each with who wants it and why; what waits for a second person stands first on the overview, whatever came since."""
    monkeypatch.setattr(lists, "ROWS", 4)
    clock = TurnableClock()
    async with managers(database_dsn, tmp_path, clock=clock) as (manager,), paging(manager) as url:
        sighting = new_sighting()
        await sighted(manager, sighting)
        secret = await manager.add_operator("ann")
        await manager.add_operator("bob")
        await manager.generate_device_keypairs_many(["pump-1", "pump-2"])
        waiting = await manager.respond(
            "revoke", by="ann", reason="stolen <b>", device_id="pump-1", incident_id=sighting.incident_id
        )
        refused = await manager.respond("revoke", by="ann", reason="a guess", device_id="pump-2")
        await manager.dismiss_response(refused.response_id, by="bob", reason="it is in the yard")
        for number in range(3):
            ran = await manager.respond("quarantine", by="bob", reason=f"look {number}", device_id="pump-2")
            await manager.undo_response(ran.response_id, by="ann", reason="looked at")
        await manager.respond("quarantine", by="bob", reason="found", device_id="pump-2")
        async with browsing(url) as client:
            await log_in(client, "ann", secret)
            overview = (await client.get("/")).text.partition('id="part-responses"')[2].partition("</section>")[0]
            assert overview.index("waits") < overview.index("applied")
            command = f"qflare incident confirm {waiting.response_id.hex()}"
            assert ("It waits for another operator until" in overview, command in overview) == (True, True)
            pages = await walked(client, "/responses", re.compile(r'<span class="severity[^"]*">(\w+)</span>'))
            assert [["applied", "undone", "undone", "undone"], ["dismissed", "waits"]] == pages
            assert [["waits"]] == await walked(
                client, "/responses?show=waiting", re.compile(r'<span class="severity[^"]*">(\w+)</span>')
            )
            texts = (await client.get("/responses")).text + (
                await client.get(f"/responses?after={ran.response_id.hex()}")
            ).text
            for expected in (
                "Refused by bob", "it is in the yard", "Undone by ann", "looked at", "Carried out", "wanted by bob",
                "stolen &lt;b&gt;", "pump-1",
            ):  # fmt: skip
                assert expected in texts, expected
            incident = (await client.get(f"/incident?id={sighting.incident_id.hex()}")).text
            assert command in incident
            clock.turn(2 * 86_400)
            assert (
                "Nobody confirmed it in time; nothing was done." in (await client.get("/responses?show=waiting")).text
            )


@pytest.mark.parametrize("path", ["/devices", "/incidents", "/responses"])
async def test_an_empty_list_says_so(database_dsn, tmp_path, path):
    """There is a sentence where there is no row."""
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager) as url, browsing(url) as client:
        await log_in(client, "ann", await manager.add_operator("ann"))
        text = (await client.get(path)).text
        assert re.search("No device is registered|No incident is open|No response was asked for", text)
        assert f'href="{path}" aria-current="page"' in text
