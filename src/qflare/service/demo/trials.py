"""
The attempts of a run: what is recorded from the wire, what is done with it, and which worker it is sent to.

Each goes to the other worker than the one that took the original, as often as makes the detector sure that it is no
accident (`monitor/parameters.py` has the thresholds and their reasons).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from qflare.device.transport import Step
from qflare.model.signal import Signal
from qflare.protocol import wire
from qflare.service.demo.attacks import altered, connect_as_thief, enrol_as_thief
from qflare.service.demo.enrolment import connect_devices
from qflare.service.demo.failure import DemoError
from qflare.service.demo.result import EventKind
from qflare.service.demo.servers import WORKERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qflare.service.demo.stage import Stage, Tally

Results: TypeAlias = dict[str, dict[str, Any]]

TAKEN_BY = 0
"""The worker that takes the originals of what is recorded."""
SENT_TO = 1
"""The worker that gets them again."""


async def try_handshake(stage: Stage, tally: Tally) -> None:
    """Record a handshake, show that its repetition makes no second session, end the session, and replay it."""
    device_id = stage.story.attacked
    await connect_devices(stage, tally, [device_id], worker=TAKEN_BY)
    recording = await _recording(stage, device_id, Step.CONFIRM)
    m3, m4 = recording["sent"], recording["answer"]
    sid = tally.sids[device_id]
    before = await stage.manager.get_key_statistics()
    repeated = await stage.servers.post(SENT_TO, "confirm", m3)
    after = await stage.manager.get_key_statistics()
    is_same = (
        repeated[: wire.M4_RECEIPT_AT] == m4[: wire.M4_RECEIPT_AT] and after.sessions_total == before.sessions_total
    )
    if not is_same:
        raise DemoError("a repeated M3 was not answered with its own session: PROTOCOL H8 does not hold")
    how = "with the same M4, byte for byte" if repeated == m4 else "with the same M4 under a newer receipt"
    stage.journal.add(
        EventKind.STEP,
        "A repeated M3 makes no second session",
        f"While its session lives, worker {SENT_TO + 1} answers the recorded M3 of {device_id} {how}: a device that "
        "lost the answer asks so again. Whoever replays it learns nothing and gets nothing.",
        device_id=device_id,
    )
    await stage.manager.end_session(sid, reason="demo: ended by the operator")
    await stage.attacker.attempt(
        "Handshake replayed",
        f"A handshake of {device_id}, recorded at worker {TAKEN_BY + 1}, was sent to worker {SENT_TO + 1} after its "
        "session had ended, three times.",
        lambda _: stage.servers.post(SENT_TO, "confirm", m3),
        times=3,
        signal=Signal.REPLAYS,
        device_id=device_id,
    )
    await connect_devices(stage, tally, [device_id], worker=TAKEN_BY)
    tally.note(device_id, "its messages were recorded, replayed and altered")


async def try_altered_update(stage: Stage, index: int) -> Results:
    """Alter an update on its way to one worker and send it to the other; then let the true one through."""
    device_id = stage.story.attacked
    prepared = await stage.crew.run("prepare", {device_id: {"worker": TAKEN_BY, "round": index}})
    envelope = bytes.fromhex(prepared[device_id]["envelope"])
    await stage.attacker.attempt(
        "Update altered",
        f"One bit of the sealed update of {device_id} was flipped on its way, another one in each of four copies; "
        f"worker {SENT_TO + 1} got them first.",
        lambda number: stage.servers.post(SENT_TO, "record", altered(envelope, number)),
        times=4,
        signal=Signal.FORGED_MESSAGES,
        device_id=device_id,
    )
    return await stage.crew.run("deliver", {device_id: {"worker": TAKEN_BY}})


async def try_recorded_update(stage: Stage, index: int) -> None:
    """Send an update once more that was taken a moment ago."""
    device_id = stage.story.attacked
    envelope = (await _recording(stage, device_id, Step.RECORD))["sent"]
    await stage.attacker.attempt(
        "Update replayed",
        f"The update of {device_id} for round {index + 1}, recorded at worker {TAKEN_BY + 1}, was sent to worker "
        f"{SENT_TO + 1} sixteen times.",
        lambda _: stage.servers.post(SENT_TO, "record", envelope),
        times=16,
        signal=Signal.REPLAYS,
        device_id=device_id,
    )


async def try_token(stage: Stage, tally: Tally) -> None:
    """Enrol with a token that was used already, and other keys."""
    device_id = stage.story.attacked
    # The attacked device is the first, and enrolled over the first worker.
    await stage.attacker.attempt(
        "Enrolment token used again",
        f"A thief who had copied the token of {device_id} enrolled with it eight times, with other keys each time, at "
        f"worker {SENT_TO + 1}.",
        lambda _: enrol_as_thief(
            stage.servers.urls[SENT_TO], tally.tokens[device_id], device_id=device_id, folder=stage.output.devices
        ),
        times=8,
        signal=Signal.ENROLMENT_GUESSING,
        # Whoever enrols is nobody yet.
        device_id=None,
    )


async def try_copied_state(stage: Stage) -> None:
    """Use the state that somebody copied before its device rotated its keys."""
    device_id, copied = stage.story.rotated, stage.output.copied_state
    await stage.attacker.attempt(
        "Handshake under rotated keys",
        f"A thief who had copied the state of {device_id} before its rotation began four handshakes with worker "
        f"{SENT_TO + 1}.",
        lambda _: connect_as_thief(stage.servers.urls[SENT_TO], copied),
        times=4,
        signal=Signal.CLONE,
        device_id=device_id,
    )
    for path in copied.parent.glob(f"{copied.name}*"):
        path.unlink()


async def try_revoked(stage: Stage, device_id: str, worker: int) -> None:
    """Let a revoked device send the update it had sealed, and then begin anew, at the other worker each time."""
    other = (worker + 1) % WORKERS

    async def send(do: str, arguments: Mapping[str, object]) -> bytes:
        refused = await stage.crew.run_refused(do, device_id, {"worker": other, **arguments})
        return b"" if refused is None else refused.answer

    await stage.attacker.attempt(
        "Update of a revoked device",
        f"{device_id} sent the update it had sealed before it was revoked, to worker {other + 1}.",
        lambda _: send("deliver", {}),
        times=1,
        signal=Signal.USE_AFTER_REVOCATION,
        device_id=device_id,
    )
    await stage.attacker.attempt(
        "Hello of a revoked device",
        f"{device_id} then began a new handshake with worker {other + 1}, twice.",
        lambda _: send("connect", {"attempts": 1}),
        times=2,
        signal=Signal.USE_AFTER_REVOCATION,
        device_id=device_id,
    )


async def _recording(stage: Stage, device_id: str, step: Step) -> dict[str, bytes]:
    result = (await stage.crew.run("recording", {device_id: {"worker": TAKEN_BY, "step": step.value}}))[device_id]
    return {name: bytes.fromhex(value) for name, value in result.items()}
