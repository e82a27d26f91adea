"""The live page over sockets: who may log in, what each tenant sees, and what no other site can do."""

import asyncio
import json
import os
import re
import signal

import httpx
import pytest

from cli.commands import qflare
from manager_world import Edge, make_manager, managers, room_in_bucket
from qflare.errors import ConfigError, StoreUnavailableError, UsageError
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.service.page import PageSettings
from qflare.testing import TurnableClock
from service.page_served import TOKEN, browsing, log_in, log_out, paging, streaming
from service.processes import serve, wait_for

NASTY = "<script>alert(1)</script>\"'&<img src=x onerror=y>"


async def test_an_operator_logs_in_sees_the_fleet_and_logs_out(database_dsn, tmp_path):
    """The page shows devices, buckets, handshakes, events and the log's head; login and logout stand in the log."""
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager) as url, browsing(url) as client:
        secret = await manager.add_operator("ann")
        edge = await Edge.provision(manager, "pump-7")
        await edge.connect(manager)
        assert (303, "/login") == await asked(client, "/")
        answer = await log_in(client, "ann", secret)
        assert (303, "/") == (answer.status_code, answer.headers["location"])
        page = (await client.get("/")).text
        for expected in ("pump-7", "ML-DSA-44", "operator logged in", "(present)", "default", "ann"):
            assert expected in page, expected
        assert 'Live sessions</dt><dd class="value">1</dd>' in page
        assert re.search(r"Sessions that began in each of the last \d+ buckets: 1 in all", page)
        assert (303, "/login") == where(await log_out(client))
        assert (303, "/login") == await asked(client, "/")
        said = [json.loads(entry.data) for entry in await manager.monitor.list_events() if entry.entry_type != 1]
        assert {"operator added", "operator logged in", "operator logged out"} <= {each.get("what") for each in said}
        assert secret not in str(said)


def where(answer):
    return answer.status_code, answer.headers.get("location")


async def asked(client, path):
    return where(await client.get(path))


async def test_every_answer_forbids_what_the_page_does_not_need(database_dsn, tmp_path):
    """The policy names this origin alone, nothing inline stands in a document, and cookies are for this site's HTTP."""
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager) as url, browsing(url) as client:
        form = await client.get("/login")
        answer = await log_in(client, "ann", await manager.add_operator("ann"))
        for cookie in (form.headers["set-cookie"], answer.headers["set-cookie"]):
            assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(re.split("[;,] ?", cookie))
        lists = [await client.get(path) for path in ("/", "/devices", "/incidents", "/responses")]
        documents = [form, *lists]
        others = [await client.get(path) for path in ("/page.css", "/page.js", "/proofs.js", "/icon.svg", "/none")]
        for each in [*documents, answer, *others, await client.post("/page.css"), await client.get("/log/head")]:
            policy = each.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert ("nosniff", "no-store") == (each.headers["x-content-type-options"], each.headers["cache-control"])
        for document in documents:
            assert not re.search(r"<style|<script(?! src=\"/)| style=| on[a-z]+=|javascript:", document.text)
            assert not re.search(r"(?:src|href|action)=\"(?!/|#)", document.text)
        for asset in others[:2]:
            assert "http" not in asset.text.replace("https or", "").replace("http://www.w3.org/2000/svg", "")


async def test_what_devices_and_events_say_is_text(database_dsn, tmp_path):
    """A name or a fact of an event that is markup is shown as it was written, in the page and in its stream."""
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager) as url, browsing(url) as client:
        await manager.create_tenant(NASTY, tenant_id=bytes(15) + b"\x01")
        view = manager.for_tenant(bytes(15) + b"\x01")
        secret = await view.add_operator(NASTY)
        await view.generate_device_keypair(NASTY)
        await view.monitor.log_security_event(
            SecurityEventType.SYSTEM, EventSeverity.WARNING, {NASTY: NASTY, "list": [NASTY]}, device_id=NASTY
        )
        refused = await log_in(client, NASTY, "x")
        assert 303 == (await log_in(client, NASTY, secret)).status_code
        page = await client.get("/")
        async with streaming(client) as following:
            _, _, parts = await following("parts")
        for text in (refused.text, page.text, *json.loads(parts).values()):
            assert "<script>" not in text
            assert "<img" not in text
        assert 6 <= page.text.count("&lt;script&gt;alert(1)&lt;/script&gt;")


