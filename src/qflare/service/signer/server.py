"""The signer's socket: who may ask, how long anybody may take, and one signature at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import struct
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qflare.errors import ConfigError, DecodeError, QflareError
from qflare.protocol import signing
from qflare.protocol.signing import AnswerKind, RequestKind, SignRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from qflare.service.signer.state import SignerState

_log = logging.getLogger("qflare.signer")

CONNECTIONS_MAX: Final = 256
MESSAGE_S: Final = 5.0
"""Longest time from the first byte of a message to its last, and for an answer to be taken."""
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid (unix(7), SO_PEERCRED)
_REASON_BYTES_MAX: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where the socket is, and who may ask."""

    path: Path
    users: frozenset[int]
    """User ids whose processes are answered."""
    group: int | None = None
    """Group that may open the socket, mode 0660; None leaves it 0600."""


class SignerServer:
    """Answers workers until it is told to stop."""

    def __init__(self, state: SignerState, door: Door) -> None:
        """Sign with *state*, which its owner closes."""
        self._state = state
        self._door = door
        self._turn = asyncio.Lock()
        self._open = 0

    async def run(self, stop: asyncio.Event, *, ready: Callable[[], None] = lambda: None) -> None:
        """
        Serve until *stop* is set; calls *ready* once the socket takes questions.

        Raises:
            ConfigError: the socket cannot be made there, or another process serves it.
        """
        listener = _listen(self._door)
        tasks: set[asyncio.Task[None]] = set()

        def admit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._serve(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        try:
            server = await asyncio.start_unix_server(admit, sock=listener, limit=signing.MESSAGE_BYTES_MAX)
            async with server:
                ready()
                await stop.wait()
        finally:
            with contextlib.suppress(OSError):
                self._door.path.unlink()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            user = _peer(writer)
            if user not in self._door.users:
                _log.warning("a process of user %d asked and was refused", user)
                await _answer(writer, AnswerKind.REFUSED, b"this user may not ask")
                return
            if self._open > CONNECTIONS_MAX:
                await _answer(writer, AnswerKind.REFUSED, b"too many connections")
                return
            while head := await reader.read(1):
                async with asyncio.timeout(MESSAGE_S):
                    head += await reader.readexactly(signing.LENGTH_BYTES - 1)
                    message = await reader.readexactly(signing.decode_length(head))
                kind, body = await self._take(*signing.decode_message(message))
                await _answer(writer, kind, body)
        except (DecodeError, TimeoutError, OSError, asyncio.IncompleteReadError) as failure:
            _log.info("a connection ended: %s", type(failure).__name__)
        finally:
            self._open -= 1
            writer.close()

    async def _take(self, kind: int, body: bytes) -> tuple[AnswerKind, bytes]:
        """Answer one question; what cannot be signed is refused with the reason, and the signer goes on."""
        try:
            async with self._turn:
                # Beside the loop: a signature waits for the disk.
                deciding = asyncio.ensure_future(asyncio.to_thread(partial(self._decide, kind, body)))
                try:
                    return await asyncio.shield(deciding)
                except asyncio.CancelledError:
                    # Whoever has the turn next, or wipes the keys, must not meet one that is half way.
                    await asyncio.wait({deciding})
                    raise
        except QflareError as failure:
            _log.warning("refused: %s", failure)
            return AnswerKind.REFUSED, str(failure).encode()[:_REASON_BYTES_MAX]

    def _decide(self, kind: int, body: bytes) -> tuple[AnswerKind, bytes]:
        state = self._state
        if kind == RequestKind.SIGN:
            signed = state.sign(SignRequest.decode(body))
            return (AnswerKind.LAST, state.last.encode()) if signed is None else (AnswerKind.SIGNED, signed.encode())
        if body:
            raise DecodeError("only SIGN has a body")
        if kind == RequestKind.LAST:
            return AnswerKind.LAST, state.last.encode()
        if kind in (RequestKind.KEY, RequestKind.NEW_KEY):
            return AnswerKind.KEY, state.public_key(is_fresh=kind == RequestKind.NEW_KEY)
        raise DecodeError(f"there is no request of kind {kind}")


def _listen(door: Door) -> socket.socket:
    """Make the socket; one that a signer left behind is replaced, one that somebody serves is not."""
    path = str(door.path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            _require_left(door.path)
            door.path.unlink()
        mask = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(mask)
        if door.group is not None:
            os.chown(path, -1, door.group)
            door.path.chmod(0o660)
        listener.listen(CONNECTIONS_MAX)
    except OSError as error:
        listener.close()
        raise ConfigError(f"the socket {path} cannot be made: {error.strerror or error}") from None
    except ConfigError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _require_left(path: Path) -> None:
    """Refuse to replace what is no socket, or one that is served."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise ConfigError(f"{path} is there already, and no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(MESSAGE_S)
        try:
            probe.connect(str(path))
        except OSError:
            return
    raise ConfigError(f"another process serves {path}")


def _peer(writer: asyncio.StreamWriter) -> int:
    found: socket.socket = writer.get_extra_info("socket")
    credentials = found.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(credentials)[1]
    return user


async def _answer(writer: asyncio.StreamWriter, kind: AnswerKind, body: bytes) -> None:
    async with asyncio.timeout(MESSAGE_S):
        writer.write(signing.encode_message(kind, body))
        await writer.drain()
