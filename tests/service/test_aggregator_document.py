"""The example in docs/http.md runs, and its tables say what the code does."""

import asyncio
import re
from pathlib import Path

import qflare
from manager_world import settings
from qflare.device import Device
from qflare.protocol import wire
from service.served import serving, url_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "http.md"


async def test_the_example_serves_a_device(database_dsn, tmp_path, monkeypatch):
    """The FastAPI example, as it stands in the document, is under twenty lines and serves a device."""
    source = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[1]
    assert len([line for line in source.splitlines() if line.strip()]) < 20
    place = {"data_dir": tmp_path / "data", "config": settings(tmp_path)}

    class Placed(qflare.QuantumKeyManager):
        """The manager of the example, kept out of the home folder."""

        def __init__(self):
            super().__init__(database_dsn, **place)

    monkeypatch.setattr(qflare, "QuantumKeyManager", Placed)
    names = {}
    exec(compile(source, "docs/http.md", "exec"), names)  # noqa: S102 - the document is ours
    async with serving(names["app"], lifespan="on") as server:
        token = await names["manager"].issue_enrolment_token("d")

        def work():
            with Device.enrol(f"{url_of(server)}/fl", token, device_id="d", state=tmp_path / "state") as device:
                device.connect()
                reply = device.exchange(b"12345")
                return bytes(reply.plaintext.view())

        assert b"thank you for 5 bytes" == await asyncio.to_thread(work)
    assert not names["manager"].is_open


def test_the_sizes_in_the_document_are_the_protocols():
    """The body sizes of docs/http.md are those of the wire."""
    text = DOCUMENT.read_text()
    for name, size in (
        ("ENROL", wire.ENROL_BYTES),
        ("ENROLLED", wire.ENROLLED_BYTES),
        ("M1", wire.M1_BYTES),
        ("M2", wire.M2_BYTES),
        ("M3", wire.M3_BYTES),
        ("ANSWER", wire.ANSWER_BYTES),
        ("OFFER", wire.OFFER_BYTES),
    ):
        assert f"{name}, {size:,} bytes" in text, name