async def test_a_tenant_sees_nothing_of_another(database_dsn, tmp_path):
    """Devices, sessions, events and incidents of one tenant do not appear to an operator of another."""
    other = bytes(15) + b"\x01"
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager) as url:
        await manager.create_tenant("their organisation", tenant_id=other)
        theirs = manager.for_tenant(other)
        secrets = await manager.add_operator("ann"), await theirs.add_operator("ann")
        for view, name in ((manager, "ours-1"), (theirs, "theirs-1")):
            await (await Edge.provision(view, name)).connect(view)
            await view.monitor.log_security_event(SecurityEventType.SYSTEM, EventSeverity.WARNING, {"x": f"of {name}"})
        seen = []
        for secret in secrets:
            async with browsing(url) as client:
                assert 303 == (await log_in(client, "ann", secret)).status_code
                page = (await client.get("/")).text
                head = (await client.get("/log/head")).json()
                proven = (await client.get(f"/log/events?size={head['size']}")).text
                async with streaming(client) as following:
                    _, _, parts = await following("parts")
                seen.append(page + proven + parts)
        assert ("ours-1" in seen[0], "theirs" in seen[0], "their organisation" in seen[0]) == (True, False, False)
        assert ("theirs-1" in seen[1], "ours-1" in seen[1], "their organisation" in seen[1]) == (True, False, True)
        assert all('Devices</dt><dd class="value">1</dd>' in each for each in seen)


async def test_wrong_logins_look_alike_and_are_logged_without_what_was_typed(database_dsn, tmp_path):
    """A wrong name, secret or tenant, and an operator who was revoked, get one answer."""
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager, page_guesses_max=50) as url:
        right, other, gone = [await manager.add_operator(name) for name in ("ann", "bob", "gone")]
        await manager.revoke_operator("gone", reason="left")
        answers = []
        async with browsing(url) as client:
            for name, secret in (
                ("ann", other), ("nobody", right), ("gone", gone), ("ann", right[:-1]), ("ann", "A" * 77), ("", right),
                ("ann\0", right), ("ann", "B" * 16 + right[16:]),
            ):  # fmt: skip
                answer = await log_in(client, name, secret)
                answers.append((answer.status_code, "Name or secret is wrong." in answer.text))
                assert secret not in answer.text
            assert {(403, True)} == set(answers)
            # Small letters are the same secret.
            assert 303 == (await log_in(client, " ann ", right.lower() + "\n")).status_code
        wrong = [e for e in await manager.monitor.list_events(limit=100) if b"operator login refused" in e.data]
        assert len(answers) == len(wrong)
        assert {(SecurityEventType.AUTHENTICATION_FAILURE, b'{"what":"operator login refused"}')} == {
            (entry.event_type, entry.data) for entry in wrong
        }


async def test_guessing_is_bounded_by_name_and_over_all_names(database_dsn, tmp_path):
    """After a few wrong logins even the right secret has to wait, other names do not; then time forgives."""
    clock = TurnableClock()
    async with managers(database_dsn, tmp_path) as (manager,):
        ann, bob = [await manager.add_operator(name) for name in ("ann", "bob")]
        limits = {"page_guesses_max": 2, "page_guesses_all_max": 4}
        async with paging(manager, clock=clock, **limits) as url, browsing(url) as client:
            assert [403, 403, 429] == [(await log_in(client, "ann", "x")).status_code for _ in range(3)]
            waiting = await log_in(client, "ann", ann)
            assert (429, "60") == (waiting.status_code, waiting.headers["retry-after"])
            assert "Try again in 60 s" in waiting.text
            assert 303 == (await log_in(client, "bob", bob)).status_code
            client.cookies.clear()
            assert [403, 403, 429] == [(await log_in(client, f"n{n}", "x")).status_code for n in range(3)]
            clock.turn(2)
            assert 429 == (await log_in(client, "ann", ann)).status_code
            clock.turn(58)
            assert 303 == (await log_in(client, "ann", ann)).status_code


async def test_a_login_that_cannot_be_logged_is_none(database_dsn, tmp_path, monkeypatch):
    """Where the log does not take the entry nobody is let in."""
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager) as url, browsing(url) as client:
        secret = await manager.add_operator("ann")

        async def refuse(*_, **__):
            raise StoreUnavailableError("the log is locked")

        log = (await manager._engine()).foundation.log
        with monkeypatch.context() as patch:
            patch.setattr(log, "log_event", refuse)
            assert 503 == (await log_in(client, "ann", secret)).status_code
            assert (303, "/login") == await asked(client, "/")
        assert 303 == (await log_in(client, "ann", secret)).status_code


