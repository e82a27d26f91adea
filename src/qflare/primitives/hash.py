"""
SHA3-512, SHAKE256, KMAC256 and the transcript hash H, one and many.

Sources: FIPS 202 (SHA-3), SP 800-185 (KMAC256), PROTOCOL N1 (H).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare._native import hashes, kdf
from qflare._native.border import OUTPUT_BYTES_MAX, require_count, require_integer
from qflare.errors import UsageError
from qflare.primitives.columns import Column
from qflare.primitives.rows import as_buffer, as_messages, as_view
from qflare.secret import SecretBytes, zeroize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.primitives.rows import Readable

SHA3_512_BYTES: Final = 64


def sha3_512(data: Readable) -> bytes:
    """Hash *data*; returns 64 bytes. Source: FIPS 202, section 6.1."""
    return hashes.sha3_512_one(as_buffer(data, name="data"))


def sha3_512_many(messages: Sequence[Readable]) -> bytearray:
    """
    Hash *messages*, of any lengths, in one call.

    Returns:
        ``n x 64`` bytes, row-major; empty for no messages.

    Raises:
        BatchError: more messages than one call takes.
        UsageError: a message is no buffer.
    """
    views = as_messages(messages, name="messages")
    require_count(len(views), row_bytes=SHA3_512_BYTES, name="the number of messages")
    joined = bytearray().join(views)
    try:
        return hashes.sha3_512_batch(joined, [len(view) for view in views])
    finally:
        zeroize(joined)  # a message may be secret, and this copy is ours


def shake256(data: Readable, length: int) -> bytes:
    """Hash *data* to *length* bytes, at least 1. Source: FIPS 202, section 6.2."""
    require_integer(length, name="length", first=1, last=OUTPUT_BYTES_MAX)
    return hashes.shake256_one(as_buffer(data, name="data"), out_size=length)


def shake256_many(messages: Sequence[Readable], length: int) -> bytearray:
    """
    Hash *messages*, of any lengths, to *length* bytes each in one call.

    Returns:
        ``n x length`` bytes, row-major; empty for no messages.

    Raises:
        BatchError: more messages or output than one call takes.
        UsageError: a message is no buffer, or *length* is out of range.
    """
    require_integer(length, name="length", first=1, last=OUTPUT_BYTES_MAX)
    views = as_messages(messages, name="messages")
    require_count(len(views), row_bytes=length, name="the number of messages")
    joined = bytearray().join(views)
    try:
        return hashes.shake256_batch(joined, [len(view) for view in views], out_size=length)
    finally:
        zeroize(joined)


def transcript(*parts: Readable) -> bytes:
    """
    Compute ``H(x, y, …)``: SHA3-512 over *parts*, each preceded by its length as u32.

    Returns:
        64 bytes.

    Source: PROTOCOL N1.
    """
    return hashes.transcript_one([part if type(part) is bytes else as_view(part, name="a part") for part in parts])


def transcript_many(count: int, *columns: Column) -> bytearray:
    """
    Compute ``H(x, y, …)`` for *count* rows whose parts are *columns*; no part is copied.

    Args:
        count: Rows, 0 to the batch maximum.
        columns: The parts in order, made by `rows` and `shared`; at least one.

    Returns:
        ``count x 64`` bytes, row-major.

    Raises:
        BatchError: *count* is out of range, or a column holds another number of rows.
        UsageError: something else than a column was given.

    Source: PROTOCOL N1.
    """
    require_count(count, row_bytes=SHA3_512_BYTES)
    _require_columns(columns, count)
    if not columns:
        message = "a transcript has at least one column"
        raise UsageError(message)
    if count == 0:
        return bytearray()
    return hashes.transcript_batch(columns, count=count)


def transcript_var_many(rows: Sequence[Sequence[Readable]]) -> bytearray:
    """
    Compute ``H(x, y, …)`` for rows of parts of any number and length in one call.

    Returns:
        ``n x 64`` bytes, row-major; row i is H over the parts ``rows[i]``.

    Raises:
        BatchError: more rows than one call takes.
        UsageError: a part is no buffer.

    Source: PROTOCOL N1.
    """
    require_count(len(rows), row_bytes=SHA3_512_BYTES, name="the number of rows")
    if not rows:
        return bytearray()
    views = [as_view(part, name="a part") for parts in rows for part in parts]
    joined = bytearray().join(views)
    try:
        return hashes.transcript_var_batch(joined, [len(view) for view in views], [len(parts) for parts in rows])
    finally:
        zeroize(joined)  # a part may be secret, and this copy is ours


def kmac256(key: Readable, data: Readable, length: int, custom: Readable = b"") -> SecretBytes:
    """
    Compute ``KMAC256(K = key, X = data, L = 8 x length, S = custom)``, not the XOF.

    Args:
        key: Any length; at least 32 bytes wherever security rests on it.
        data: The message.
        length: Bytes of output, at least 1.
        custom: Customization string, at most 256 bytes.

    Returns:
        *length* bytes, owned by the caller.

    Source: SP 800-185, section 4.
    """
    require_integer(length, name="length", first=1, last=OUTPUT_BYTES_MAX)
    label = custom if type(custom) is bytes else bytes(as_view(custom, name="custom"))
    return kdf.kmac256_one(as_buffer(key, name="key"), as_buffer(data, name="data"), custom=label, out_size=length)


def kmac256_many(
    count: int, key: Column, columns: Sequence[Column], length: int, custom: Readable = b""
) -> SecretBytes:
    """
    Compute KMAC256 for *count* rows; each row's message is its *columns* behind each other, with no lengths between.

    Args:
        count: Rows, 0 to the batch maximum.
        key: The keys, any width.
        columns: The parts of the message in order; may be none.
        length: Bytes of output a row, at least 1.
        custom: Customization string for all rows, at most 256 bytes.

    Returns:
        ``count x length`` bytes, row-major, owned by the caller.

    Raises:
        BatchError: *count* or the output is out of range, or a column holds another number of rows.
        UsageError: *length* is out of range, or something else than a column was given.
        LengthError: *custom* is too long.

    Source: SP 800-185, section 4.
    """
    require_integer(length, name="length", first=1, last=OUTPUT_BYTES_MAX)
    require_count(count, row_bytes=length)
    _require_columns((key, *columns), count)
    if count == 0:
        return SecretBytes(bytearray())
    label = bytes(as_view(custom, name="custom"))
    return kdf.kmac256_batch(key, columns, custom=label, out_size=length, count=count)


def _require_columns(columns: Sequence[object], count: int) -> None:
    for index, column in enumerate(columns):
        if not isinstance(column, Column):
            message = f"column {index} must be made by rows() or shared(), got {type(column).__name__}"
            raise UsageError(message)
        column.require_rows(count, name=f"column {index}")
