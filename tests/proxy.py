"""
A proxy between asyncpg and PostgreSQL that cuts connections at chosen points of the wire protocol, or slows them down.

It reads as much of the protocol (PostgreSQL's documentation, chapter 55.7) as it needs to know which message of the
client commits (a Sync after an Execute outside a transaction, or a Query that says COMMIT), which statement that is,
and where the server's answer to it ends.
"""

import asyncio
import contextlib
import struct
import tempfile
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit


class Point(Enum):
    """Where a connection is cut, counted from the client's message that commits."""

    BEFORE = "before"
    """The message never reaches the server."""
    FORWARDED = "forwarded"
    """The server has it, and nobody waits for the answer: it commits while the client already asks again."""
    ANSWERED = "answered"
    """The server has committed and said so; the client hears nothing of it."""
    COMPLETE = "complete"
    """The client hears that the command is complete, and not that the server is ready."""


@dataclass(frozen=True)
class Cut:
    """One cut to make: at *point*, or after *after_bytes* of the server's answer."""

    needle: str
    """Text in the statement that is meant."""
    point: Point = Point.ANSWERED
    after_bytes: int | None = None


class Proxy:
    """Listens on a socket of its own and passes on to the server's."""

    def __init__(self, folder, host, port):
        self.folder = folder
        self.delay_s = 0.0
        """How long each answer of the server is held back."""
        self.is_refusing = False
        self.cuts = deque()
        self.made = 0
        self.refused = 0
        self._target = f"{host}/.s.PGSQL.{port}"
        self._tasks = set()

    def cut(self, needle, point=Point.ANSWERED, *, after_bytes=None):
        """Cut the next connection that commits a statement with *needle* in it."""
        self.cuts.append(Cut(needle, point, after_bytes))

    async def accept(self, reader, writer):
        if self.is_refusing:
            self.refused += 1
            writer.close()
            return
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self._target)
            await _Link(self, reader, writer, server_reader, server_writer).run()
        except (OSError, asyncio.CancelledError):
            # The server is away, or the test is over: the client sees its connection end, as it would without us.
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def close(self):
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Link:
    """One client's connection and ours to the server."""

    def __init__(self, proxy, client_reader, client_writer, server_reader, server_writer):
        self.proxy = proxy
        self.client_reader, self.client_writer = client_reader, client_writer
        self.server_reader, self.server_writer = server_reader, server_writer
        self.statements = {}
        self.statement = ""
        self.has_executed = False
        self.is_in_transaction = False
        self.due = None
        """The cut that the server's present answer meets."""

    async def run(self):
        pumps = [asyncio.ensure_future(self.from_client()), asyncio.ensure_future(self.from_server())]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for writer in (self.client_writer, self.server_writer):
                writer.close()

    async def from_client(self):
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            size = await self.client_reader.readexactly(4)
            self.server_writer.write(size + await self.client_reader.readexactly(struct.unpack("!i", size)[0] - 4))
            while True:
                kind, message = await _read(self.client_reader)
                self.note(kind, message[5:])
                cut = self.take_cut(kind)
                if cut is not None and cut.point is Point.BEFORE:
                    return
                self.server_writer.write(message)
                await self.server_writer.drain()
                if cut is not None and cut.point is Point.FORWARDED and cut.after_bytes is None:
                    return
                self.due = cut or self.due

    def note(self, kind, body):
        """Remember which statement is meant, and whether anything was executed."""
        if kind == b"P":
            name, text = body.split(b"\0", 2)[:2]
            self.statements[name] = text.decode()
        elif kind == b"B":
            self.statement = self.statements.get(body.split(b"\0", 2)[1], "")
        elif kind == b"E":
            self.has_executed = True
        elif kind == b"Q":
            text = body.rstrip(b"\0").decode()
            if text.upper().startswith("COMMIT"):
                # What the transaction's last statement did is what it commits.
                self.has_executed = True
            else:
                self.statement, self.has_executed = text, False
                self.is_in_transaction = text.upper().startswith("BEGIN")

    def take_cut(self, kind):
        is_commit = (kind == b"Q" and self.has_executed) or (
            kind == b"S" and self.has_executed and not self.is_in_transaction
        )
        if kind in {b"Q", b"S"}:
            self.has_executed = self.has_executed and kind == b"S" and self.is_in_transaction
            if is_commit:
                self.is_in_transaction = False
        if is_commit and self.proxy.cuts and self.proxy.cuts[0].needle in self.statement:
            self.proxy.made += 1
            return self.proxy.cuts.popleft()
        return None

    async def from_server(self):
        sent = 0
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                kind, message = await _read(self.server_reader)
                if self.proxy.delay_s:
                    await asyncio.sleep(self.proxy.delay_s)
                cut = self.due
                if cut is None:
                    self.client_writer.write(message)
                    await self.client_writer.drain()
                    continue
                if cut.after_bytes is not None:
                    self.client_writer.write(message[: max(0, cut.after_bytes - sent)])
                    await self.client_writer.drain()
                    sent += len(message)
                    if sent >= cut.after_bytes or kind == b"Z":
                        return
                elif cut.point is Point.COMPLETE and kind != b"Z":
                    self.client_writer.write(message)
                    await self.client_writer.drain()
                if kind == b"Z":
                    return


async def _read(reader):
    """Return the kind and the whole of one message."""
    head = await reader.readexactly(5)
    return head[:1], head + await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)


@asynccontextmanager
async def proxied(dsn):
    """Yield a proxy in front of *dsn*, whose `dsn` leads through it."""
    parts = urlsplit(dsn)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    with tempfile.TemporaryDirectory(prefix="qflare-proxy-") as name:
        proxy = Proxy(Path(name), query["host"], query.get("port", "5432"))
        query |= {"host": name, "port": "5432"}
        proxy.dsn = urlunsplit(parts._replace(query=urlencode(query)))
        server = await asyncio.start_unix_server(proxy.accept, f"{name}/.s.PGSQL.5432")
        try:
            yield proxy
        finally:
            server.close()
            await proxy.close()
