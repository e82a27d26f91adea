"""What the pages say runs: every Python block of README, quickstart and transports, against real components."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import uvicorn

import qflare
from qflare import DEFAULT_TENANT, Device, DeviceKeyMapping, QuantumKeyManager
from qflare.errors import RefusedError
from qflare.protocol import wire
from qflare.protocol.envelope import encode_envelope, split_envelope

ROOT = Path(__file__).parent.parent


def blocks(page: str, **replacements: str) -> list[str]:
    """Return the Python blocks of a page, with stand-ins such as addresses replaced."""
    found = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    assert found, f"{page} has no Python block"
    for old, new in replacements.items():
        assert any(old in block for block in found), old
        found = [block.replace(old, new) for block in found]
    return found


def run(source: str, names: dict[str, Any]) -> dict[str, Any]:
    """Execute a block of a page."""
    exec(compile(source, "<page>", "exec"), names)  # noqa: S102 - the project's own pages
    return names


@pytest.fixture(name="home", autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the sealing keys of a test in a folder of its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path


async def test_quickstart_runs_as_written(database_dsn: str) -> None:
    """Session, mapping and log of the quickstart work in its order, and both sides of the mapping agree."""
    names: dict[str, Any] = {}
    for block in blocks("docs/quickstart.md"):
        run(block, names)
    with await names["agree"](database_dsn) as keypair:
        mapping, server = await names["map_keys"](keypair)
        device = DeviceKeyMapping(
            mapping.descriptor,
            device_id="edge-node-001",
            encapsulation_key=keypair.public_key,
            decapsulation_key=keypair.decapsulation_key,
            server_public_key=server.public_key,
        )
        assert mapping.mapping_id == device.mapping_id
    proof, figures = await names["watch"](database_dsn)
    assert figures.log_size > proof.index
    assert figures.statistics.sessions_live == 1
    assert figures.statistics.devices_active == 1


def test_readme_example_runs_as_written(database_dsn: str, home: Path) -> None:
    """The README's FastAPI application and its device meet over a real socket; the server's part is under 20 lines."""
    server_block, device_block = blocks("README.md", **{"postgresql:///fleet": database_dsn})
    assert len([line for line in server_block.splitlines() if line.strip()]) < 20
    names = run(server_block, {})
    server = uvicorn.Server(uvicorn.Config(names["app"], host="127.0.0.1", port=0, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        token = asyncio.run(_issue(database_dsn))
        device_block = device_block.replace("https://fl.example", f"http://127.0.0.1:{port}")
        device_block = device_block.replace('"edge.state"', "state")
        reply = run(device_block, {"token": token, "state": home / "edge.state"})["reply"]
        assert reply.plaintext.equals(b"thanks")
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


async def _issue(database_dsn: str) -> str:
    async with QuantumKeyManager(database_dsn) as manager:
        return await manager.issue_enrolment_token("edge-node-001")


async def test_a_transport_of_ones_own_carries_everything(database_dsn: str, home: Path) -> None:
    """The transport of docs/transports.md and the calls in its table carry enrolment, both forms and a record."""
    (block,) = blocks("docs/transports.md")
    pipe_class = run(block, {})["Pipe"]
    loop = asyncio.get_running_loop()
    async with QuantumKeyManager(database_dsn) as manager:

        async def announcement(name: bytes) -> bytes:
            return await manager.announcement(int(name) if name.isdigit() else name.decode())

        async def confirm(message: bytes) -> bytes:
            return (await manager.confirm(message)).confirmation

        async def echo(message: bytes) -> bytes:
            aad, record = split_envelope(message)
            opened = await manager.open_record(record, aad=aad)
            with opened.plaintext as plaintext:
                reply = await manager.seal_record(opened.session.sid, plaintext.view().tobytes()[::-1])
            return encode_envelope(b"", reply)

        table = {
            "identity": lambda _message: manager.identity(),
            "announcement": announcement,
            "enrol": manager.answer_enrolment,
            "hello": manager.answer_hello,
            "offer": lambda message: manager.offer_for(message[:32], tenant_id=message[32:]),
            "confirm": confirm,
            "record": echo,
        }

        async def answer(step: str, message: bytes) -> bytes:
            try:
                return await table[step](message)
            except RefusedError:
                return wire.REFUSED

        def call(step: str, message: bytes) -> bytes:
            return asyncio.run_coroutine_threadsafe(answer(step, message), loop).result(timeout=30)

        def live(token: str) -> bytes:
            with Device.enrol(pipe_class(call), token, device_id="edge-node-001", state=home / "edge.state") as device:
                for form in ("hello", "offer"):
                    device.connect(form)
                reply = device.exchange(b"abc", aad=b"round 7")
                assert reply is not None
                return reply.plaintext.view().tobytes()

        token = await manager.issue_enrolment_token("edge-node-001")
        assert await asyncio.to_thread(live, token) == b"cba"
        assert manager.tenant == DEFAULT_TENANT


def test_api_reference_names_every_public_name() -> None:
    """docs/api.md documents exactly what `import qflare` offers, and every method it names exists."""
    page = (ROOT / "docs/api.md").read_text()
    documented = set(re.findall(r"^### `(\w+)`", page, flags=re.MULTILINE))
    assert documented == set(qflare.__all__)
    sections = re.split(r"^### `(\w+)`.*$", page, flags=re.MULTILINE)[1:]
    for name, text in zip(sections[::2], sections[1::2], strict=True):
        for method in re.findall(r"^\| `(?:await )?(\w+)\(", text, flags=re.MULTILINE):
            assert callable(getattr(getattr(qflare, name), method)), f"{name}.{method}"


def test_links_between_pages_lead_somewhere() -> None:
    """Every relative link in the pages names a file of the project."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_a_decision_has_a_number_of_its_own() -> None:
    """No two decisions share a number, and each begins with its own: other pages and the sources cite them by it."""
    names = sorted(page.name for page in ROOT.glob("docs/decisions/*.md"))
    numbers = [name[:4] for name in names]
    assert len(set(numbers)) == len(numbers), names
    for name in names:
        assert (ROOT / "docs/decisions" / name).read_text().startswith(f"# {name[:4]} "), name


def test_every_cited_test_exists() -> None:
    """A page that names a test names one that is there."""
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for path, name in re.findall(r"`(tests/[\w/]+\.(?:py|c))(?:::(\w+))?`", page.read_text()):
            file = ROOT / path
            assert file.exists(), f"{page.name} cites {path}"
            assert not name or f"def {name}(" in file.read_text(), f"{page.name} cites {path}::{name}"
