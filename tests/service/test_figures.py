"""One worker's figures: what its buckets, turns, reserves, log and detector did, as it happened."""

import pytest

from manager_world import Edge, TurnedClock, engine_of, make_manager
from qflare.errors import RefusedError
from qflare.model.event import SecurityEventType
from qflare.model.signal import Signal

WIDTH_S = 300


def flat(facts):
    """Return every number by metric, and by labels where there are some."""
    return {
        (name, *labels): value[0] if len(value) == 1 else sum(value[:-1])
        for name, series in facts.values.items()
        for labels, value in series.items()
    }


async def test_a_turn_shows(database_dsn, tmp_path):
    """Buckets, the turn, the clean-up after it and the keys' ages are what they were; keys die two buckets later."""
    clock = TurnedClock(5_900_000 * WIDTH_S + 10)
    async with make_manager(database_dsn, tmp_path, clock=clock, tick_max_s=3600) as manager:
        edges = [await Edge.provision(manager) for _ in range(3)]
        for edge in edges:
            await edge.connect(manager)
        first = flat(await manager.figures())
        assert ("qflare_turn_steps",) not in first
        assert (first["qflare_bucket_index",], first["qflare_bucket_width_seconds",]) == (5_900_000, WIDTH_S)
        assert first["qflare_bucket_age_seconds",] == 10
        assert first["qflare_oldest_key_age_seconds", "keeper"] == WIDTH_S + 10
        clock.turn(WIDTH_S + 100)
        # A look that does not turn: nobody came, and the maintenance loop sleeps.
        late = flat(await manager.figures())
        assert late["qflare_maintenance_age_seconds",] == WIDTH_S + 100
        await manager.turn()
        second = flat(await manager.figures())
        assert second["qflare_bucket_index",] == second["qflare_turn_bucket_index",] == 5_900_001
        assert second["qflare_bucket_age_seconds",] == 110
        assert second["qflare_turn_steps",] == second["qflare_turn_steps_done",] > 0
        assert second["qflare_turn_chain_keys",] == len(edges)
        assert second["qflare_turn_step_seconds",] >= 1
        assert second["qflare_turn_seconds", "first"] >= 0
        assert second["qflare_maintenance_age_seconds",] == 0
        assert second["qflare_cleanup_seconds",] > first["qflare_cleanup_seconds",]
        clock.turn(2 * WIDTH_S)
        await manager.turn()
        third = flat(await manager.figures())
        assert third["qflare_keys_destroyed_total",] > second["qflare_keys_destroyed_total",]
        assert third["qflare_cleanup_bucket_rows_total",] > second["qflare_cleanup_bucket_rows_total",]
        for place in ("keeper", "database"):
            assert third["qflare_oldest_key_age_seconds", place] <= 2 * WIDTH_S


async def test_a_key_that_was_not_destroyed_shows(database_dsn, tmp_path, admin):
    """The row of a bucket that is long over is the age of the oldest key, which an alert looks at."""
    clock = TurnedClock(5_900_000 * WIDTH_S + 10)
    async with make_manager(database_dsn, tmp_path, clock=clock, tick_max_s=3600) as manager:
        # The first clean-up is over: it would delete the row.
        await manager.turn()
        await admin.execute(
            "INSERT INTO qflare.bucket_key (bucket, width_s, announcement, sealed_dk, sealed_ticket_key)"
            " SELECT bucket - 7, width_s, announcement, sealed_dk, sealed_ticket_key FROM qflare.bucket_key"
            " ORDER BY bucket LIMIT 1"
        )
        figures = flat(await manager.figures())
    assert figures["qflare_oldest_key_age_seconds", "database"] == 7 * WIDTH_S + 10 > 2.5 * WIDTH_S


async def test_reserves_and_queues_show(database_dsn, tmp_path):
    """What is made ahead and taken is counted, and so is every batch."""
    async with make_manager(database_dsn, tmp_path, tick_max_s=3600) as manager:
        edges = [await Edge.provision(manager) for _ in range(3)]
        await manager.prepare_offers([edge.name for edge in edges])
        assert flat(await manager.figures())["qflare_reserve_ready", "offers"] == 3
        await edges[0].connect(manager, form="offer")
        figures = flat(await manager.figures())
        assert figures["qflare_reserve_ready", "offers"] == 2
        assert figures["qflare_reserve_items_total", "offers", "taken"] == 1
        assert figures["qflare_reserve_items_total", "keys", "missed"] == 3
        for operation, count in (("offer", 1), ("confirm", 1), ("device registration", 3)):
            for metric in ("qflare_batch_items", "qflare_batch_wait_seconds", "qflare_batch_run_seconds"):
                assert figures[metric, operation] == count, (metric, operation)
        assert figures["qflare_queue_items", "offer"] == figures["qflare_queue_batches", "offer"] == 0
        assert figures["qflare_jobs",] >= 0


async def test_the_log_and_the_detector_show(database_dsn, tmp_path):
    """Entries that no stored head covers are told until one does; an alarm of the detector is told by its signal."""
    async with make_manager(database_dsn, tmp_path, tick_max_s=3600, detection=True) as manager:
        edge = await Edge.provision(manager)
        pending = await edge.hello(manager)
        # What a worker writes by itself, which nobody waits for.
        event = engine_of(manager).devices.event(manager.tenant, SecurityEventType.SYSTEM, {"n": 1}, device_id=None)
        await engine_of(manager).foundation.log.append(manager.tenant, [event])
        figures = flat(await manager.figures())
        assert figures["qflare_audit_unsigned_entries",] > 0
        assert {figures["qflare_detector_alarms_total", signal] for signal in Signal} == {0}
        for number in range(200):
            with pytest.raises(RefusedError):
                await manager.confirm(pending.message[:-2] + number.to_bytes(2))
        await engine_of(manager).foundation.refusals.settled()
        await engine_of(manager).detection.settle()
        await engine_of(manager).foundation.log.checkpoint()
        figures = flat(await manager.figures())
        assert figures["qflare_audit_unsigned_entries",] == figures["qflare_audit_lag_seconds",] == 0
        assert figures["qflare_audit_entries",] > 0
        assert figures["qflare_detector_observations_total",] >= 200
        assert figures["qflare_refusal_events_left_out_total",] == 200 - 60
        assert sum(figures["qflare_detector_alarms_total", signal] for signal in Signal) >= 1
