"""The page's loop and stream by themselves: what is sent to whom, what a slow database costs, who is let go."""

import asyncio
import json

import pytest

from qflare.errors import StoreUnavailableError
from qflare.service.markup import Markup
from qflare.service.page.guesses import NAMES_MAX, Guesses
from qflare.service.page.stream import stream
from qflare.service.page.visits import LoginForms, Visits
from qflare.service.page.watch import PACE, Watch
from qflare.testing import TurnableClock


class Shown:
    """A look whose parts a test chooses."""

    def __init__(self):
        self.parts = {"a": "1", "b": "1"}
        self.takes_s = 0.0
        self.looks = 0
        self.failure = None

    async def see(self):
        self.looks += 1
        await asyncio.sleep(self.takes_s)
        if self.failure is not None:
            raise self.failure
        return self.parts

    def watch(self, refresh_s=0.01):
        return Watch(self, lambda parts: {name: Markup(part) for name, part in parts.items()}, refresh_s=refresh_s)


def visit():
    visits = Visits(TurnableClock(), visit_s=600, idle_s=600, visits_max=1)
    return visits.begin(bytes(16), "ann", secret_id=bytes(16))[1]


async def fresh(watch):
    watch._looked_at = 0.0
    await watch.refresh()


async def test_only_what_has_changed_is_told_to_who_saw_the_rest():
    """A mark names what was seen; an unknown one, or one of another life, has seen nothing."""
    shown = Shown()
    watch = shown.watch()
    await fresh(watch)
    first = watch.mark
    assert ({"a", "b"}, {}) == (set(watch.since("")), watch.since(first))
    await fresh(watch)
    assert first == watch.mark
    shown.parts = {"a": "1", "b": "2"}
    await fresh(watch)
    assert ({"b": "2"}, {}) == (watch.since(first), watch.since(watch.mark))
    for strange in ("", "x-1", first + "x", first.replace("-", "-²"), "-", shown.watch().mark):
        assert {"a", "b"} == set(watch.since(strange)), strange


async def test_a_slow_database_is_asked_less():
    """After a look that took long the next one waits nine times as long; all who watch share one look."""
    shown = Shown()
    watch = shown.watch()
    shown.takes_s = 0.05
    await asyncio.gather(*[watch.refresh() for _ in range(20)])
    assert 1 == shown.looks
    assert PACE * 0.05 <= watch._pause_s()


async def test_nobody_looks_while_nobody_watches():
    """The loop begins with the first who watches and ends with the last, and a failure does not end it."""
    shown = Shown()
    watch = shown.watch()
    async with watch.watched(), watch.watched():
        async with asyncio.timeout(60):
            await watch.changed(watch.mark, None)
            shown.failure = StoreUnavailableError("gone")
            while watch.trouble is None:
                await asyncio.sleep(0.01)
            shown.failure = None
            await watch.changed(watch.mark, "StoreUnavailableError")
        assert watch._loop is not None
    assert None is watch._loop


async def receive_nothing():
    await asyncio.Event().wait()


async def test_who_does_not_read_is_let_go(monkeypatch):
    """A browser that takes nothing ends its stream, and its place is free again."""
    monkeypatch.setattr("qflare.service.page.stream.SEND_S", 0.05)
    its, sent = visit(), []

    async def send(message):
        sent.append(message["type"])
        if len(sent) > 1:
            assert 1 == its.streams
            await asyncio.Event().wait()

    async with asyncio.timeout(60):
        await stream(its, Shown().watch(), mark="", heartbeat_s=60, receive=receive_nothing, send=send)
    assert (0, 2) == (its.streams, len(sent))


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_stream_leaves_nothing_behind(is_cancelled):
    """Cancelled, or left by its browser, it gives its place back and ends the loop."""
    its, watch, leave, told = visit(), Shown().watch(), asyncio.Event(), asyncio.Event()

    async def receive():
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        if b"event: parts" in message.get("body", b""):
            assert {"a", "b"} == set(json.loads(message["body"].split(b"data: ")[1].split(b"\n")[0]))
            told.set()

    task = asyncio.create_task(stream(its, watch, mark="", heartbeat_s=60, receive=receive, send=send))
    async with asyncio.timeout(60):
        await told.wait()
        if is_cancelled:
            task.cancel()
        else:
            leave.set()
        await asyncio.wait({task})
    assert (is_cancelled, 0, None) == (task.cancelled(), its.streams, watch._loop)


def test_names_that_are_guessed_are_remembered_up_to_a_bound():
    """Who tries many names fills no memory, and the bound over all names holds him."""
    clock = TurnableClock()
    guesses = Guesses(clock, name_max=2, all_max=10**6)
    for number in range(NAMES_MAX + 50):
        assert 0 == guesses.begin(f"n{number}")
    assert NAMES_MAX == len(guesses._names)
    few = Guesses(clock, name_max=2, all_max=3)
    assert [0, 0, 0, 2] == [few.begin(f"n{number}") for number in range(4)]
    few.was_right("n1")
    assert 0 == few.begin("n9")


def test_a_form_is_of_the_browser_that_fetched_it():
    """Another browser's cookie, another worker's form and a token that is no text of ours are refused."""
    forms = LoginForms()
    token = forms.token("cookie")
    assert forms.is_token("cookie", token)
    for cookie, other in (("cookie2", token), ("cookie", token + "x"), ("cookie", ""), ("cookie", "é\ud800")):
        assert not forms.is_token(cookie, other)
    assert not LoginForms().is_token("cookie", token)
