"""The live page in Chromium: by keyboard alone, on a phone, in the dark, to a screen reader, and its proofs."""

import json
import random
from base64 import b64encode
from contextlib import asynccontextmanager
from hashlib import sha256

import pytest

from chromium import WHY_NOT, chromium, program
from manager_world import Edge, managers
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.protocol.log import (
    consistency_path,
    hash_children,
    hash_leaf,
    inclusion_path,
    nodes_for_consistency,
    nodes_for_path,
    root_from_nodes,
)
from service.page_served import paging, sighted
from store_records import new_sighting

pytestmark = pytest.mark.skipif(program() is None, reason=WHY_NOT)

FOCUSED = "document.activeElement.id || document.activeElement.textContent"
# What a person must be able to read: every text whose contrast with what lies behind it is below WCAG's AA.
FAINT = """(() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!colour.startsWith("rgba") || !colour.endsWith(", 0)")) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const isText = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!isText || element.closest("noscript") || element.getClientRects().length === 0) continue;
    const [one, other] = [light(getComputedStyle(element).color), light(behind(element))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < 4.5) faint.push(`${element.tagName} ${element.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return faint;
})()"""
SMALL = """[...document.querySelectorAll("button, input:not([type=hidden])")]
  .filter((each) => each.getBoundingClientRect().height < 44).map((each) => each.textContent || each.name)"""
WAYS = """[...document.querySelectorAll("nav a")]
  .filter((each) => each.getBoundingClientRect().height < 44).map((each) => each.textContent)"""
WIDTH = "[document.documentElement.scrollWidth, innerWidth]"


@asynccontextmanager
async def page_of(database_dsn, folder, **settings):
    """Yield a manager with something to see, the page's address, an operator's secret and a browser's tab."""
    async with managers(database_dsn, folder) as (manager,), paging(manager, **settings) as url, chromium() as browser:
        secret = await manager.add_operator("ann")
        for name in ("pump-7", "a-device-with-a-name-that-is-longer-than-any-phone-is-wide-" + "x" * 120):
            await (await Edge.provision(manager, name)).connect(manager)
        await manager.monitor.log_security_event(
            SecurityEventType.REPLAY_DETECTED, EventSeverity.WARNING, {"step": "record", "reason": "replay" * 50}
        )
        yield manager, url, secret, await browser.tab()


async def log_in(tab, url, secret):
    """As a person without a mouse does."""
    await tab.open(f"{url}/login")
    # The focus is set some time after the load.
    await tab.until("document.activeElement.id === 'name'")
    await tab.write("ann")
    await tab.press("Tab")
    await tab.until("document.activeElement.id === 'secret'")
    await tab.write(secret)
    async with tab.loading():
        await tab.press("Enter")


async def focus(tab, wanted):
    """Wait until the focus is where it belongs."""
    await tab.until(f"({FOCUSED}) === {json.dumps(wanted)}")


async def back_to(tab, wanted):
    """Go back by keyboard until the focus is there."""
    for _ in range(30):
        await tab.press("Tab", shift=True)
        if await tab.evaluate(FOCUSED) == wanted:
            return
    raise AssertionError(f"{wanted} is not reached by keyboard")


async def forth_to(tab, wanted):
    """Go on by keyboard until the focus is there."""
    for _ in range(30):
        await tab.press("Tab")
        if await tab.evaluate(FOCUSED) == wanted:
            return
    raise AssertionError(f"{wanted} is not reached by keyboard")


