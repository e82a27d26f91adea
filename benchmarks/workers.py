"""Worker processes over one PostgreSQL, as `qflare serve --workers` has them, driven step by step through pipes."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop

from qflare.errors import QflareError
from qflare.manager.settings import ManagerSettings
from qflare.primitives.engine import choose_engine
from qflare.service.key_manager import QuantumKeyManager

BATCH = 256
EVENTS = 2048
"""Of one call that appends to the log."""
IN_FLIGHT = 2
"""Batches a worker has under way at once: one computes while the other waits for the database."""
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Stretch:
    """When a worker began and ended a step, on the clock that all processes share, and the CPU it used."""

    began_s: float
    ended_s: float
    cpu_s: float


class Workers:
    """Worker processes, each with a manager of its own."""

    def __init__(self, count: int, *, dsn: str, folder: Path, settings: ManagerSettings) -> None:
        """Start *count* of them and wait until each is ready."""
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, dsn, folder, settings), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            _receive(pipe)

    def run(self, step: str, items: Sequence[object]) -> tuple[float, float, list]:
        """
        Let the workers do *step* with *items*, each its part of them, beginning together.

        Returns:
            Seconds from the first worker's beginning to the last one's end, the CPU of all, and the results in order.
        """
        share = -(-len(items) // len(self._pipes))
        for number, pipe in enumerate(self._pipes):
            pipe.send((step, items[number * share : (number + 1) * share]))
        for pipe in self._pipes:
            _receive(pipe)
        for pipe in self._pipes:
            pipe.send("go")
        stretches = [_receive(pipe) for pipe in self._pipes]
        results: list = []
        for pipe in self._pipes:
            # Asked for when all have ended: handing them over is no part of the work.
            pipe.send("results")
            results += _receive(pipe)
        wall_s = max(each.ended_s for each in stretches) - min(each.began_s for each in stretches)
        return wall_s, sum(each.cpu_s for each in stretches), results

    def close(self) -> None:
        """End the workers."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(PATIENCE_S)
            if process.is_alive():
                process.kill()


def _receive(pipe: Connection):
    if not pipe.poll(PATIENCE_S):
        raise TimeoutError("a worker says nothing")
    said = pipe.recv()
    if isinstance(said, BaseException):
        raise said
    return said


def _work(pipe: Connection, dsn: str, folder: Path, settings: ManagerSettings) -> None:
    """Be a worker until the pipe is closed."""
    choose_engine(None)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        manager = QuantumKeyManager(dsn, data_dir=folder, config=settings)
        try:
            runner.run(manager.open())
            pipe.send("ready")
            while True:
                step, items = pipe.recv()
                pipe.send("ready")
                pipe.recv()
                began_s, cpu_s = time.monotonic(), time.process_time()
                results = runner.run(_step(manager, step, items))
                stretch = Stretch(began_s, time.monotonic(), time.process_time() - cpu_s)
                pipe.send(stretch)
                pipe.recv()
                pipe.send([_bytes_of(result) for result in results])
        except EOFError:
            pass
        except Exception as failure:  # noqa: BLE001 - whatever it was is the parent's to raise
            pipe.send(RuntimeError(f"a worker failed: {failure!r}"))
        finally:
            runner.run(manager.close())


async def _step(manager: QuantumKeyManager, step: str, items: Sequence) -> list:
    many = {
        "hello": manager.answer_hellos_many,
        "offer": manager.initiate_temporal_key_exchanges_many,
        "confirm": manager.confirm_many,
        "append": manager.monitor.log_security_events_many,
    }[step]
    size = EVENTS if step == "append" else BATCH
    batches = [items[first : first + size] for first in range(0, len(items), size)]
    results: list[Sequence] = [()] * len(batches)
    waiting = iter(range(len(batches)))

    async def lane() -> None:
        for number in waiting:
            results[number] = await many(batches[number])

    await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))
    return [result for batch in results for result in batch]


def _bytes_of(result: object) -> bytes:
    """Return what travels to the device, or the receipt of an entry; of a confirmation only that it was a new one."""
    if isinstance(result, QflareError):
        raise result
    if isinstance(result, bytes):
        return result
    if hasattr(result, "offer"):
        return result.offer
    if hasattr(result, "receipt"):
        return result.receipt
    if result.is_repeated:
        raise RuntimeError("a handshake was confirmed before: its figure would be one of a look-up")
    return b""
