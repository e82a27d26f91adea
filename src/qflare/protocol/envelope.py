"""
An envelope: a record and the application's associated data beside it, for transports that carry one body.

``u32 aad_size ‖ aad ‖ record``.  The associated data travels in the clear and is bound into every segment of the record
(R3): who alters it makes the record unopenable.
"""

from __future__ import annotations

from typing import Final

from qflare.errors import DecodeError, LengthError
from qflare.protocol.segment import sealed_size
from qflare.protocol.wire import u32

AAD_BYTES_MAX: Final = 16 * 2**10
ENVELOPE_HEADER_BYTES: Final = 4


def encode_envelope(aad: bytes, record: bytes | bytearray | memoryview) -> bytes:
    """
    Put *aad* before *record*.

    Raises:
        LengthError: *aad* has more than 16 KiB.
    """
    if len(aad) > AAD_BYTES_MAX:
        name = "associated data"
        raise LengthError(name, expected=f"at most {AAD_BYTES_MAX}", actual=len(aad))
    return b"".join((u32(len(aad)), aad, record))


def split_envelope(body: bytes | bytearray | memoryview) -> tuple[bytes, memoryview]:
    """
    Take an envelope apart into the associated data and a view of the record; nothing is authentic yet.

    Raises:
        DecodeError: it is no envelope.
    """
    view = memoryview(body)
    size = int.from_bytes(view[:ENVELOPE_HEADER_BYTES])
    record_at = ENVELOPE_HEADER_BYTES + size
    if len(view) < ENVELOPE_HEADER_BYTES + sealed_size(0) or size > AAD_BYTES_MAX or record_at > len(view):
        message = "this is no record with its associated data; send  u32 size ‖ aad ‖ record"
        raise DecodeError(message)
    return bytes(view[ENVELOPE_HEADER_BYTES:record_at]), view[record_at:]
