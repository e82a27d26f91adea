"""
Cancelling a call at its n-th suspension, for every n: a loop whose tasks count where they wait.

A task is cancelled as `asyncio` does it: either in the moment in which it begins to wait, or in the moment in which what
it waits for has come and it has not seen it yet (then the result is its to clean up).
"""

import asyncio
from enum import Enum

from qflare.manager.batcher import Batcher


class Moment(Enum):
    """When, of a suspension, the cancellation comes."""

    BEGIN = "begin"
    END = "end"


class Plan:
    """Which suspension is cancelled; `is_reached` tells afterwards whether there were so many."""

    def __init__(self, at, moment):
        self.at, self.moment = at, moment
        self.seen = 0
        self.is_reached = False

    def meet(self, future):
        """Called with what a task is about to wait for."""
        self.seen += 1
        if self.seen != self.at:
            return
        self.is_reached = True
        task = asyncio.current_task()
        if self.moment is Moment.BEGIN or future is None:
            task.cancel()
        else:
            # Ours comes before the task's own: it is cancelled with the result in hand.
            future.add_done_callback(lambda _: task.cancel())


class Stepped:
    """A coroutine that runs as ever, and tells a plan of each suspension."""

    def __init__(self, coroutine, plan):
        self._coroutine, self._plan = coroutine, plan

    def __await__(self):
        coroutine, send = self._coroutine, None
        thrown = None
        while True:
            try:
                future = coroutine.send(send) if thrown is None else coroutine.throw(thrown)
            except StopIteration as stop:
                return stop.value
            thrown = None
            self._plan.meet(future)
            try:
                send = yield future
            except BaseException as error:  # noqa: BLE001 - handed on to the coroutine, whatever it is
                thrown = error


async def stepped(coroutine, plan):
    return await Stepped(coroutine, plan)


class Flights:
    """
    While active, the first batch of the queue *name* is stepped by *plan*.

    That is how a manager's own tasks are reached, which callers do not hold.
    """

    def __init__(self, name, plan):
        self._name, self._plan = name, plan
        self._is_taken = False

    def __enter__(self):
        asyncio.get_running_loop().set_task_factory(self._make)
        return self

    def __exit__(self, *_):
        asyncio.get_running_loop().set_task_factory(None)

    def _make(self, loop, coroutine, **more):
        if not self._is_taken and getattr(coroutine, "__qualname__", "") == Batcher._fly.__qualname__:
            queue = coroutine.cr_frame.f_locals["self"]
            if queue._name == self._name:
                self._is_taken = True
                coroutine = stepped(coroutine, self._plan)
        return asyncio.Task(coroutine, loop=loop, **more)