async def test_other_sites_can_send_nothing(database_dsn, tmp_path):
    """A POST needs this page's origin and its form's token, a GET one of the page's own names."""
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager) as url, browsing(url) as client:
        secret = await manager.add_operator("ann")
        fields = {"name": "ann", "secret": secret}
        token = TOKEN.search((await client.get("/login")).text).group(1)
        for origin in ("http://evil.example", "null", url.replace("127.0.0.1", "localhost"), url + "0"):
            refused = await client.post("/login", data=fields | {"token": token}, headers={"origin": origin})
            assert (403, None) == (refused.status_code, refused.cookies.get("qflare-visit")), origin
        crossed = {"sec-fetch-site": "cross-site"}
        assert 403 == (await client.post("/login", data=fields | {"token": token}, headers=crossed)).status_code
        assert 403 == (await client.post("/login", data=fields | {"token": "x" + token})).status_code
        assert 303 == (await log_in(client, "ann", secret)).status_code
        for headers, data in (
            ({}, {"a": ""}),
            ({}, {"token": "x"}),
            ({"origin": "http://evil.example"}, {"token": "x"}),
        ):
            assert 403 == (await client.post("/logout", data=data, headers=headers)).status_code
        assert 200 == (await client.get("/")).status_code
        for host in (
            "evil.example",
            "evil.example:80",
            f"127.0.0.1.evil.example:{url.rpartition(':')[2]}",
            "127.0.0.1",
            "",
        ):
            for path in ("/", "/login", "/stream", "/page.js", "/log/head"):
                assert 421 == (await client.get(path, headers={"host": host})).status_code, (host, path)


async def test_forms_and_queries_are_bounded(database_dsn, tmp_path):
    """What is too large, no form or no number gets its own answer, and nothing is a fault of the server."""
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager) as url, browsing(url) as client:
        secret = await manager.add_operator("ann")
        form = {"content-type": "application/x-www-form-urlencoded"}
        for body, headers, status in (
            (b"name=" + b"a" * 5000, form, 413),
            (b"name=ann", {"content-type": "application/json"}, 415),
            ("name=ä".encode("latin-1"), form, 400),
            (b"&".join(b"a%d=1" % n for n in range(20)), form, 400),
            (b"name=%ff", form, 400),
            (b"", form, 403),
        ):
            assert status == (await client.post("/login", content=body, headers=headers)).status_code, body[:20]
        assert 303 == (await log_in(client, "ann", secret)).status_code
        for path in ("/log/events", "/log/events?size=x", "/log/events?size=0", "/log/events?size=99999999",
                     "/log/consistency?old=5&new=2", "/log/consistency?old=1&new=" + "9" * 30, "/log/consistency"):  # fmt: skip
            assert 400 == (await client.get(path)).status_code, path
        assert [404, 405] == [(await client.get("/../etc")).status_code, (await client.put("/login")).status_code]
        client.cookies.clear()
        for path in ("/stream", "/log/head", "/log/events?size=1", "/log/consistency?old=1&new=1"):
            assert 401 == (await client.get(path)).status_code, path


async def test_the_stream_says_what_has_changed_and_ends_with_the_visit(database_dsn, tmp_path):
    """A page hears of news as they come, after a lost connection of what it missed, and of the end at logout."""
    # A bucket that begins meanwhile would be news of its own.
    await room_in_bucket(60)
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager, page_heartbeat_s=0.3) as url:
        secret = await manager.add_operator("ann")
        async with browsing(url) as client, browsing(url) as reader:
            await log_in(client, "ann", secret)
            reader.cookies = client.cookies
            async with streaming(reader) as following:
                mark, _, data = await following("parts")
                assert {
                    "status",
                    "fleet",
                    "handshakes",
                    "buckets",
                    "incidents",
                    "responses",
                    "warnings",
                    "events",
                    "log",
                } == set(json.loads(data))
                await manager.generate_device_keypair("newcomer")
                while "newcomer" not in data:
                    mark, _, data = await following("parts")
                assert "buckets" not in json.loads(data)
            async with streaming(reader, **{"last-event-id": mark}) as following:
                # What it has is not sent again, but for the time.
                _, _, data = await following("parts")
                assert "newcomer" not in data
            async with streaming(reader, **{"last-event-id": "other-7"}) as following:
                _, _, data = await following("parts")
                assert "newcomer" in data
                assert (303, "/login") == where(await log_out(client))
                assert "end" == (await following("end"))[1]
                assert "closed" == (await following())[1]
            assert 401 == (await reader.get("/stream")).status_code


