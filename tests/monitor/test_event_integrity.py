"""`verify_event_integrity` from a fresh process: it holds for every event that was written, and for no changed one."""

import asyncio
import json
import sys
from pathlib import Path

from manager_world import Edge, managers
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.incident import IncidentState

SCRIPT = Path(__file__).with_name("fresh_verifier.py")

CHANGES = {
    "entry_type": "entry_type = 2",
    "event_type": "event_type = CASE event_type WHEN 'mapping' THEN 'system' ELSE 'mapping' END",
    "severity": "severity = CASE severity WHEN 'debug' THEN 'info' ELSE 'debug' END",
    "device_id": "device_id = 'somebody else'",
    "leaf_hash": "leaf_hash = sha256(leaf_hash)",
    "leaf_data": "leaf_data = set_byte(leaf_data, length(leaf_data) - 1, 255 - get_byte(leaf_data, length(leaf_data) - 1))",
    "data": "data = set_byte(data, length(data) - 1, 255 - get_byte(data, length(data) - 1))",
    "recorded_at": "recorded_at = recorded_at + interval '1 millisecond'",
    "tenant_id": "tenant_id = gen_random_uuid()",
    "log_index": "log_index = log_index + 1000000",
}
"""One change of each column, of an event of its own."""
OF_KEY = {"sealed_key": "sealed_key = set_byte(sealed_key, 20, 255 - get_byte(sealed_key, 20))"}


async def fresh(dsn, folder, size):
    """What a fresh process says: index to error, of entries that do not hold."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), dsn, str(folder), str(size), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(120):
        answer, _ = await process.communicate()
    assert 0 == process.returncode
    return {int(index): failure for index, failure in json.loads(answer).items()}


async def written(manager):
    """Fill a log with everything that writes into it; return its size, and two events a change: one of a device."""
    # A heading is written with its sessions alone.
    types = [each for each in SecurityEventType if each is not SecurityEventType.SESSION_HEADING]
    for number, event_type in enumerate(types):
        severity = list(EventSeverity)[number % len(EventSeverity)]
        await manager.monitor.log_security_event(
            event_type, severity, {"n": number}, device_id="d" if number % 2 else None
        )
    edge = await Edge.provision(manager, "d")
    await edge.connect(manager)
    await edge.connect(manager, form="offer")
    await manager.issue_enrolment_token("e")
    await manager.rotate_device_keys("d")
    await manager.revoke_device("d", reason="over")
    targets = {}
    for name in (*CHANGES, *OF_KEY):
        for device_id in (None, "d"):
            logged = await manager.monitor.log_security_event(
                SecurityEventType.SYSTEM, EventSeverity.INFO, {"to be changed": name}, device_id=device_id
            )
            targets[name, device_id] = logged.index
    await manager.monitor.log_security_event(SecurityEventType.SYSTEM, EventSeverity.INFO, {"last": True})
    return (await manager.monitor.checkpoint()).size, targets


async def test_every_event_holds_in_a_fresh_process_and_no_changed_one_does(database_dsn, tmp_path, admin):
    """All entries hold where nothing else than database and keeper is known; each changed column is found, no other row."""
    columns = {
        row["column_name"]
        for row in await admin.fetch(
            "SELECT column_name FROM information_schema.columns"
            " WHERE table_schema = 'qflare' AND table_name = 'audit_entry'"
        )
    }
    assert columns == set(CHANGES)
    async with managers(database_dsn, tmp_path) as (manager,):
        size, targets = await written(manager)
    assert {} == await fresh(database_dsn, tmp_path, size)
    await admin.execute("SET session_replication_role = replica")
    await admin.execute("ALTER TABLE qflare.audit_entry DROP CONSTRAINT audit_entry_leaf_hash_of_data")
    for name, change in CHANGES.items():
        for device_id in (None, "d"):
            status = await admin.execute(
                f"UPDATE qflare.audit_entry SET {change} WHERE log_index = $1",  # noqa: S608 - the test's own
                targets[name, device_id],
            )
            assert "UPDATE 1" == status
    await admin.execute(
        f"UPDATE qflare.audit_key SET {OF_KEY['sealed_key']} WHERE log_index = $1",  # noqa: S608 - the test's own
        targets["sealed_key", "d"],
    )
    failed = await fresh(database_dsn, tmp_path, size)
    changed = {index for key, index in targets.items() if key != ("sealed_key", None)}
    assert changed == set(failed)
    gone = {index for (name, _), index in targets.items() if name in {"tenant_id", "log_index"}}
    for index, failure in failed.items():
        # What is not in the tenant's log any more is not found; all else is named with its index.
        assert ("KeyNotFoundError" if index in gone else f"EvidenceError {index}") == failure


async def test_events_of_incidents_hold_too(database_dsn, tmp_path):
    """What the detector and operators write about incidents is proven as any other event."""
    async with managers(database_dsn, tmp_path, detection=True) as (manager,):
        await Edge.provision(manager, "d")
        await manager.add_operator("ann")
        for _ in range(20):
            await manager.monitor.note_update_norms({"d": 1.0})
        await manager.monitor.note_update_norms({"d": 1000.0})
        await manager._opening.value.detection.settle()
        (incident,) = await manager.monitor.list_incidents()
        await manager.monitor.move_incident(incident.incident_id, IncidentState.CLOSED, by="ann", note="looked at")
        size = (await manager.monitor.checkpoint()).size
    assert {} == await fresh(database_dsn, tmp_path, size)
