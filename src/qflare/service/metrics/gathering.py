"""One worker's facts: what its parts have counted, and what database and keeper say when they are asked."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qflare.errors import QflareError
from qflare.model.incident import SEVERITIES, IncidentState
from qflare.model.response import DESTRUCTIVE, SHUTS_OUT
from qflare.model.signal import Signal
from qflare.service.metrics.call_times import tell_calls
from qflare.service.metrics.facts import Facts
from qflare.service.readiness import look_ready
from qflare.service.versions import about

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from qflare.model.event import SignedCheckpoint
    from qflare.model.turn import TurnProgress
    from qflare.service.assembly import Engine

_NS: Final = 1_000_000_000
_STATM: Final = Path("/proc/self/statm")
_FORMS: Final = ("hello", "offer")


async def gather(engine: Engine, *, timeout_s: float) -> Facts:
    """Return the facts of one worker; what cannot be asked within *timeout_s* is left out, and `qflare_ready` is 0."""
    facts = Facts()
    running = about()
    facts.add("qflare_build_info", 1, running.version, running.liboqs_version, running.engine)
    _add_process(facts)
    _add_handshakes(facts, engine)
    _add_detection(facts, engine)
    _add_responses(facts, engine)
    _add_queues(facts, engine)
    _add_buckets(facts, engine)
    _add_care(facts, engine)
    tell_calls(facts)
    await _ask(facts, engine, timeout_s)
    return facts


def _add_process(facts: Facts) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    facts.add("qflare_worker_cpu_seconds_total", usage.ru_utime + usage.ru_stime)
    # The second number, in pages (proc(5), /proc/pid/statm); elsewhere than on Linux it is left out.
    with contextlib.suppress(OSError):
        pages = int(_STATM.read_text().split()[1])
        facts.add("qflare_worker_resident_bytes", pages * resource.getpagesize())


def _add_handshakes(facts: Facts, engine: Engine) -> None:
    for form in _FORMS:
        # From the start: a counter that appears with its first count shows no rise.
        facts.add("qflare_handshakes_total", 0, form, "established", "none")
    for (form, result, reason), count in engine.handshakes.outcomes.counts.items():
        facts.add("qflare_handshakes_total", count, form, result, reason)
    refusals = engine.foundation.refusals
    for (step, refusal), count in refusals.counts.items():
        facts.add("qflare_refusals_total", count, step, refusal.value)
    facts.add("qflare_refusal_events_left_out_total", refusals.events_left_out)
    for (step, reason), count in engine.foundation.log.failures.counts.items():
        facts.add("qflare_audit_failures_total", count, step, reason)


def _add_detection(facts: Facts, engine: Engine) -> None:
    if engine.detection is None:
        return
    its = engine.detection.figures
    facts.add("qflare_detector_observations_total", its.taken)
    facts.add("qflare_detector_dropped_total", its.dropped)
    facts.add("qflare_detector_waiting", its.waiting)
    facts.add("qflare_detector_unreported", its.unreported)
    for signal in Signal:
        facts.add("qflare_detector_alarms_total", engine.detection.alarms[signal], signal.value)


def _add_responses(facts: Facts, engine: Engine) -> None:
    # From the start, as with handshakes; a rule shuts out by quarantine alone.
    for action in sorted(SHUTS_OUT - DESTRUCTIVE | engine.responder.refused.keys()):
        facts.add("qflare_responses_refused_total", engine.responder.refused[action], action.value)


def _add_queues(facts: Facts, engine: Engine) -> None:
    for queue in engine.queues:
        its = queue.statistics
        facts.add_histogram("qflare_batch_items", queue.sizes, its.name)
        facts.add_histogram("qflare_batch_wait_seconds", queue.waits_s, its.name)
        facts.add_histogram("qflare_batch_run_seconds", queue.runs_s, its.name)
        facts.add("qflare_item_wait_seconds_total", its.waited_ms / 1000, its.name)
        facts.add("qflare_queue_items", its.waiting, its.name)
        facts.add("qflare_queue_batches", its.in_flight, its.name)
        facts.add("qflare_queue_overloads_total", queue.overloads, its.name)
        facts.add("qflare_queue_displaced_total", queue.displaced, its.name)
    facts.add("qflare_jobs", engine.foundation.offload.jobs)
    pool = engine.foundation.store.pool_statistics()
    if pool is not None:
        facts.add("qflare_pool_connections", pool.used, "used")
        facts.add("qflare_pool_connections", pool.idle, "idle")
        facts.add("qflare_pool_connections_max", pool.size_max)
    for name, its_reserve in (("keys", engine.reserve), ("offers", engine.encapsulations)):
        held = its_reserve.statistics
        facts.add("qflare_reserve_ready", held.ready, name)
        for event in ("made", "taken", "missed", "discarded"):
            facts.add("qflare_reserve_items_total", getattr(held, event), name, event)


def _add_buckets(facts: Facts, engine: Engine) -> None:
    foundation, bucket = engine.foundation, engine.buckets.current
    width_s, now_s = foundation.settings.bucket_width_s, foundation.clock.now_s()
    facts.add("qflare_bucket_width_seconds", width_s)
    facts.add("qflare_bucket_index", bucket)
    facts.add("qflare_bucket_age_seconds", max(0, now_s - bucket * width_s))
    last = foundation.identity.certificate.last_bucket
    facts.add("qflare_certificate_seconds_left", max(0, (last + 1) * width_s - now_s))


def _add_care(facts: Facts, engine: Engine) -> None:
    care = engine.maintenance
    age_s = (engine.foundation.clock.monotonic_ns() - care.tally.done_ns) / _NS
    facts.add("qflare_maintenance_age_seconds", max(0.0, age_s))
    facts.add("qflare_maintenance_failures_total", care.tally.failures)
    facts.add_histogram("qflare_cleanup_seconds", care.cleanups_s)
    facts.add("qflare_cleanup_bucket_rows_total", care.tally.bucket_rows)
    # The turn destroys what is over, and the clean-up what the turn could not.
    facts.add("qflare_keys_destroyed_total", engine.buckets.keys_destroyed + care.tally.bucket_keys_destroyed)
    facts.add("qflare_cleanup_sessions_expired_total", care.tally.sessions_expired)
    facts.add_histogram("qflare_turn_step_seconds", engine.turns.steps_s)


async def _ask(facts: Facts, engine: Engine, timeout_s: float) -> None:
    """Add what only database and keeper know; each question may fail by itself."""
    ready, *_ = await asyncio.gather(
        look_ready(engine, timeout_s=timeout_s),
        _within(timeout_s, _ask_keeper(facts, engine)),
        _within(timeout_s, _ask_buckets(facts, engine)),
        _within(timeout_s, _ask_turn(facts, engine)),
        _within(timeout_s, _ask_log(facts, engine)),
        _within(timeout_s, _ask_responses(facts, engine)),
    )
    for part in ("database", "bucket", "keeper"):
        facts.add("qflare_ready", getattr(ready, part) is None, part)


async def _ask_keeper(facts: Facts, engine: Engine) -> None:
    foundation = engine.foundation
    oldest = await foundation.offload.run(foundation.keeper.destroyed_before)
    _add_age(facts, engine, "keeper", oldest)


async def _ask_buckets(facts: Facts, engine: Engine) -> None:
    rows = await engine.foundation.store.find_buckets(0, engine.buckets.current)
    if rows:
        _add_age(facts, engine, "database", min(row.bucket for row in rows))


def _add_age(facts: Facts, engine: Engine, place: str, oldest: int) -> None:
    foundation = engine.foundation
    age_s = foundation.clock.now_s() - oldest * foundation.settings.bucket_width_s
    facts.add("qflare_oldest_key_age_seconds", max(0, age_s), place)


async def _ask_turn(facts: Facts, engine: Engine) -> None:
    turn: TurnProgress | None = await engine.foundation.store.find_turn()
    if turn is None:
        return
    facts.add("qflare_turn_bucket_index", turn.bucket)
    facts.add("qflare_turn_steps", turn.ranges)
    facts.add("qflare_turn_steps_done", turn.done)
    facts.add("qflare_turn_chain_keys", turn.carried)
    now_s = engine.foundation.clock.now_ms() / 1000
    ended_s = now_s if turn.ended_at is None else turn.ended_at.timestamp()
    facts.add("qflare_turn_seconds", max(0.0, ended_s - turn.begun_at.timestamp()), "first")
    if turn.settled_at is not None:
        facts.add("qflare_turn_seconds", max(0.0, turn.settled_at.timestamp() - turn.begun_at.timestamp()), "late")


async def _ask_log(facts: Facts, engine: Engine) -> None:
    store = engine.foundation.store
    # The checkpoint first: what is appended between the two questions must not look signed.
    checkpoint: SignedCheckpoint | None = await store.latest_checkpoint()
    size = (await store.log_head()).size
    signed = 0 if checkpoint is None else checkpoint.size
    facts.add("qflare_audit_entries", size)
    facts.add("qflare_audit_unsigned_entries", max(0, size - signed))
    is_behind = checkpoint is not None and size > signed
    lag_s = engine.foundation.clock.now_s() - checkpoint.time_s if checkpoint is not None and is_behind else 0
    facts.add("qflare_audit_lag_seconds", max(0, lag_s))


async def _ask_responses(facts: Facts, engine: Engine) -> None:
    its = await engine.foundation.store.count_responses()
    for severity in SEVERITIES:
        for state in (IncidentState.OPEN, IncidentState.ACKNOWLEDGED):
            found = its.incidents.get((severity.value, state.value), 0)
            facts.add("qflare_incidents", found, severity.value, state.value)
    for (action, done), count in its.responses.items():
        facts.add("qflare_responses", count, action, done)
    for operator in ("first", "second"):
        facts.add("qflare_responses_waiting", its.waiting.get(operator, 0), operator)
    now_s = engine.foundation.clock.now_ms() / 1000
    age_s = 0.0 if its.waiting_since is None else now_s - its.waiting_since.timestamp()
    facts.add("qflare_responses_waiting_seconds", max(0.0, age_s))


async def _within(timeout_s: float, question: Awaitable[None]) -> None:
    """Ask, and leave out what does not answer: `qflare_ready` says so."""
    with contextlib.suppress(TimeoutError, QflareError):
        async with asyncio.timeout(timeout_s):
            await question
