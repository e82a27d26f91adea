"""
AES-256-GCM through `cryptography`: one, many, and into the caller's memory.

The nonce is 12 bytes, the tag 16 bytes at the end of what was sealed.  Every failure to open is `AuthenticationError`,
whatever was wrong, and leaves no unverified plaintext behind.  Plaintexts come back as `SecretBytes`.

Source: SP 800-38D; PROTOCOL N1.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Final, TypeAlias, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qflare.errors import AuthenticationError, BatchError, LengthError, UsageError
from qflare.primitives.columns import Column
from qflare.primitives.rows import as_messages, as_view, lent_rows
from qflare.secret import SecretBytes, SecretMemory, zeroize

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qflare.primitives.rows import Readable, RowsLike

    Field: TypeAlias = Column | Sequence[Readable]

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
NONCE_ZERO: Final = bytes(NONCE_BYTES)
"""The nonce of a key that seals exactly one message (N1)."""
PLAINTEXT_BYTES_MAX: Final = 2**31 - 1 - TAG_BYTES
"""Most bytes `cryptography` takes in one call; longer messages travel as streams (R3)."""
_AAD_BYTES_MAX: Final = 2**31 - 1


@final
class AeadKey:
    """
    A key schedule that is used more than once, for the segments of a stream.

    `cryptography` keeps the expanded key in OpenSSL's memory, which OpenSSL wipes when the object is collected.
    """

    __slots__ = ("_cipher",)

    def __init__(self, key: Readable) -> None:
        """
        Expand *key*, 32 bytes; the caller still owns and wipes it.

        Raises:
            LengthError: *key* has another size.
        """
        expanded = key if type(key) is bytes else as_view(key, name="key")
        if len(expanded) != KEY_BYTES:
            name = "key"
            raise LengthError(name, expected=KEY_BYTES, actual=len(expanded))
        self._cipher = AESGCM(expanded)

    def seal_into(self, nonce: Readable, plaintext: Readable, aad: Readable, out: bytearray | memoryview) -> None:
        """
        Encrypt *plaintext* into *out*, which is exactly `TAG_BYTES` longer.

        Raises:
            LengthError: a size is wrong; *out* untouched.
        """
        plain, target = _plain_view(plaintext), _target(out)
        if len(target) != len(plain) + TAG_BYTES:
            name = "out"
            raise LengthError(name, expected=len(plain) + TAG_BYTES, actual=len(target))
        self._cipher.encrypt_into(_nonce_view(nonce), plain, _aad_view(aad), target)

    def seal(self, nonce: Readable, plaintext: Readable, aad: Readable) -> bytes:
        """
        Encrypt *plaintext*; returns it sealed, `TAG_BYTES` longer.

        Raises:
            LengthError: a size is wrong.
        """
        return self._cipher.encrypt(_nonce_view(nonce), _plain_view(plaintext), _aad_view(aad))

    def seal_many(self, count: int, nonces: RowsLike, plaintexts: Field, aads: Field) -> list[bytes]:
        """
        Encrypt *count* plaintexts under this one key.

        Args:
            count: Rows.
            nonces: ``count x 12`` bytes, no two alike; one for all is refused.
            plaintexts: *count* buffers, or a column.
            aads: *count* buffers, or a column (`shared` if one is for all).

        Returns:
            *count* sealed rows.

        Raises:
            LengthError: a size is wrong; nothing was sealed.
            BatchError: the arguments disagree with *count*.
        """
        plains = _field(plaintexts, count, "plaintexts", PLAINTEXT_BYTES_MAX)
        aad_views = _field(aads, count, "aads", _AAD_BYTES_MAX)
        nonce_rows = _nonces(nonces, count, is_one_enough=False)
        encrypt = self._cipher.encrypt
        return [encrypt(nonce, plain, aad) for nonce, plain, aad in zip(nonce_rows, plains, aad_views, strict=False)]

    def open_into(self, nonce: Readable, sealed: Readable, aad: Readable, out: bytearray | memoryview) -> None:
        """
        Decrypt *sealed* into *out*, which is exactly `TAG_BYTES` shorter.

        Raises:
            AuthenticationError: not authentic, or too short to be; *out* is all zero if it has the right size.
            LengthError: *out* or *nonce* has a wrong size; *out* untouched.
        """
        target = _target(out)
        view = sealed if type(sealed) is bytes else _view(sealed, "sealed")
        nonce_view, aad_view = _nonce_view(nonce), _aad_view(aad)
        if TAG_BYTES <= len(view) <= PLAINTEXT_BYTES_MAX + TAG_BYTES:
            if len(target) != len(view) - TAG_BYTES:
                name = "out"
                raise LengthError(name, expected=len(view) - TAG_BYTES, actual=len(target))
            try:
                self._cipher.decrypt_into(nonce_view, view, aad_view, target)
            except InvalidTag:
                # decrypt_into leaves the unverified plaintext where it wrote it.
                zeroize(target)
            else:
                return
        # Outside the handler, so that the error has no inner cause.
        raise AuthenticationError

    def open(self, nonce: Readable, sealed: Readable, aad: Readable) -> SecretBytes:
        """
        Decrypt *sealed*; returns the plaintext, owned by the caller.

        Raises:
            AuthenticationError: not authentic, or too short to be.
            LengthError: *nonce* has a wrong size.
        """
        view = sealed if type(sealed) is bytes else _view(sealed, "sealed")
        nonce_view, aad_view = _nonce_view(nonce), _aad_view(aad)
        if TAG_BYTES <= len(view) <= PLAINTEXT_BYTES_MAX + TAG_BYTES:
            plaintext = SecretMemory(len(view) - TAG_BYTES)
            try:
                self._cipher.decrypt_into(nonce_view, view, aad_view, plaintext)
            except InvalidTag:
                # decrypt_into leaves the unverified plaintext where it wrote it.
                zeroize(plaintext)
            else:
                return SecretBytes.owning(plaintext)
        # Outside the handler, so that the error has no inner cause.
        raise AuthenticationError


def seal(key: Readable, nonce: Readable, plaintext: Readable, aad: Readable) -> bytes:
    """
    Encrypt *plaintext* under *key*.

    Args:
        key: 32 bytes.
        nonce: 12 bytes, never twice under one key.
        plaintext: At most `PLAINTEXT_BYTES_MAX` bytes.
        aad: Associated data, authenticated but not sent.

    Returns:
        ``len(plaintext) + 16`` bytes.

    Raises:
        LengthError: a size is wrong.
    """
    return AeadKey(key).seal(nonce, plaintext, aad)


def open(key: Readable, nonce: Readable, sealed: Readable, aad: Readable) -> SecretBytes:  # noqa: A001  # seal/open are the two words of the style guide
    """
    Decrypt *sealed* under *key*.

    Returns:
        ``len(sealed) - 16`` bytes, owned by the caller.

    Raises:
        AuthenticationError: not authentic, or too short to be.
        LengthError: *key* or *nonce* has a wrong size.
    """
    return AeadKey(key).open(nonce, sealed, aad)


def open_into(key: Readable, nonce: Readable, sealed: Readable, aad: Readable, out: bytearray | memoryview) -> None:
    """Decrypt *sealed* under *key* into *out*; as `AeadKey.open_into`."""
    AeadKey(key).open_into(nonce, sealed, aad, out)


def seal_many(keys: RowsLike, nonces: RowsLike, plaintexts: Field, aads: Field) -> list[bytes]:
    """
    Encrypt row by row, each row under its own key.

    Args:
        keys: ``n x 32`` bytes.
        nonces: ``n x 12`` bytes, or 12 bytes for all rows.
        plaintexts: n buffers, or a column.
        aads: n buffers, or a column (`shared` if one is for all).

    Returns:
        n sealed rows.

    Raises:
        LengthError: a size is wrong; nothing was sealed.
        BatchError: the arguments disagree about n.
    """
    with lent_rows(keys, KEY_BYTES, name="keys") as key_rows:
        count = len(key_rows) // KEY_BYTES
        plains = _field(plaintexts, count, "plaintexts", PLAINTEXT_BYTES_MAX)
        aad_views = _field(aads, count, "aads", _AAD_BYTES_MAX)
        nonce_rows = _nonces(nonces, count)
        # Every size was checked above, so that a row costs two calls and no more.
        return [
            AESGCM(key_rows[at : at + KEY_BYTES]).encrypt(nonce, plain, aad)
            for at, nonce, plain, aad in zip(
                range(0, len(key_rows), KEY_BYTES), nonce_rows, plains, aad_views, strict=False
            )
        ]


def open_many(keys: RowsLike, nonces: RowsLike, sealed: Field, aads: Field) -> list[SecretBytes | None]:
    """
    Decrypt row by row, each row under its own key.

    Args:
        keys: ``n x 32`` bytes.
        nonces: ``n x 12`` bytes, or 12 bytes for all rows.
        sealed: n buffers, or a column.
        aads: n buffers, or a column (`shared` if one is for all).

    Returns:
        n plaintexts, owned by the caller; ``None`` where a row is not authentic, which fails that row alone.

    Raises:
        LengthError: a key or nonce has a wrong size.
        BatchError: the arguments disagree about n.
    """
    with lent_rows(keys, KEY_BYTES, name="keys") as key_rows:
        count = len(key_rows) // KEY_BYTES
        sealed_views = _field(sealed, count, "sealed", None)
        aad_views = _field(aads, count, "aads", _AAD_BYTES_MAX)
        opened: list[SecretBytes | None] = []
        for row, nonce in zip(range(count), _nonces(nonces, count), strict=False):
            key = AeadKey(key_rows[row * KEY_BYTES : (row + 1) * KEY_BYTES])
            try:
                opened.append(key.open(nonce, sealed_views[row], aad_views[row]))
            except AuthenticationError:
                opened.append(None)
        return opened


def open_many_into(keys: RowsLike, nonces: RowsLike, sealed: Column, aads: Field, out: SecretBytes) -> bytes:
    """
    Decrypt rows of one size into the rows of *out*, each row under its own key.

    Args:
        keys: ``n x 32`` bytes.
        nonces: ``n x 12`` bytes, or 12 bytes for all rows.
        sealed: n rows of at least `TAG_BYTES`.
        aads: n buffers, or a column (`shared` if one is for all).
        out: Exactly ``n x (sealed.width - 16)`` bytes; written over.

    Returns:
        A status byte a row: 0 for a good one; 1 for one that is not authentic, which fails alone and is all zero.

    Raises:
        LengthError: a size is wrong; *out* untouched.
        BatchError: the arguments disagree about n; *out* untouched.
    """
    size = sealed.width - TAG_BYTES
    if not 0 <= size <= PLAINTEXT_BYTES_MAX:
        name, expected = "a sealed row", f"{TAG_BYTES} to {PLAINTEXT_BYTES_MAX + TAG_BYTES}"
        raise LengthError(name, expected=expected, actual=sealed.width)
    with lent_rows(keys, KEY_BYTES, name="keys") as key_rows, out.view() as target:
        count = len(key_rows) // KEY_BYTES
        if len(target) != count * size:
            name = "out"
            raise LengthError(name, expected=count * size, actual=len(target))
        sealed_views = _field(sealed, count, "sealed", PLAINTEXT_BYTES_MAX + TAG_BYTES)
        aad_views = _field(aads, count, "aads", _AAD_BYTES_MAX)
        status = bytearray(count)
        for row, nonce, box, aad in zip(range(count), _nonces(nonces, count), sealed_views, aad_views, strict=False):
            plaintext = target[row * size : (row + 1) * size]
            cipher = AESGCM(key_rows[row * KEY_BYTES : (row + 1) * KEY_BYTES])
            try:
                cipher.decrypt_into(nonce, box, aad, plaintext)
            except InvalidTag:
                # decrypt_into leaves the unverified plaintext where it wrote it.
                zeroize(plaintext)
                status[row] = 1
        return bytes(status)


def _field(values: Field, count: int, name: str, most: int | None) -> Sequence[bytes | memoryview]:
    views: Sequence[bytes | memoryview]
    if isinstance(values, Column):
        values.require_rows(count, name=name)
        view, width, first = as_view(values.buffer, name=name), values.width, values.offset
        if values.stride == 0:
            views = [view[first : first + width]] * count
        else:
            views = [view[at : at + width] for at in range(first, first + count * values.stride, values.stride)]
        longest = width
    elif type(values) is list and len(values) == count and all(type(value) is bytes for value in values):
        views = values  # bytes need no view
        longest = max(map(len, views), default=0)
    else:
        views = as_messages(values, name=name, count=count)
        longest = max(map(len, views), default=0)
    if most is not None and longest > most:
        raise LengthError(name, expected=f"at most {most}", actual=longest)
    return views


def _nonces(nonces: RowsLike, count: int, *, is_one_enough: bool = True) -> Iterable[bytes]:
    with lent_rows(nonces, NONCE_BYTES, name="nonces") as view:
        copied = bytes(view)  # nonces are public; the lent copy is wiped at the end of the block
    found = len(copied) // NONCE_BYTES
    if found != count and not (found == 1 and is_one_enough):
        message = f"nonces has {found} rows, the batch has {count}"
        raise BatchError(message)
    if found != count:
        return repeat(copied, count)
    return [copied[at : at + NONCE_BYTES] for at in range(0, len(copied), NONCE_BYTES)]


def _nonce_view(nonce: Readable) -> bytes | memoryview:
    view = nonce if type(nonce) is bytes else _view(nonce, "nonce")
    if len(view) != NONCE_BYTES:
        name = "nonce"
        raise LengthError(name, expected=NONCE_BYTES, actual=len(view))
    return view


def _plain_view(plaintext: Readable) -> bytes | memoryview:
    view = plaintext if type(plaintext) is bytes else _view(plaintext, "plaintext")
    if len(view) > PLAINTEXT_BYTES_MAX:
        raise _too_long("plaintext", view, PLAINTEXT_BYTES_MAX)
    return view


def _aad_view(aad: Readable) -> bytes | memoryview:
    view = aad if type(aad) is bytes else _view(aad, "aad")
    if len(view) > _AAD_BYTES_MAX:
        raise _too_long("aad", view, _AAD_BYTES_MAX)
    return view


def _too_long(name: str, view: bytes | memoryview, most: int) -> LengthError:
    return LengthError(name, expected=f"at most {most}", actual=len(view))


def _view(buffer: Readable, name: str) -> memoryview:
    # A view of bytes, which is what batches give, is good as it is; `as_view` tells what is wrong with another.
    if type(buffer) is memoryview and buffer.format == "B" and buffer.ndim == 1 and buffer.c_contiguous:
        return buffer
    return as_view(buffer, name=name)


def _target(out: bytearray | memoryview) -> bytearray | memoryview:
    if type(out) is bytearray:
        return out
    view = _view(out, "out")
    if not len(view):
        return memoryview(bytearray())  # as_view's stand-in for an empty buffer is read-only
    if view.readonly:
        message = "out must be writable"
        raise UsageError(message)
    return view