async def test_a_quiet_stream_shows_that_it_lives(database_dsn, tmp_path):
    """Without news there is a sign of life."""
    rare = {"page_heartbeat_s": 0.1, "page_refresh_s": 60}
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager, **rare) as url, browsing(url) as client:
        await log_in(client, "ann", await manager.add_operator("ann"))
        async with streaming(client) as following:
            assert ":" == (await following(":"))[1]


async def test_streams_and_visits_are_bounded_and_access_ends_at_once(database_dsn, tmp_path, monkeypatch):
    """One stream too many is refused, the oldest idle visit makes place, and a revoked operator's pages end."""
    monkeypatch.setattr("qflare.service.page.application.LOOK_AFTER_S", 0.1)
    few = {"page_streams_max": 1, "page_visits_max": 2}
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager, **few) as url:
        ann, bob = [await manager.add_operator(name) for name in ("ann", "bob")]
        async with browsing(url) as one, browsing(url) as two, browsing(url) as three:
            await log_in(one, "ann", ann)
            async with streaming(one) as following:
                assert 503 == (await one.get("/stream")).status_code
                await manager.revoke_operator("ann", reason="left")
                assert "end" == (await following("end"))[1]
            assert (303, "/login") == await asked(one, "/")
            for client in (one, two, three):
                assert 303 == (await log_in(client, "bob", bob)).status_code
            assert [303, 200, 200] == [(await client.get("/")).status_code for client in (one, two, three)]


async def test_a_renewed_secret_ends_what_began_with_the_one_before(database_dsn, tmp_path):
    """The old secret lets nobody in, a page that it opened ends, the new one opens another; the log says who and why."""
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager) as url, browsing(url) as client:
        old = await manager.add_operator("ann")
        await log_in(client, "ann", old)
        async with browsing(url) as thief:
            await log_in(thief, "ann", old)
            async with streaming(thief) as following:
                await following("parts")
                new = await manager.renew_operator("ann", reason="left on a train")
                assert (None, "end", "null") == await following("end")
            assert (303, "/login") == await asked(thief, "/")
        assert (303, "/login") == await asked(client, "/")
        assert 403 == (await log_in(client, "ann", old)).status_code
        assert (303, "/") == where(await log_in(client, "ann", new))
        assert (303, "/") == where(await client.get("/login"))
        said = [json.loads(entry.data) for entry in await manager.monitor.list_events() if entry.entry_type != 1]
        assert {"what": "operator renewed", "operator": "ann", "reason": "left on a train"} in said
        assert new not in str(said)
        with pytest.raises(UsageError, match="say why"):
            await manager.renew_operator("ann", reason="")


async def test_a_visit_ends_by_itself(database_dsn, tmp_path):
    """Idle for too long, or older than a visit may be, it has to log in again."""
    clock = TurnableClock()
    async with managers(database_dsn, tmp_path) as (manager,):
        secret = await manager.add_operator("ann")
        async with paging(manager, clock=clock, page_visit_s=600, page_idle_s=100) as url, browsing(url) as client:
            await log_in(client, "ann", secret)
            for _ in range(6):
                clock.turn(99)
                assert 200 == (await client.get("/")).status_code
            clock.turn(7)
            assert (303, "/login") == await asked(client, "/")
            await log_in(client, "ann", secret)
            clock.turn(101)
            assert (303, "/login") == await asked(client, "/")


async def test_a_database_that_does_not_answer_is_said_on_the_page(database_dsn, tmp_path, monkeypatch):
    """An open page hears that it is not up to date, and when it is again; a request gets 503."""
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager) as url, browsing(url) as client:
        await log_in(client, "ann", await manager.add_operator("ann"))
        store = (await manager._engine()).foundation.store

        async def refuse(*_, **__):
            raise StoreUnavailableError("gone")

        async with streaming(client) as following:
            await following("parts")
            with monkeypatch.context() as patch:
                patch.setattr(store, "count_keys", refuse)
                assert '"StoreUnavailableError"' == (await following("trouble"))[2]
                patch.setattr(store, "find_verifier", refuse)
                assert 503 == (await client.get("/")).status_code
            assert "null" == (await following("trouble"))[2]


@pytest.mark.parametrize(
    "settings",
    [
        {"page_address": "0.0.0.0:8441"},
        {"page_address": "localhost:8441"},
        {"page_address": "127.0.0.1"},
        {"page_address": "127.0.0.1:99999"},
        {"page_address": "[::1]:x"},
        {"page_origin": "http://ops.example"},
        {"page_origin": "https://ops.example/"},
        {"page_origin": "https://a@ops.example"},
        {"page_visits_max": 0},
        {"page_refresh_s": 0},
    ],
)
def test_settings_that_cannot_work_are_refused(settings):
    """The page listens on loopback alone, and a proxy's address is https."""
    with pytest.raises(ConfigError):
        PageSettings(**settings)


