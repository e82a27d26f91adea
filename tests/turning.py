"""
A worker in a process of its own that turns a bucket and dies on the way, at a point that is chosen by name.

The points are put around methods of the store and the keeper in that process alone: nothing in the package knows them.
"""

import asyncio
import functools
import multiprocessing
import os
import signal

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


def _die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def _around(owner, name, *, before=None, after=None, nth=1, when=lambda *_args, **_named: True):
    """Have the *nth* call of a method, of those that fit *when*, do something before or after its work."""
    method = getattr(owner, name)
    calls = iter(range(1, 1 << 20))

    def is_due(*args, **named):
        return when(*args, **named) and next(calls) == nth

    if asyncio.iscoroutinefunction(method):

        @functools.wraps(method)
        async def wrapped(*args, **named):
            due = is_due(*args, **named)
            if due and before:
                before()
            result = await method(*args, **named)
            if due and after:
                after()
            return result
    else:

        @functools.wraps(method)
        def wrapped(*args, **named):
            due = is_due(*args, **named)
            if due and before:
                before()
            result = method(*args, **named)
            if due and after:
                after()
            return result

    setattr(owner, name, wrapped)


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
    "old keys about to be destroyed": lambda: _around(FileKeeper, "destroy_bucket_keys", before=_die),
    "old keys destroyed": lambda: _around(FileKeeper, "destroy_bucket_keys", after=_die),
    "mark about to rise": lambda: _around(PostgresStore, "raise_bucket_mark", before=_die),
    "mark raised": lambda: _around(PostgresStore, "raise_bucket_mark", after=_die),
    "next bucket about to be published": lambda: _around(PostgresStore, "save_bucket", before=_die),
    "next bucket published": lambda: _around(PostgresStore, "save_bucket", after=_die),
    "first step about to begin": lambda: _around(PostgresStore, "step_turn", before=_die),
    "first step read": lambda: _in_step(before=_die),
    "second step sealed": lambda: _in_step(after=_die, nth=2),
    "second step written": lambda: _around(Transaction, "execute", after=_die, nth=2, when=_statement("save_turn")),
    "second step committed": lambda: _around(PostgresStore, "step_turn", after=_die, nth=2),
    "writers awaited": lambda: _around(PostgresStore, "await_writers", after=_die),
    "first late step sealed": lambda: _in_step(after=_die, is_late=True),
    "second late step read": lambda: _in_step(before=_die, nth=2, is_late=True),
    "old bucket's row deleted": lambda: _around(
        Transaction, "fetch_row", after=_die, when=_statement("delete_buckets")
    ),
    "old partition about to be emptied": lambda: _around(
        Transaction, "execute", before=_die, when=_statement("empty_slots")
    ),
    "old partition emptied, not committed": lambda: _around(
        Transaction, "execute", after=_die, when=_statement("empty_slots")
    ),
    "old bucket dropped": lambda: _around(PostgresStore, "drop_buckets", after=_die),
    "sessions expired": lambda: _around(PostgresStore, "expire_sessions", after=_die),
}
"""Where the worker dies."""


def start(target, *arguments):
    """Start a function of this module in a process of its own, from a server that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["turning"])
    process = context.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def turn_and_die(dsn, folder, now_s, point):
    """Be a worker that starts in a bucket's beginning, turns, sweeps late, and dies at a point."""
    POINTS[point]()
    asyncio.run(_turn(dsn, folder, now_s))


def lead(dsn, folder, now_s, leads, goes_on):
    """Be a worker that leads, and stays in the middle of its second step until it is told to go on."""
    stored_turns.LEADER_IDLE_TIMEOUT = "1s"

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
