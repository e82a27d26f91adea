"""The quickstart is what the project set out to be: its calls in that order, and what follows from them."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from qflare import Device, EventSeverity, KeyNotFoundError, QuantumKeyManager, SecurityEventType, SecurityMonitor
from qflare.protocol.evidence import verify_evidence
from qflare.protocol.identity import decode_identity

PAGE = Path(__file__).parent.parent / "docs" / "quickstart.md"
DEVICE_ID = "edge-node-001"
ORDER = (
    ("generate_device_keypair", ()),
    ("initiate_temporal_key_exchange", ()),
    ("complete_key_exchange", ()),
    ("create_key_mapping", ()),
    ("derive_communication_key", ("encryption",)),
    ("derive_communication_key", ("signing",)),
    ("log_security_event", ()),
    ("rotate_device_keys", ()),
)
"""The public names in the order of the founding document, and the rotation that follows."""


@pytest.fixture(name="page")
def _page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE))


def calls_of(source: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return the method calls in the order in which they stand, with their literal texts."""
    found = [
        (node.lineno, node.col_offset, node.func.attr, tuple(a.value for a in node.args if isinstance(a, ast.Constant)))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    return [(name, literals) for _, _, name, literals in sorted(found)]


def test_calls_stand_in_the_order_of_the_founding_document(page: str) -> None:
    """Generate, initiate, complete, create mapping, derive both keys, log: with this device, and no `async with`."""
    calls = iter(calls_of(page))
    for wanted in ORDER:
        assert wanted in calls, f"{wanted} does not follow what stands before it"
    assert f'device_id = "{DEVICE_ID}"' in page
    assert "async with" not in page
    assert "Kyber1024" in page


async def test_what_follows_from_the_quickstart(page: str, database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The confirmation verifies, the log holds an entry for each step in order, and the rotation replaces the keys."""
    assert database_dsn.startswith("postgresql://")
    evidence = []
    finish = Device.finish

    def finish_and_keep(device: Device, m4: bytes) -> Any:
        terms = finish(device, m4)
        evidence.append((device.evidence(), terms))
        return terms

    monkeypatch.setattr(Device, "finish", finish_and_keep)
    names: dict[str, Any] = {}
    exec(compile(page, "quickstart.md", "exec"), names)  # noqa: S102 - the project's own page
    keypair = await names["agree"](database_dsn)
    mapping, server = await names["map_keys"](keypair)
    proof, figures = await names["watch"](database_dsn)
    renewed = await names["renew"](database_dsn)
    rotated = await names["renew_mapping"](keypair)

    async with QuantumKeyManager(database_dsn) as manager:
        # The confirmation of both sessions, as a third party checks it.
        identity = decode_identity(await manager.identity(), server_id=keypair.server_id)
        for (shown, terms), version in zip(evidence, (1, 2), strict=True):
            verify_evidence(shown, identity, ref=keypair.ref, key_version=version)
            assert (await manager.find_session(terms.sid)).key_version == version
        # The rotation: the next version is current, and the key before begins nothing.
        assert (renewed.key_version, keypair.key_version) == (2, 1)
        current = await manager.get_device_public_key(DEVICE_ID)
        assert current.public_key == renewed.public_key != keypair.public_key
        with pytest.raises(KeyNotFoundError):
            await manager.initiate_temporal_key_exchange(DEVICE_ID, keypair.public_key)
    assert (mapping.generation, rotated.generation, mapping.server_public_key) == (1, 2, server.public_key)

    async with SecurityMonitor(database_dsn) as monitor:
        await monitor.verify_log()
        entries = await monitor.list_events(limit=1000)
        assert entries[proof.index] == proof.entry
        assert figures.log_size > proof.index
    kinds = [entry.event_type for entry in entries]
    first = kinds.index(SecurityEventType.KEY_GENERATION)
    session = kinds.index(SecurityEventType.KEY_EXCHANGE)
    rotation = next(
        entry.index
        for entry in entries
        if entry.event_type is SecurityEventType.KEY_ROTATION and entry.device_id == DEVICE_ID
    )
    assert first < session < proof.index < rotation
    assert (proof.entry.event_type, proof.entry.severity) == (SecurityEventType.KEY_EXCHANGE, EventSeverity.INFO)
    assert (proof.entry.device_id, proof.entry.data) == (DEVICE_ID, b'{"round":7}')
    # Sessions name nobody in the log (H9); the one after the rotation stands behind it.
    assert [entry.index for entry in entries if entry.entry_type == 1][-1] > rotation
    keypair.wipe()
    renewed.wipe()
