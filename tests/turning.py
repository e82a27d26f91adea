"""A worker in a process of its own that turns a bucket and dies on the way, at a point that is chosen by name."""

import asyncio

from dying import around, die
from manager_world import TurnedClock, make_manager
from qflare.manager import pages, turns
from qflare.stores.keeper.file import FileKeeper
from qflare.stores.postgres import PostgresStore
from qflare.stores.postgres import turns as stored_turns
from qflare.stores.postgres.connections import Transaction

WIDTH_S = 300
RANGE_SESSIONS = 12
PAGE_MIN = 4
TURN_PAGE = 16


def _in_step(*, before=None, after=None, nth=1, is_late=False):
    """Do something before or after the work of the *nth* step of a sweep, inside its transaction."""
    step_turn = PostgresStore.step_turn
    calls = iter(range(1, 1 << 20))

    async def wrapped(self, bucket, *, work, **named):
        async def watched(found):
            due = named["is_late"] == is_late and next(calls) == nth
            if due and before:
                before()
            turned = await work(found)
            if due and after:
                after()
            return turned

        return await step_turn(self, bucket, work=watched, **named)

    PostgresStore.step_turn = wrapped


def _statement(name):
    return lambda _self, called, *_args, **_named: called == name


POINTS = {
    "old keys about to be destroyed": lambda: around(FileKeeper, "destroy_bucket_keys", before=die),
    "old keys destroyed": lambda: around(FileKeeper, "destroy_bucket_keys", after=die),
    "mark about to rise": lambda: around(PostgresStore, "raise_bucket_mark", before=die),
    "mark raised": lambda: around(PostgresStore, "raise_bucket_mark", after=die),
    "next bucket about to be published": lambda: around(PostgresStore, "save_bucket", before=die),
    "next bucket published": lambda: around(PostgresStore, "save_bucket", after=die),
    "first step about to begin": lambda: around(PostgresStore, "step_turn", before=die),
    "first step read": lambda: _in_step(before=die),
    "second step sealed": lambda: _in_step(after=die, nth=2),
    "second step written": lambda: around(Transaction, "execute", after=die, nth=2, when=_statement("save_turn")),
    "second step committed": lambda: around(PostgresStore, "step_turn", after=die, nth=2),
    "writers awaited": lambda: around(PostgresStore, "await_writers", after=die),
    "first late step sealed": lambda: _in_step(after=die, is_late=True),
    "second late step read": lambda: _in_step(before=die, nth=2, is_late=True),
    "old bucket's row deleted": lambda: around(Transaction, "fetch_row", after=die, when=_statement("delete_buckets")),
    "old partition about to be emptied": lambda: around(
        Transaction, "execute", before=die, when=_statement("empty_slots")
    ),
    "old partition emptied, not committed": lambda: around(
        Transaction, "execute", after=die, when=_statement("empty_slots")
    ),
    "old bucket dropped": lambda: around(PostgresStore, "drop_buckets", after=die),
    "sessions expired": lambda: around(PostgresStore, "expire_sessions", after=die),
}
"""Where the worker dies."""


def turn_and_die(dsn, folder, now_s, point):
    """Be a worker that starts in a bucket's beginning, turns, sweeps late, and dies at a point."""
    POINTS[point]()
    asyncio.run(_turn(dsn, folder, now_s))


def lead(dsn, folder, now_s, gates, idle_timeout):
    """Be a worker that leads, and stays in the middle of its second step until it is told to go on."""
    stored_turns.LEADER_IDLE_TIMEOUT = idle_timeout
    leads, goes_on = gates

    def stay():
        leads.set()
        goes_on.wait()

    _in_step(after=stay, nth=2)
    asyncio.run(_turn(dsn, folder, now_s))


async def _turn(dsn, folder, now_s):
    turns.RANGE_SESSIONS = RANGE_SESSIONS
    pages.PAGE_MIN = PAGE_MIN
    clock = TurnedClock(now_s)
    manager = make_manager(dsn, folder, clock=clock, turn_page=TURN_PAGE)
    await manager.open()
    await manager.turn()
    clock.turn(WIDTH_S - 20)
    await manager.turn()
    await manager.close()
