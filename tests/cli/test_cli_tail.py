"""`qflare audit tail`: filters, following, and lines that stay lines."""

import asyncio
import json
import signal
import sys

import pytest

from cli.test_cli import run
from manager_world import managers
from qflare.cli.audit_tail import _Filter, _last
from qflare.model.event import EventSeverity, SecurityEventType
from service.processes import environment

SYSTEM, MAPPING = SecurityEventType.SYSTEM, SecurityEventType.MAPPING
INFO, WARNING, CRITICAL = EventSeverity.INFO, EventSeverity.WARNING, EventSeverity.CRITICAL


@pytest.fixture
async def logged(database_dsn, tmp_path):
    """A log with events of several kinds, and a manager that can add to it."""
    async with managers(database_dsn, tmp_path) as (manager,):
        for number, (kind, severity, device) in enumerate(
            (
                (SYSTEM, INFO, "a"),
                (MAPPING, WARNING, "b"),
                (SYSTEM, CRITICAL, "b"),
                (MAPPING, INFO, None),
                (SYSTEM, INFO, "a"),
            )
        ):
            await manager.monitor.log_security_event(kind, severity, {"number": number}, device_id=device)
        yield manager.monitor, ("audit", "tail", "--data-dir", tmp_path / "data"), {"QFLARE_DSN": database_dsn}


def numbers(ended):
    assert ended.code == 0, ended.err
    found = [json.loads(json.loads(line)["data"]) for line in ended.out.splitlines()]
    return [data["number"] for data in found if "number" in data]


async def test_the_last_entries_are_chosen_by_type_severity_and_device(logged, tmp_path, monkeypatch):
    """Each filter alone and together; how many are wanted counts those that are taken, not those passed over."""
    monitor, tail, place = logged
    end = await monitor.log_size()
    for kinds, severity, device, lines, wanted in (
        ((), EventSeverity.DEBUG, None, 5, [0, 1, 2, 3, 4]),
        ((), EventSeverity.DEBUG, None, 2, [3, 4]),
        ((), EventSeverity.DEBUG, None, 0, []),
        ((MAPPING,), EventSeverity.DEBUG, None, 20, [1, 3]),
        ((MAPPING, SYSTEM), EventSeverity.DEBUG, None, 4, [1, 2, 3, 4]),
        ((), WARNING, None, 20, [1, 2]),
        ((), EventSeverity.DEBUG, "a", 1, [4]),
        ((SYSTEM,), CRITICAL, "b", 20, [2]),
        ((), EventSeverity.DEBUG, "nobody", 20, []),
    ):
        chosen = _Filter(kinds=frozenset(kinds), severity=severity, device=device)
        for page in (1000, 2):
            monkeypatch.setattr("qflare.cli.audit_tail._PAGE", page)
            found = [json.loads(entry.data) for entry in await _last(monitor, chosen, end, lines)]
            assert wanted == [data["number"] for data in found if "number" in data], (kinds, severity, device, lines)
    asked = ("--type", "mapping", "--type", "system", "--severity", "warning", "--device", "b", "--lines", 1, "--json")
    assert [2] == numbers(await run(tmp_path, *tail, *asked, **place))
    assert 2 == (await run(tmp_path, *tail, "--severity", "loud", **place)).code


async def test_nothing_in_an_entry_moves_the_terminal(logged, tmp_path):
    """Escape sequences, reversed text and line ends in names and data are shown, one line an entry."""
    monitor, tail, place = logged
    nasty = "\x1b[2J\x9b1m\u202e\u2028\r\n\x7f"
    await monitor.log_security_event(SYSTEM, INFO, {"text": nasty}, device_id="x\u202e\x9b")
    ended = await run(tmp_path, *tail, "--lines", 1, **place)
    assert 1 == ended.out.count("\n")
    assert ended.out.removesuffix("\n").isprintable()
    assert "\\u202e" in ended.out


async def test_followed_entries_are_shown_as_they_come(logged, tmp_path):
    """--follow prints what is logged afterwards, each once and in order, until it is interrupted."""
    monitor, tail, place = logged
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "qflare", *map(str, tail), "--follow", "--json", "--lines", "1", "--every", "0.1",
        "--type", "system",
        cwd=tmp_path, env=environment(tmp_path, **place), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            assert 4 == json.loads(json.loads(await process.stdout.readline())["data"])["number"]
            for number in range(10, 14):
                await monitor.log_security_event(MAPPING, INFO, {"number": 99})
                await monitor.log_security_event(SYSTEM, INFO, {"number": number})
                assert number == json.loads(json.loads(await process.stdout.readline())["data"])["number"]
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (130, b"") == (process.returncode, err)
