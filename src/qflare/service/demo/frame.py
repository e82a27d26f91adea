"""
Frames between a server worker and the coordinator: what a device said, and what it is answered, over a unix socket.

    question = size u32 ‖ number u32 ‖ n u8 ‖ device id ‖ m u32 ‖ associated data ‖ message
    answer   = size u32 ‖ number u32 ‖ status u8 ‖ m u32 ‖ associated data ‖ message

Integers are big-endian; *size* counts what follows it.  Every size is checked before anything is read or made.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from qflare.errors import DecodeError

if TYPE_CHECKING:
    import asyncio

FRAME_BYTES_MAX: Final = 1 << 20
"""A model of the demo is some 10 KB."""
_SIZE_BYTES: Final = 4


class Status(IntEnum):
    """What the coordinator made of a question."""

    ANSWERED = 0
    REFUSED = 1
    """Not in this round, twice, or of the wrong form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One opened record: who sent it, with what associated data, and what was in it."""

    number: int
    device_id: str
    aad: bytes
    message: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What goes back to the device."""

    number: int
    status: Status
    aad: bytes = b""
    message: bytes = b""


def encode_question(question: Question) -> bytes:
    """Return *question* as a frame."""
    name = question.device_id.encode()
    return _frame(
        b"".join(
            (
                question.number.to_bytes(4),
                len(name).to_bytes(1),
                name,
                len(question.aad).to_bytes(4),
                question.aad,
                question.message,
            )
        )
    )


def decode_question(body: bytes) -> Question:
    """
    Return the question in a frame's body.

    Raises:
        DecodeError: it is none.
    """
    name_end = 5 + int.from_bytes(body[4:5])
    aad, message = _split(body, name_end)
    try:
        device_id = body[5:name_end].decode()
    except UnicodeDecodeError:
        raise DecodeError("a worker sent a frame whose device id is not UTF-8") from None
    return Question(number=int.from_bytes(body[:4]), device_id=device_id, aad=aad, message=message)


def encode_answer(answer: Answer) -> bytes:
    """Return *answer* as a frame."""
    return _frame(
        b"".join(
            (
                answer.number.to_bytes(4),
                answer.status.to_bytes(1),
                len(answer.aad).to_bytes(4),
                answer.aad,
                answer.message,
            )
        )
    )


def decode_answer(body: bytes) -> Answer:
    """
    Return the answer in a frame's body.

    Raises:
        DecodeError: it is none.
    """
    aad, message = _split(body, 5)
    try:
        status = Status(body[4])
    except ValueError:
        raise DecodeError("the coordinator sent a frame of unknown status") from None
    return Answer(number=int.from_bytes(body[:4]), status=status, aad=aad, message=message)


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """
    Return the next frame's body.

    Raises:
        DecodeError: it is larger than a frame may be.
        IncompleteReadError: the other side has gone.
    """
    size = int.from_bytes(await reader.readexactly(_SIZE_BYTES))
    if size > FRAME_BYTES_MAX:
        raise DecodeError(f"a frame has at most {FRAME_BYTES_MAX} bytes, one of {size} came")
    return await reader.readexactly(size)


def _frame(body: bytes) -> bytes:
    if len(body) > FRAME_BYTES_MAX:
        raise DecodeError(f"a frame has at most {FRAME_BYTES_MAX} bytes, this one has {len(body)}")
    return len(body).to_bytes(_SIZE_BYTES) + body


def _split(body: bytes, at: int) -> tuple[bytes, bytes]:
    """Return associated data and message, which begin at *at*."""
    aad_at = at + 4
    aad_end = aad_at + int.from_bytes(body[at:aad_at])
    if aad_at > len(body) or aad_end > len(body):
        raise DecodeError("a frame between worker and coordinator is cut short")
    return body[aad_at:aad_end], body[aad_end:]