async def test_behind_a_proxy_cookies_stay_on_tls(database_dsn, tmp_path):
    """Asked under the proxy's name the page sets cookies for TLS alone, and takes forms of that origin."""
    outside = "https://ops.example"
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager, page_origin=outside) as url:
        secret = await manager.add_operator("ann")
        async with httpx.AsyncClient(
            base_url=url, trust_env=False, headers={"host": "ops.example"}, timeout=60
        ) as client:
            form = await client.get("/login")
            cookie = form.headers["set-cookie"].partition(";")[0]
            assert "Secure" in form.headers["set-cookie"].split("; ")
            fields = {"token": TOKEN.search(form.text).group(1), "name": "ann", "secret": secret}
            for origin, status in ((url, 403), (outside, 303)):
                headers = {"origin": origin, "cookie": cookie}
                assert status == (await client.post("/login", data=fields, headers=headers)).status_code


async def test_proofs_are_those_of_the_tree(database_dsn, tmp_path):
    """What the browser is given holds under the signed head, and two heads follow each other."""
    from base64 import b64decode

    from qflare.protocol.log import hash_leaf, verify_consistency, verify_inclusion

    async with managers(database_dsn, tmp_path) as (manager,), paging(manager) as url, browsing(url) as client:
        await log_in(client, "ann", await manager.add_operator("ann"))
        heads = []
        for _ in range(3):
            await manager.monitor.log_security_event(SecurityEventType.SYSTEM, EventSeverity.INFO, {})
            await manager.monitor.checkpoint()
            heads.append((await client.get("/log/head")).json())
        old, new = heads[0], heads[-1]
        assert old["size"] < new["size"]
        root = b64decode(new["root"])
        events = (await client.get(f"/log/events?size={new['size']}")).json()["events"]
        assert 5 <= len(events)
        for event in events:
            path = [b64decode(node) for node in event["path"]]
            verify_inclusion(hash_leaf(b64decode(event["leaf"])), event["index"], new["size"], path, root)
        path = (await client.get(f"/log/consistency?old={old['size']}&new={new['size']}")).json()["path"]
        verify_consistency(
            old["size"], new["size"], old_root=b64decode(old["root"]), new_root=root, path=[b64decode(p) for p in path]
        )


async def test_no_page_needs_a_device_server(database_dsn, tmp_path):
    """Nothing of the page is served where devices connect."""
    from qflare.service.aggregator import Aggregator
    from service.served import serving, url_of

    async with make_manager(database_dsn, tmp_path) as manager, serving(Aggregator(manager)) as server:
        client = httpx.AsyncClient(base_url=url_of(server), trust_env=False, timeout=60)
        async with client:
            answers = await asyncio.gather(*[client.get(path) for path in ("/", "/login", "/stream", "/page.js")])
        assert [404] * 4 == [answer.status_code for answer in answers]


async def test_serve_gives_the_page_to_one_worker_and_to_the_one_that_follows_it(tmp_path):
    """Of two workers one serves the page, on a listener of its own; killed, the next one takes the page over."""
    data = {"QFLARE_PAGE_ADDRESS": "127.0.0.1:0", "QFLARE_DATA_DIR": str(tmp_path / "data")}
    async with serve(tmp_path, "--workers", "2", **data) as server:
        made = await asyncio.to_thread(qflare, tmp_path, "operator", "add", "ann", "--json", **data)
        secret = json.loads(made.out)["credential"]
        async with browsing(server.page) as client:
            assert 303 == (await log_in(client, "ann", secret)).status_code
            assert {200} == {(await client.get("/")).status_code for _ in range(4)}
            async with streaming(client) as following:
                await following("parts")
                for pid in server.workers:
                    os.kill(pid, signal.SIGKILL)
                assert "closed" == (await following("none"))[1]
            await wait_for(f"{server.page}/login", 200, within_s=120)
            # The visits were in the memory of the worker that is gone.
            assert (303, "/login") == await asked(client, "/")
            assert 303 == (await log_in(client, "ann", secret)).status_code
            async with streaming(client) as following:
                await following("parts")
                server.terminate()
                assert "end" == (await following("end"))[1]
        assert 0 == await server.ended(within_s=60)
