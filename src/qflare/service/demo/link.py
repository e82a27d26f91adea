"""A worker's end of the unix socket to the coordinator: records that opened go out, replies come back."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from qflare.service.aggregator.intake import Reply
from qflare.service.demo.failure import DemoError
from qflare.service.demo.frame import Answer, Question, Status, decode_answer, encode_question, read_frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from qflare.manager.record import OpenedRecord

_WAITING_MAX: Final = 1024
_ANSWER_TIMEOUT_S: Final = 30.0


class CoordinatorLink:
    """Asks the coordinator, many questions at a time over one connection; made by `open_link`."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        """Write to *writer*."""
        self._writer = writer
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Answer]] = {}

    async def on_record(self, record: OpenedRecord, aad: bytes) -> Reply:
        """
        Hand a record to the coordinator and return its reply; what the `Aggregator` calls.

        Raises:
            DemoError: the coordinator refuses it, or has gone.
        """
        with record, record.plaintext.view() as plaintext:
            message = bytes(plaintext)
        number = next(self._numbers) % 2**32
        if len(self._waiting) >= _WAITING_MAX:
            raise DemoError(f"{_WAITING_MAX} records wait for the coordinator already")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self._writer.write(
                encode_question(Question(number=number, device_id=record.session.device_id, aad=aad, message=message))
            )
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                await self._writer.drain()
                answer = await future
        finally:
            self._waiting.pop(number, None)
        if answer.status is not Status.ANSWERED:
            raise DemoError(f"the coordinator did not take the record of {record.session.device_id}")
        return Reply(answer.message, answer.aad)

    async def read(self, reader: asyncio.StreamReader) -> None:
        """Give each answer to whoever asked, until the coordinator has gone."""
        try:
            while True:
                answer = decode_answer(await read_frame(reader))
                future = self._waiting.get(answer.number)
                if future is not None and not future.done():
                    future.set_result(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(DemoError("the coordinator has gone"))


@asynccontextmanager
async def open_link(path: Path) -> AsyncIterator[CoordinatorLink]:
    """Connect to the coordinator at *path*."""
    reader, writer = await asyncio.open_unix_connection(path)
    link = CoordinatorLink(writer)
    reading = asyncio.get_running_loop().create_task(link.read(reader), name="coordinator-link")
    try:
        yield link
    finally:
        reading.cancel()
        await asyncio.wait({reading})
        writer.close()
