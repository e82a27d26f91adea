"""
The second act: rounds of federated averaging over sealed updates, with what happens in between.

A device sleeps for some rounds and over bucket turns, wakes and goes on; one rotates its keys; one is revoked
at half time and its next update refused; and the attempts of `trials` fall around their round.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.model.event import SecurityEventType
from qflare.service.demo import learning, rotation, trials
from qflare.service.demo.failure import DemoError
from qflare.service.demo.journal import find_event
from qflare.service.demo.result import EventKind
from qflare.service.demo.servers import WORKERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.service.demo.learning import Parameters
    from qflare.service.demo.stage import Stage, Tally

TURNS_WANTED: Final = 4.2
"""Buckets that training is spread over at least: rounds are paced for it."""
_SLEEP_TURNS: Final = 2
"""Bucket turns that the sleeper misses at least."""
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRound:
    """A round as it went; accuracies are added when both runs are known."""

    index: int
    started_s: float
    elapsed_s: float
    bucket: int
    device_ids: tuple[str, ...]
    accuracy: float
    digest: str
    sealed_bytes: int


async def train(stage: Stage, tally: Tally) -> list[TrainedRound]:
    """Run every round and return what each was."""
    story, options = stage.story, stage.options
    parameters = learning.initial_parameters(seed=options.seed)
    pace_s = TURNS_WANTED * options.width_s / story.rounds
    rounds: list[TrainedRound] = []
    slept_at_bucket = 0
    for index in range(story.rounds):
        began_s = stage.journal.now_s
        if index == story.sleep_first:
            slept_at_bucket = await stage.manager.current_bucket()
            _fall_asleep(stage)
        if index == story.rotate_round:
            await rotation.rotate(stage, tally, worker_of(stage, story.rotated, index))
        if index == story.sleep_end:
            await _wake(stage, tally, slept_at_bucket)
        if index == story.attack_round:
            await trials.try_handshake(stage, tally)
        trained = await _round(stage, tally, parameters, index)
        parameters = trained[1]
        rounds.append(trained[0])
        stage.progress.round_done(
            index, rounds=story.rounds, accuracy=trained[0].accuracy, devices=len(trained[0].device_ids)
        )
        if index == story.attack_round:
            await trials.try_recorded_update(stage, index)
            await trials.try_token(stage, tally)
            await trials.try_copied_state(stage)
        if index + 1 < story.rounds:
            await asyncio.sleep(max(0.0, began_s + pace_s - stage.journal.now_s))
    return rounds


def _fall_asleep(stage: Stage) -> None:
    sleeper = stage.story.sleeper
    stage.journal.add(
        EventKind.SLEEP,
        f"{sleeper} falls asleep",
        "It is not heard of for a while; its state file keeps its session.",
        device_id=sleeper,
    )
    stage.progress.note(f"{sleeper} falls asleep")


async def _wake(stage: Stage, tally: Tally, slept_at_bucket: int) -> None:
    """Wake the sleeper, not before it has missed its bucket turns."""
    sleeper = stage.story.sleeper
    if await stage.manager.current_bucket() < slept_at_bucket + _SLEEP_TURNS:
        stage.progress.note(f"{sleeper} sleeps on until the bucket has turned {_SLEEP_TURNS} times")
        while await stage.manager.current_bucket() < slept_at_bucket + _SLEEP_TURNS:  # noqa: ASYNC110 - a clock has no event
            await asyncio.sleep(_POLL_S)
    missed = await stage.manager.current_bucket() - slept_at_bucket
    stage.journal.add(
        EventKind.WAKE,
        f"{sleeper} wakes",
        f"It missed {missed} bucket turns, hashes its chain forward and goes on in the same session.",
        device_id=sleeper,
    )
    stage.progress.note(f"{sleeper} wakes after {missed} bucket turns")
    tally.note(sleeper, f"slept over {missed} bucket turns, went on in the same session")


async def _round(stage: Stage, tally: Tally, parameters: Parameters, index: int) -> tuple[TrainedRound, Parameters]:
    story = stage.story
    awake, averaged = story.awake_in(index), story.averaged_in(index)
    began_s = stage.journal.now_s
    stage.coordinator.begin_round(index, parameters, awake)
    # One after the other: the counters that show an attempt's refusal must not move for another reason.
    delivered = await _ordinary(stage, index, [one for one in averaged if not _is_attacked_now(stage, one, index)])
    if index == story.attack_round:
        delivered |= await trials.try_altered_update(stage, index)
    if index == story.revoke_round:
        await _revoke(stage, tally, index)
    updates = stage.coordinator.take_updates(averaged)
    if set(delivered) != set(averaged):
        raise DemoError(f"round {index + 1}: the devices' and the servers' views differ")
    after = await asyncio.to_thread(learning.federated_average, updates)
    accuracy = await asyncio.to_thread(learning.evaluate, after, stage.split.test)
    for device_id, result in delivered.items():
        tally.rounds.setdefault(device_id, []).append(index)
        tally.sealed_bytes[device_id] = tally.sealed_bytes.get(device_id, 0) + result["record_bytes"]
        tally.deliveries.append(result["elapsed_s"])
    trained = TrainedRound(
        index=index,
        started_s=began_s,
        elapsed_s=stage.journal.now_s - began_s,
        bucket=await stage.manager.current_bucket(),
        device_ids=averaged,
        accuracy=accuracy,
        digest=learning.parameters_digest(after),
        sealed_bytes=sum(result["record_bytes"] for result in delivered.values()),
    )
    return trained, after


def _is_attacked_now(stage: Stage, device_id: str, index: int) -> bool:
    """Tell whether a device's update of this round is altered on its way: it is sent by `trials`."""
    return index == stage.story.attack_round and device_id == stage.story.attacked


async def _ordinary(stage: Stage, index: int, device_ids: Sequence[str]) -> trials.Results:
    """Let devices do a round; each talks to the other worker than in the round before."""
    return await stage.crew.run(
        "round", {device_id: {"worker": worker_of(stage, device_id, index), "round": index} for device_id in device_ids}
    )


def worker_of(stage: Stage, device_id: str, index: int) -> int:
    """Return which worker a device talks to in a round."""
    return (stage.story.device_ids.index(device_id) + index) % WORKERS


async def _revoke(stage: Stage, tally: Tally, index: int) -> None:
    """Revoke a device between its training and the sending of its update."""
    revoked = stage.story.revoked
    worker = worker_of(stage, revoked, index)
    await stage.crew.run("prepare", {revoked: {"worker": worker, "round": index}})
    first = (await stage.manager.get_key_statistics()).log_size
    await stage.manager.revoke_device(revoked, reason="demo: revoked by the operator at half time")
    entry_index = await find_event(
        stage.manager.monitor, first=first, facts={}, event_type=SecurityEventType.KEY_REVOCATION, device_id=revoked
    )
    stage.journal.add(
        EventKind.REVOCATION,
        f"{revoked} revoked",
        f"By the operator, in round {index + 1}: its update is sealed and on its way.",
        device_id=revoked,
        entry_index=entry_index,
    )
    stage.progress.note(f"{revoked} is revoked by the operator")
    tally.note(revoked, f"revoked in round {index + 1}, refused since")
    await trials.try_revoked(stage, revoked, worker)