async def test_an_incident_is_acknowledged_by_keyboard(database_dsn, tmp_path):
    """From the overview, where news do not take the focus off its link, to the form and back, and to a search."""
    async with page_of(database_dsn, tmp_path) as (manager, url, secret, tab):
        sighting = new_sighting()
        await sighted(manager, sighting)
        await log_in(tab, url, secret)
        await tab.until("document.getElementById('live').textContent === 'Live'")
        await forth_to(tab, "replays")
        await sighted(manager, new_sighting(count=6))
        await tab.until("document.getElementById('part-incidents').textContent.includes('seen 7 times')")
        await focus(tab, "replays")
        async with tab.loading():
            await tab.press("Enter")
        assert f"{url}/incident?id={sighting.incident_id.hex()}" == await tab.evaluate("location.href")
        await forth_to(tab, "note")
        await tab.write("looked at it")
        await forth_to(tab, "Acknowledge")
        assert ("textbox", "Note, which the log keeps with your name") in await tab.names()
        async with tab.loading():
            await tab.press("Enter")
        text = await tab.until("document.getElementById('main').textContent")
        assert "acknowledged by ann" in text
        assert "looked at it" in text
        await back_to(tab, "Devices")
        async with tab.loading():
            await tab.press("Enter")
        assert ("search", "") in await tab.names()
        await forth_to(tab, "prefix")
        await tab.write("pump")
        async with tab.loading():
            await tab.press("Enter")
        names = await tab.names()
        assert [("rowheader", "pump-7")] == [each for each in names if each[0] == "rowheader"]
        assert ("table", "Devices whose names begin with “pump”, in order of name") in names
        assert [] == tab.errors


async def test_lists_fit_a_phone_and_can_be_read_in_the_light_and_in_the_dark(database_dsn, tmp_path, monkeypatch):
    """No side-scrolling, contrast enough, targets that a finger meets, and a name for everything, on each document."""
    monkeypatch.setattr("qflare.service.page.lists.ROWS", 1)
    async with page_of(database_dsn, tmp_path) as (manager, url, secret, tab):
        evidence = json.dumps({"what": "x" * 400, "step": "record"}).encode()
        sighting = new_sighting(evidence=evidence, device_id="pump-7", ref=bytes(32))
        await sighted(manager, sighting)
        await sighted(manager, new_sighting())
        for reason in ("w" * 300, "why"):
            asked = await manager.respond(
                "revoke", by="ann", reason=reason, device_id="pump-7", incident_id=sighting.incident_id
            )
        await log_in(tab, url, secret)
        about = f"/incident?id={sighting.incident_id.hex()}"
        response = f"/response?id={asked.response_id.hex()}"
        for path in ("/", "/devices", "/incidents", about, "/responses", response):
            await tab.open(url + path)
            for width in (320, 1280):
                for is_dark in (False, True):
                    await tab.look(width=width, is_dark=is_dark)
                    scroll, inner = await tab.evaluate(WIDTH)
                    assert (width, True) == (inner, scroll <= inner), (path, width, scroll)
                    assert [] == await tab.evaluate(FAINT), (path, width, is_dark)
                    assert [] == await tab.evaluate(SMALL), (path, width)
                    assert [] == await tab.evaluate(WAYS), (path, width)
            names = await tab.names()
            unnamed = {"button", "link", "textbox", "searchbox", "region", "navigation"}
            assert [] == [(role, name) for role, name in names if role in unnamed and not name], path
            assert ("heading", "default") in names
        assert [] == tab.errors


