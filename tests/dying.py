"""
Workers in processes of their own that die at a point that is chosen by name.

The points are put around methods of the store and the manager in that process alone: nothing in the package knows them.
"""

import asyncio
import functools
import multiprocessing
import os
import signal

PRELOADED = ["turning", "dying_with_records"]
"""Modules whose functions processes run; imported once, by the server that forks them."""


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def around(owner, name, *, before=None, after=None, nth=1, when=lambda *_args, **_named: True):
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


def start(target, *arguments):
    """Start a function of a preloaded module in a process of its own, from a server that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


async def ended(process):
    """Wait for a process, and return its exit code: minus the signal that ended it."""
    await asyncio.to_thread(process.join, 60)
    return process.exitcode
