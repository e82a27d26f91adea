"""Keys of buckets that are over while no worker runs: destroyed without one, and a worker's are left alone."""

import asyncio
import json
from dataclasses import replace

from manager_world import Edge, TurnedClock, make_manager, settings
from qflare.cli.main import run
from qflare.service import overdue
from qflare.service.overdue import destroy_overdue
from qflare.stores.keeper import FileKeeper

WIDTH_S = 300


def keeper_of(tmp_path):
    return FileKeeper(tmp_path / "data" / "keeper", tmp_path / "volatile")


def destroy(tmp_path, clock):
    (found,) = destroy_overdue(tmp_path / "data", settings=settings(tmp_path), clock=clock, look_s=0)
    return found


async def test_keys_that_outlived_the_workers_are_destroyed_bucket_by_bucket(database_dsn, tmp_path):
    """After the last worker ended its keys stand; each is destroyed when its bucket's time is over, none before."""
    clock = TurnedClock()
    async with make_manager(database_dsn, tmp_path, clock=clock) as manager:
        edge = await Edge.provision(manager)
        await edge.connect(manager)
        current = await manager.current_bucket()
    keeper = keeper_of(tmp_path)
    assert (current, current + 1) == keeper.bucket_keys(), "nobody destroys them: that is why there is the command"
    found = destroy(tmp_path, clock)
    assert (False, 0, 2) == (found.has_worker, found.destroyed, found.left)
    clock.turn(2 * WIDTH_S)
    found = destroy(tmp_path, clock)
    assert (1, 1, (current + 3) * WIDTH_S) == (found.destroyed, found.left, found.next_end_at.timestamp())
    assert (current + 1,) == keeper.bucket_keys()
    clock.turn(WIDTH_S)
    assert (1, 0, None) == ((found := destroy(tmp_path, clock)).destroyed, found.left, found.next_end_at)
    assert () == keeper.bucket_keys()
    async with make_manager(database_dsn, tmp_path, clock=clock) as manager:
        await edge.connect(manager)


async def test_a_clock_that_is_wrong_costs_what_stood_and_no_more(database_dsn, tmp_path):
    """The mark rises to what stood and no further, so that a worker with the right time starts three buckets later."""
    clock = TurnedClock()
    async with make_manager(database_dsn, tmp_path, clock=clock) as manager:
        current = await manager.current_bucket()
    destroy(tmp_path, TurnedClock(clock.now_s() + 10 * 365 * 86_400))
    assert current + 2 == keeper_of(tmp_path).destroyed_before()
    clock.turn(3 * WIDTH_S)
    async with make_manager(database_dsn, tmp_path, clock=clock) as manager:
        await (await Edge.provision(manager)).connect(manager)


def test_a_workers_keys_are_left_alone(tmp_path, monkeypatch):
    """Where the keeper's pulse goes on a worker runs, whose buckets may be behind the clock: nothing is touched."""
    (tmp_path / "data").mkdir()
    keeper = keeper_of(tmp_path)
    keeper.make_bucket_key(7).wipe()

    def a_second_of_a_worker(_seconds):
        mark = keeper.high_water()
        keeper.raise_high_water(replace(mark, pulse=mark.pulse + 1))

    monkeypatch.setattr(overdue.time, "sleep", a_second_of_a_worker)
    found = destroy(tmp_path, TurnedClock(100 * WIDTH_S))
    assert (True, 0, 1) == (found.has_worker, found.destroyed, found.left)
    assert (7,) == keeper.bucket_keys()


async def test_a_running_worker_shows_in_the_pulse(database_dsn, tmp_path):
    """What the command looks for is what every worker does."""
    async with make_manager(database_dsn, tmp_path):
        keeper = keeper_of(tmp_path)
        first = keeper.high_water().pulse
        async with asyncio.timeout(60):
            while keeper.high_water().pulse == first:
                await asyncio.sleep(0.05)


def test_the_command_destroys_in_every_keeper_of_the_folder(tmp_path, monkeypatch, capsys):
    """Embedded and named databases have a keeper each; a folder without one is no error, and none is made."""
    monkeypatch.setattr(overdue.time, "sleep", lambda _: None)
    for name in ("keeper", "keeper-fleet"):
        (tmp_path / "data").mkdir(exist_ok=True)
        monkeypatch.delenv("QFLARE_KEEPER_DIR", raising=False)
        keeper = FileKeeper(tmp_path / "data" / name)
        keeper.make_bucket_key(7).wipe()
    assert 0 == run(["keys", "destroy", "--data-dir", str(tmp_path / "data"), "--json"])
    keepers = json.loads(capsys.readouterr().out)["keepers"]
    assert [(1, 0), (1, 0)] == [(each["destroyed"], each["left"]) for each in keepers]
    assert 0 == run(["keys", "destroy", "--data-dir", str(tmp_path / "none")])
    assert "no keeper" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()