async def test_the_page_is_used_by_keyboard_and_told_to_a_screen_reader(database_dsn, tmp_path):
    """Login, skip link, verify and logout need no mouse, news come by themselves, and everything has a name."""
    async with page_of(database_dsn, tmp_path) as (manager, url, secret, tab):
        await log_in(tab, url, "wrong")
        assert ("alert", "") in await tab.names()
        assert "ann" == await tab.evaluate("document.getElementById('name').value")
        await log_in(tab, url, secret)
        assert f"{url}/" == await tab.evaluate("location.href")
        await tab.until("document.getElementById('live').textContent === 'Live'")
        # One Tab to the way past what is above the content, one more to each thing that can be used.
        await tab.press("Tab")
        await focus(tab, "To the content")
        await tab.press("Enter")
        await focus(tab, "main")
        for wanted in ("All incidents", "All responses", "All devices, and search", "verify"):
            await tab.press("Tab")
            await focus(tab, wanted)
        assert await tab.evaluate("getComputedStyle(document.activeElement).outlineStyle === 'solid'")
        await tab.press(" ")
        said = await tab.until("/^✓|^✕|^Not/.test(verdict.textContent) && verdict.textContent")
        assert "✓ The proofs hold" in said
        assert "Its signature was not checked here" in said
        await focus(tab, "verify")
        # What came meanwhile is there without a reload, and does not take the focus.
        await sighted(manager, new_sighting(severity=EventSeverity.CRITICAL))
        await tab.until("document.getElementById('part-incidents').textContent.includes('replays')")
        assert "One incident is not closed." == await tab.until("document.getElementById('said').textContent")
        await focus(tab, "verify")
        names = await tab.names()
        assert [] == [
            (role, name)
            for role, name in names
            if role in {"button", "link", "textbox", "image", "region"} and not name
        ]
        for expected in (
            ("main", ""), ("banner", ""), ("region", "Fleet"), ("region", "Incidents"), ("region", "Log"),
            ("navigation", "Places"), ("link", "Devices"), ("region", "Responses"), ("button", "Verify in this browser"), ("button", "Log out"), ("link", "To the content"),
            ("heading", "Buckets"), ("table", "Devices in order of name"), ("columnheader", "State"), ("rowheader", "pump-7"),
        ):  # fmt: skip
            assert expected in names, (expected, names)
        assert any(role == "image" and name.startswith("Sessions that began in each") for role, name in names)
        await back_to(tab, "Log out")
        async with tab.loading():
            await tab.press("Enter")
        assert f"{url}/login" == await tab.evaluate("location.href")
        assert [] == [error for error in tab.errors if "403" not in error]


async def test_it_fits_a_phone_and_can_be_read_in_the_light_and_in_the_dark(database_dsn, tmp_path):
    """No side-scrolling, contrasts of 4.5 to 1 and more, and targets that a finger meets, on both documents."""
    async with page_of(database_dsn, tmp_path) as (_, url, secret, tab):
        for is_login in (True, False):
            if is_login:
                await log_in(tab, url, "wrong")
            else:
                await log_in(tab, url, secret)
                await tab.until("document.getElementById('live').textContent === 'Live'")
            grounds = set()
            for width in (320, 390, 1280):
                for is_dark in (False, True):
                    await tab.look(width=width, is_dark=is_dark)
                    scroll, inner = await tab.evaluate(WIDTH)
                    assert (width, True) == (inner, scroll <= inner), (width, scroll)
                    assert [] == await tab.evaluate(FAINT), (width, is_dark)
                    assert [] == await tab.evaluate(SMALL), width
                    grounds.add(await tab.evaluate("getComputedStyle(document.body).backgroundColor"))
            assert 2 == len(grounds)


async def test_a_log_that_forks_or_shrinks_is_said(database_dsn, tmp_path):
    """What the browser saw before must be continued, and a head that does not is not remembered."""
    async with page_of(database_dsn, tmp_path) as (manager, url, secret, tab):
        await log_in(tab, url, secret)
        verify = "(verdict.textContent = '', document.getElementById('verify').click())"
        said = "/^✓|^✕|^Not/.test(verdict.textContent) && verdict.textContent + steps.textContent"

        async def verified():
            await tab.evaluate(verify)
            return await tab.until(said)

        assert "for the first time" in await verified()
        key, kept = await tab.evaluate("[localStorage.key(0), localStorage.getItem(localStorage.key(0))]")
        head = json.loads(kept)
        for _ in range(3):
            await manager.monitor.log_security_event(SecurityEventType.SYSTEM, EventSeverity.INFO, {})
        await manager.monitor.checkpoint()
        assert f"continues the one of {head['size']} that this browser saw before" in await verified()

        async def remember(**changes):
            await tab.evaluate(f"localStorage.setItem({json.dumps(key)}, {json.dumps(json.dumps(head | changes))})")

        forged = b64encode(bytes(32)).decode()
        await remember(root=forged)
        assert "The log has forked" in await verified()
        assert forged == (json.loads(await tab.evaluate("localStorage.getItem(localStorage.key(0))")))["root"]
        await remember(size=10**6)
        assert "The log has shrunk" in await verified()
        await remember()
        assert "✓ The proofs hold" in await verified()


