"""An operator asks that one device rotate its keys."""

import asyncio
import json

import pytest

from manager_world import Edge, managers
from qflare.errors import IllegalTransitionError, KeyNotFoundError, KeyRevokedError, UsageError
from qflare.model.event import SecurityEventType
from qflare.model.rotation import RotationPolicy, RotationReason


@pytest.fixture
async def workers(database_dsn, tmp_path):
    async with managers(database_dsn, tmp_path, 2) as opened:
        yield opened


async def requests(manager):
    found = await manager.monitor.list_events(first=0, limit=1000)
    return [entry for entry in found if json.loads(entry.data or b"{}").get("what") == "rotation requested"]


async def test_a_request_is_made_once_and_told_in_the_log(workers):
    """A request marks keys of any age without a policy, with one entry that says why, however often it is made."""
    edge = await Edge.provision(workers[0], "pump")
    marks = await asyncio.gather(
        *(worker.request_device_rotation("pump", reason="a spare key was seen") for worker in workers * 4)
    )
    assert 1 == len(set(marks))
    assert (edge.device.ref, 1, RotationReason.OPERATOR, False) == (
        marks[0].ref, marks[0].key_version, marks[0].reason, marks[0].is_overdue
    )  # fmt: skip
    (entry,) = await requests(workers[0])
    assert (SecurityEventType.OPERATOR_ACTION, "pump") == (entry.event_type, entry.device_id)
    data = json.loads(entry.data)
    assert (1, "a spare key was seen") == (data["key_version"], data["reason"])
    progress = await workers[1].rotation_progress()
    assert (1, 0, 0) == (progress.waiting, progress.rotated, progress.overdue)


async def test_a_request_ends_with_the_version_it_was_for(workers):
    """After the rotation nothing is due, and another request marks the next version."""
    await Edge.provision(workers[0], "pump")
    first = await workers[0].request_device_rotation("pump")
    with await workers[1].rotate_device_keys("pump"):
        pass
    progress = await workers[0].rotation_progress()
    assert (0, 1) == (progress.waiting, progress.rotated)
    second = await workers[0].request_device_rotation("pump")
    assert (1, 2) == (first.key_version, second.key_version)
    assert 2 == len(await requests(workers[0]))


async def test_a_request_and_a_policy_mark_a_version_once(workers, admin):
    """Keys that a policy has marked stay marked as they are, and a policy does not mark requested keys again."""
    for name in ("by-policy", "by-operator"):
        await Edge.provision(workers[0], name)
    await admin.execute("UPDATE qflare.device_key SET created_at = created_at - interval '2 days'")
    asked = await workers[0].request_device_rotation("by-operator")
    await workers[0].set_rotation_policy(RotationPolicy(max_age_s=86_400, jitter_percent=0, minute_ppm=10**6))
    await workers[0].turn()
    found = await workers[0].request_device_rotation("by-policy")
    assert RotationReason.AGE is found.reason
    assert asked == await workers[1].request_device_rotation("by-operator")
    assert 1 == len(await requests(workers[0]))
    assert 2 == (await workers[0].rotation_progress()).waiting


async def test_a_request_that_cannot_be_is_refused_before_anything_is_written(workers):
    """No such device, a device that is not active, and a reason that says nothing leave no mark and no entry."""
    await Edge.provision(workers[0], "pump")
    with pytest.raises(KeyNotFoundError, match="nobody"):
        await workers[0].request_device_rotation("nobody")
    for reason in ("", "x" * 1001):
        with pytest.raises(UsageError, match="reason"):
            await workers[0].request_device_rotation("pump", reason=reason)
    await workers[0].suspend_device("pump", reason="away")
    with pytest.raises(KeyRevokedError, match="suspended"):
        await workers[0].request_device_rotation("pump")
    await workers[0].resume_device("pump")
    await workers[0].revoke_device("pump", reason="lost")
    with pytest.raises(KeyRevokedError, match="deactivated"):
        await workers[1].request_device_rotation("pump")
    with pytest.raises(IllegalTransitionError):
        await workers[0].resume_device("pump")
    assert [] == await requests(workers[0])
    assert 0 == (await workers[0].rotation_progress()).waiting
