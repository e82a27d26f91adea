"""A signer of the log's heads behind a unix socket: one connection, one question at a time, every wait bounded."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from qflare.errors import DecodeError, SignerRefusedError, SignerUnavailableError
from qflare.protocol import signing
from qflare.protocol.signing import AnswerKind, LastHead, RequestKind, SignRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.event import SignedCheckpoint


class SignerClient:
    """
    `model.signer_ports.Signer` over a socket; connects when it is asked, and again when the signer returns.

    Args:
        path: Of the socket.
        timeout_s: Longest wait for an answer, the wait for others' questions of this worker included.
    """

    def __init__(self, path: str, *, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def public_key(self, *, is_fresh: bool = False) -> bytes:
        """Return the public half of the key that was made last, or of a fresh one."""
        kind, body = await self._ask(RequestKind.NEW_KEY if is_fresh else RequestKind.KEY)
        if kind != AnswerKind.KEY:
            raise self._unexpected(kind, body)
        return body

    async def last(self) -> tuple[bytes, SignedCheckpoint]:
        """Return the head that was signed last, and SHA-256 of the key."""
        kind, body = await self._ask(RequestKind.LAST)
        if kind != AnswerKind.LAST:
            raise self._unexpected(kind, body)
        head = self._head(body)
        return head.key_hash, head.checkpoint

    async def sign(
        self, public_key: bytes, origin: str, *, old_size: int, size: int, root: bytes, path: Sequence[bytes]
    ) -> tuple[bytes, SignedCheckpoint, bool]:
        """Ask for a signature over a head that follows the one of *old_size*."""
        request = SignRequest(
            key_hash=signing.hash_key(public_key), origin=origin, old_size=old_size, size=size, root=root, path=path
        )
        kind, body = await self._ask(RequestKind.SIGN, request.encode())
        if kind not in (AnswerKind.SIGNED, AnswerKind.LAST):
            raise self._unexpected(kind, body)
        head = self._head(body)
        return head.key_hash, head.checkpoint, kind == AnswerKind.SIGNED

    async def close(self) -> None:
        """Close the connection."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream[1].close()
            with contextlib.suppress(OSError):
                await stream[1].wait_closed()

    async def _ask(self, kind: RequestKind, body: bytes = b"") -> tuple[int, bytes]:
        message = signing.encode_message(kind, body)
        try:
            async with asyncio.timeout(self._timeout_s), self._turn:
                # A connection that was kept may have ended with the signer: then a new one is tried, once.
                if self._stream is not None:
                    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                        return await self._exchange(message)
                return await self._exchange(message)
        except TimeoutError:
            raise SignerUnavailableError(f"the signer at {self._path} did not answer in {self._timeout_s} s") from None
        except (OSError, asyncio.IncompleteReadError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "it ended the connection"
            raise SignerUnavailableError(
                f"the signer at {self._path} cannot be asked: {reason}; start  qflare signer , or see that this user "
                "may ask it"
            ) from None
        except DecodeError as failure:
            raise SignerUnavailableError(
                f"what answers at {self._path} is no signer of this version: {failure}"
            ) from None

    async def _exchange(self, message: bytes) -> tuple[int, bytes]:
        """Send one question and read its answer; whatever fails, or is cancelled, ends the connection."""
        stream, self._stream = self._stream, None
        if stream is None:
            stream = await asyncio.open_unix_connection(self._path)
        reader, writer = stream
        is_whole = False
        try:
            writer.write(message)
            await writer.drain()
            size = signing.decode_length(await reader.readexactly(signing.LENGTH_BYTES))
            answer = signing.decode_message(await reader.readexactly(size))
            is_whole = True
        finally:
            # An answer that nobody read would be taken for the next one's.
            if is_whole:
                self._stream = stream
            else:
                writer.close()
        return answer

    def _head(self, body: bytes) -> LastHead:
        try:
            return LastHead.decode(body)
        except DecodeError as failure:
            raise SignerUnavailableError(
                f"what answers at {self._path} is no signer of this version: {failure}"
            ) from None

    def _no_signer(self, failure: DecodeError) -> SignerUnavailableError:
        return SignerUnavailableError(f"what answers at {self._path} is no signer of this version: {failure}")

    def _unexpected(self, kind: int, body: bytes) -> SignerUnavailableError | SignerRefusedError:
        if kind == AnswerKind.REFUSED:
            return SignerRefusedError(f"the signer refused: {body.decode(errors='replace')}")
        return SignerUnavailableError(f"the signer at {self._path} gave an answer of kind {kind} to another question")