def trees(seed):
    """Leaves, nodes and roots of trees of many sizes."""
    leaves = [hash_leaf(seed + bytes([n])) for n in range(70)]
    nodes = {(0, index): leaf for index, leaf in enumerate(leaves)}
    level = 1
    while len(leaves) >> level:
        for index in range(len(leaves) >> level):
            nodes[level, index] = hash_children(nodes[level - 1, 2 * index], nodes[level - 1, 2 * index + 1])
        level += 1
    return leaves, nodes


def text(value):
    return b64encode(value).decode()


async def test_the_browsers_proofs_are_those_of_rfc_9162(database_dsn, tmp_path):
    """Every proof that holds here holds there; with one bit, one index or one size changed none does."""
    generator = random.Random(5)
    leaves, nodes = trees(sha256(b"page").digest())
    good, bad = [], []
    for size in (1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 17, 31, 33, 64, 70):
        root = root_from_nodes(size, nodes)
        for index in {0, size - 1, size // 2, generator.randrange(size)}:
            path = inclusion_path(index, size, {node: nodes[node] for node in nodes_for_path(index, size)})
            case = ["leadsTo", text(root), text(leaves[index]), index, size, [text(node) for node in path]]
            good.append(case)
            bad.append([*case[:2], text(leaves[index - 1] if size > 1 else bytes(32)), *case[3:]])
            bad.append([*case[:3], size, *case[4:]])
            bad.append([*case[:5], [*case[5], text(bytes(32))]])
            # The same hashes as a proof of a larger tree: they lead to the root, and not far enough.
            bad.append([*case[:4], 2 * size, case[5]])
            if path:
                bad.append([*case[:5], case[5][:-1]])
                bad.append([*case[:3], (index + 1) % size, *case[4:]])
        for old in {1, max(1, size // 2), max(1, size - 1), generator.randrange(1, size + 1), size}:
            path = consistency_path(old, size, {node: nodes[node] for node in nodes_for_consistency(old, size)})
            case = [
                "continues",
                text(root_from_nodes(old, nodes)),
                old,
                text(root),
                size,
                [text(node) for node in path],
            ]
            good.append(case)
            bad.append([case[0], text(bytes(32)), *case[2:]])
            bad.append([*case[:3], text(bytes(32)), *case[4:]])
            bad.append([*case[:5], [*case[5], text(bytes(32))]])
            bad.append([*case[:2], 0, *case[3:]])
            bad.append([*case[:4], 2 * size, case[5]])
            if path:
                bad.append([*case[:5], case[5][1:]])
    run = """(async (cases) => {
      const { continues, fromBase64, leadsTo } = await import("/proofs.js");
      const results = [];
      for (const [kind, ...rest] of cases) {
        const given = rest.map((each) => Array.isArray(each) ? each.map(fromBase64)
          : typeof each === "string" ? fromBase64(each) : each);
        results.push(await (kind === "leadsTo" ? leadsTo : continues)(...given));
      }
      return results;
    })"""
    async with managers(database_dsn, tmp_path) as (manager,), paging(manager) as url, chromium() as browser:
        tab = await browser.tab()
        await tab.open(f"{url}/login")
        for cases, expected in ((good, True), (bad, False)):
            results = await tab.evaluate(f"{run}({json.dumps(cases)})")
            assert [] == [case for case, result in zip(cases, results, strict=True) if result is not expected]
        # And the policy holds in a real browser: what is no file of the page does not run.
        await tab.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')")
        await tab.evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))"
        )
        await tab.until("document.querySelector('img').complete")
        assert await tab.evaluate("window.ran === undefined")
        assert any("Content Security Policy" in error for error in tab.errors)
