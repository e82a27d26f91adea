"""
A device's keys are rotated in the middle of training: asked for by the operator, done inside the session (PROTOCOL E4).

Beforehand somebody copies the device's state file.  The device makes new keys, which the old ones sign, goes on in its
session and rekeys it (R7); `trials` shows that the copy begins no session any more.
"""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

from qflare.model.event import SecurityEventType
from qflare.service.demo.journal import find_event
from qflare.service.demo.result import EventKind, RotationRecord

if TYPE_CHECKING:
    from qflare.service.demo.stage import Stage, Tally


async def rotate(stage: Stage, tally: Tally, worker: int) -> None:
    """Have the operator ask for a rotation, let the device learn of it, rotate and rekey over *worker*."""
    device_id, manager, at_s = stage.story.rotated, stage.manager, stage.journal.now_s
    # With its mode, 0600: a state file that others may read is not opened.
    await asyncio.to_thread(shutil.copy, stage.output.state_of(device_id), stage.output.copied_state)
    first = (await manager.get_key_statistics()).log_size
    await manager.request_device_rotation(device_id, reason="demo: asked for by the operator")
    done = (await stage.crew.run("rotate", {device_id: {"worker": worker}}))[device_id]

    async def find(event_type: SecurityEventType, **facts: object) -> int | None:
        return await find_event(manager.monitor, first=first, facts=facts, event_type=event_type, device_id=device_id)

    record = RotationRecord(
        at_s=at_s,
        device_id=device_id,
        old_version=done["old_version"],
        new_version=done["new_version"],
        roster_version=(await manager.find_device(device_id)).key_version,
        epoch=done["epoch"],
        is_same_session=bytes.fromhex(done["sid"]) == tally.sids[device_id],
        request_index=await find(SecurityEventType.OPERATOR_ACTION, what="rotation requested"),
        rotation_index=await find(SecurityEventType.KEY_ROTATION, key_version=done["new_version"], by="device"),
        rekey_index=await find(SecurityEventType.KEY_ROTATION, what="rekey", epoch=done["epoch"]),
    )
    tally.rotations.append(record)
    stage.journal.add(
        EventKind.ROTATION,
        f"{device_id} rotates its keys",
        f"Asked for by the operator (log entry #{record.request_index}): keys of version {record.new_version}, signed "
        f"by those of version {record.old_version}, in the session that goes on.",
        device_id=device_id,
        entry_index=record.rotation_index,
        at_s=at_s,
    )
    stage.journal.add(
        EventKind.ROTATION,
        f"{device_id} rekeys its session",
        f"Epoch {record.epoch} begins: a copy of its state from before opens nothing that is written in it.",
        device_id=device_id,
        entry_index=record.rekey_index,
    )
    stage.progress.note(
        f"{device_id} rotates its keys to version {record.new_version} and rekeys its session to epoch {record.epoch}"
    )
    tally.note(device_id, f"rotated its keys to version {record.new_version}, went on in the same session, rekeyed")
