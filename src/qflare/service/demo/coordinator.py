"""
The coordinator of a run, in the operator's process: gives out the global model and takes in updates.

Server workers open the records; what was in them comes here over a unix socket in a folder of its own (0700), one
connection a worker.  A device's name is the one its session was made under, so nobody sends an update for another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from qflare.errors import DecodeError, QflareError
from qflare.service.demo.conversation import REQUEST_AAD, Plain, model_answer, read_update, taken_answer
from qflare.service.demo.failure import DemoError
from qflare.service.demo.frame import Answer, Question, Status, decode_question, encode_answer, read_frame

if TYPE_CHECKING:
    from collections.abc import Collection

    from qflare.service.demo.learning import Parameters, Update

_log = logging.getLogger("qflare.service.demo")


class Coordinator:
    """Serves one round at a time to all workers."""

    def __init__(self) -> None:
        """Serve nothing yet."""
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._index = -1
        self._model: Plain | None = None
        self._awaited: frozenset[str] = frozenset()
        self._updates: dict[str, Update] = {}

    @property
    def path(self) -> Path:
        """Return where workers connect."""
        if self._folder is None:
            raise DemoError("the coordinator is not open")
        return Path(self._folder.name) / "coordinator"

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        # WHY: not in the run's folder, whose path may be longer than a unix socket's may be.
        self._folder = tempfile.TemporaryDirectory(prefix="qflare-demo-")
        self._server = await asyncio.start_unix_server(self._serve, path=self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening and remove the socket."""
        if self._server is not None:
            self._server.close()
            for writer in self._writers:
                writer.close()
            await self._server.wait_closed()
        if self._folder is not None:
            self._folder.cleanup()

    def begin_round(self, index: int, parameters: Parameters, awaited: Collection[str]) -> None:
        """Give out *parameters* for round *index* from now on, and take one update of each device *awaited*."""
        self._index = index
        self._model = model_answer(parameters, index)
        self._awaited = frozenset(awaited)
        self._updates = {}

    def take_updates(self, expected: Collection[str]) -> dict[str, Update]:
        """
        Return the round's updates by device id and end the round.

        Raises:
            DemoError: they are of other devices than *expected*.
        """
        updates, self._updates, self._model, self._awaited = self._updates, {}, None, frozenset()
        if set(updates) != set(expected):
            different = ", ".join(sorted(set(updates) ^ set(expected)))
            raise DemoError(f"round {self._index + 1} has other updates than were acknowledged: {different}")
        return updates

    def answer(self, question: Question) -> Answer:
        """Return the model, or the receipt of an update, or a refusal."""
        try:
            plain = self._reply(question)
        except QflareError as error:
            # The device is told nothing; the operator reads why.
            _log.warning("%s in round %d: %s", question.device_id, self._index + 1, error)
            return Answer(number=question.number, status=Status.REFUSED)
        return Answer(number=question.number, status=Status.ANSWERED, aad=plain.aad, message=bytes(plain.message))

    def _reply(self, question: Question) -> Plain:
        if self._model is None or question.device_id not in self._awaited:
            raise DecodeError("the device is not awaited in this round")
        if question.aad == REQUEST_AAD:
            if question.message != self._index.to_bytes(8):
                raise DecodeError("the device asks for the model of another round")
            return self._model
        if question.device_id in self._updates:
            raise DecodeError("a second update of the same device")
        self._updates[question.device_id] = read_update(question.message, question.aad, round_index=self._index)
        return taken_answer(question.message)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                question = decode_question(await read_frame(reader))
                writer.write(encode_answer(self.answer(question)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the worker has gone; whoever started it knows
        except DecodeError as error:
            _log.error("a worker's connection is closed: %s", error)
        finally:
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
