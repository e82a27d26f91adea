"""The first act: tokens are issued, devices enrol over real sockets and make their sessions, half in each form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.service.arguments import raised
from qflare.service.demo.result import EventKind, Form
from qflare.service.demo.servers import WORKERS
from qflare.service.demo.wording import count, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.service.demo.stage import Stage, Tally


async def enrol_devices(stage: Stage, tally: Tally) -> None:
    """Issue a token for each device and let all of them enrol."""
    began_s = stage.journal.now_s
    device_ids = stage.story.device_ids
    with stage.progress.step(f"{count(len(device_ids), 'device')} enrol with a token each"):
        tokens = [raised(issued) for issued in await stage.manager.issue_enrolment_tokens_many(device_ids)]
        tally.tokens.update(zip(device_ids, tokens, strict=True))
        await stage.crew.run(
            "enrol",
            {
                device_id: {"token": tally.tokens[device_id], "worker": place % WORKERS}
                for place, device_id in enumerate(device_ids)
            },
        )
    elapsed = seconds(stage.journal.now_s - began_s)
    stage.journal.add(
        EventKind.STEP,
        f"{count(len(device_ids), 'device')} enrolled",
        f"Each with a token of its own and keys it made itself, over both workers, in {elapsed}.",
    )
    stage.progress.note(f"{count(len(device_ids), 'device')} enrolled in {elapsed}")


async def connect_devices(stage: Stage, tally: Tally, device_ids: Sequence[str], *, worker: int = 0) -> None:
    """Let *device_ids* make sessions, spread over the workers from *worker* on."""
    results = await stage.crew.run(
        "connect", {device_id: {"worker": (worker + place) % WORKERS} for place, device_id in enumerate(device_ids)}
    )
    for device_id, result in results.items():
        tally.handshakes.setdefault(device_id, []).append(result["elapsed_s"])
        tally.sids[device_id] = bytes.fromhex(result["sid"])


async def connect_all(stage: Stage, tally: Tally) -> None:
    """Let every device make its first session."""
    device_ids = stage.story.device_ids
    hello = sum(stage.story.form_of(device_id) is Form.HELLO for device_id in device_ids)
    forms = f"{hello} begin with a hello, {len(device_ids) - hello} answer an offer"
    began_s = stage.journal.now_s
    with stage.progress.step(f"{count(len(device_ids), 'session')}: {forms}"):
        await connect_devices(stage, tally, device_ids)
    elapsed = seconds(stage.journal.now_s - began_s)
    stage.journal.add(
        EventKind.STEP,
        f"{count(len(device_ids), 'session')} agreed on",
        f"Of the devices {forms}; each verified the server's receipt and kept it as evidence. It took {elapsed}.",
    )
    stage.progress.note(f"{count(len(device_ids), 'session')} agreed on in {elapsed}")
