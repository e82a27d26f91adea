"""
Owned secret memory: bytes that are wiped, and that no repr, log, pickle or comparison gives away.

A `SecretBytes` owns one bytearray.  Whoever holds it wipes it: as a context manager, by `wipe()`, or at the latest when
it is collected.  What it cannot promise is that the interpreter or the kernel made no copy (docs/security.md).
"""

from __future__ import annotations

import hmac
from typing import Final, NoReturn, Self, final

from qflare.errors import LengthError, UsageError

_REFUSAL: Final = "a SecretBytes cannot be {}; use view() in the narrowest scope and wipe what you copy"


_ZEROS: Final = bytes(1 << 16)
_SMALL_BYTES: Final = 1 << 12


def zeroize(buffer: bytearray | memoryview) -> None:
    """Overwrite *buffer* with zeros in place, piece by piece, so that wiping a large one needs no second one."""
    # Slice assignment writes through to the same memory; CPython has no optimiser that could drop it.
    size = len(buffer)
    if size <= len(_ZEROS):
        buffer[:] = bytearray(size)  # from bytes it would go through a bytearray of its own
        return
    # Through a view, for a bytearray would first copy the zeros.
    with memoryview(buffer) as view:
        for at in range(0, size, len(_ZEROS)):
            view[at : at + len(_ZEROS)] = _ZEROS[: size - at]


class SecretMemory(bytearray):
    """
    The memory itself: wiped when its last user is gone, be that the secret or a view of it.

    For whoever fills a secret before it becomes one: `SecretBytes.owning(memory)`; if that is never reached, it wipes
    itself all the same.
    """

    # WHY not in SecretBytes: a view keeps this object alive, not the secret. If the secret wiped when it was collected,
    # `use(derive().view())` would use zeros, silently, on both sides of a protocol.
    __slots__ = ()

    def __del__(self) -> None:
        """Wipe what the owner forgot."""
        # Every secret ends here, so the usual small one is spared a call.
        if len(self) <= _SMALL_BYTES:
            self[:] = bytearray(len(self))
        else:
            zeroize(self)


@final
class SecretBytes:
    """
    Secret bytes with an owner; also a batch of rows, row-major, for callers that know the row size.

    `SecretBytes(bytearray)` moves the bytes over and leaves zeros behind; `SecretBytes.copy_of(buffer)` copies any
    buffer, and the caller still owns and wipes the source.
    """

    __slots__ = ("__weakref__", "_buffer")

    def __init__(self, buffer: bytearray) -> None:
        """Take the bytes of *buffer*, which is left full of zeros."""
        if not isinstance(buffer, bytearray):
            # A caller without a type checker, whose source we could not wipe.
            message = "SecretBytes owns a bytearray; use SecretBytes.copy_of() for other buffers"  # type: ignore[unreachable]
            raise UsageError(message)
        self._buffer = SecretMemory(buffer)
        zeroize(buffer)

    @classmethod
    def owning(cls, memory: SecretMemory) -> Self:
        """Make a secret of *memory* itself, without a copy; its maker keeps no other use of it."""
        if type(memory) is not SecretMemory:
            # A plain bytearray would not be wiped when it is collected.
            message = "SecretBytes.owning() takes a SecretMemory; use SecretBytes() or copy_of() for other buffers"
            raise UsageError(message)
        secret = cls.__new__(cls)
        secret._buffer = memory  # noqa: SLF001  # our own slot: __init__ would copy
        return secret

    @classmethod
    def copy_of(cls, buffer: bytes | bytearray | memoryview | SecretBytes) -> Self:
        """Copy *buffer* into a secret of its own."""
        given: object = buffer
        if not isinstance(given, bytes | bytearray | memoryview | SecretBytes):
            message = f"a secret is copied from bytes or another SecretBytes, got {type(given).__name__}"
            raise UsageError(message)
        return cls(bytearray(buffer.view() if isinstance(buffer, SecretBytes) else buffer))

    @classmethod
    def zeros(cls, size: int) -> Self:
        """Make a secret of *size* zero bytes, to be filled through `view()`."""
        return cls.owning(SecretMemory(size))

    @classmethod
    def join(cls, parts: list[SecretBytes] | tuple[SecretBytes, ...]) -> Self:
        """Copy *parts* behind each other into a new secret; the parts keep their owners."""
        whole = cls.zeros(sum(len(part) for part in parts))
        offset = 0
        with whole.view() as out:
            for part in parts:
                with part.view() as view:
                    out[offset : offset + len(view)] = view
                    offset += len(view)
        return whole

    def view(self) -> memoryview:
        """Return a writable view of the memory; it sees zeros once the secret is wiped."""
        return memoryview(self._buffer)

    def row(self, index: int, size: int) -> memoryview:
        """Return a writable view of row *index* of *size* bytes."""
        count = len(self._buffer) // size
        if not 0 <= index < count:
            name = "row index times size"
            raise LengthError(name, expected=f"at most {len(self._buffer)}", actual=(index + 1) * size)
        return memoryview(self._buffer)[index * size : (index + 1) * size]

    def take_row(self, index: int, size: int) -> SecretBytes:
        """Copy row *index* of *size* bytes into a secret of its own."""
        return SecretBytes.owning(SecretMemory(self.row(index, size)))

    def wipe(self) -> None:
        """Overwrite the memory with zeros; the length stays. Safe to call twice."""
        zeroize(self._buffer)

    def equals(self, other: SecretBytes | bytes | bytearray | memoryview) -> bool:
        """Compare in constant time."""
        given: object = other
        if not isinstance(given, bytes | bytearray | memoryview | SecretBytes):
            message = f"a secret is compared with bytes or another SecretBytes, got {type(given).__name__}"
            raise UsageError(message)
        # CT: compare_digest touches every byte whatever differs; only the length is public.
        theirs = other.view() if isinstance(other, SecretBytes) else other
        return hmac.compare_digest(self._buffer, theirs)

    def __len__(self) -> int:
        """Return the size in bytes, which is public."""
        return len(self._buffer)

    def __enter__(self) -> Self:
        """Lend the secret to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wipe at the end of the block, however it ends."""
        self.wipe()

    def __repr__(self) -> str:
        """Say that there is a secret and how long it is, nothing else."""
        return f"<SecretBytes of {len(self._buffer)} bytes>"

    __str__ = __repr__

    def __format__(self, format_spec: str) -> str:
        """Format like repr, whatever was asked for."""
        return repr(self)

    def __eq__(self, other: object) -> bool:
        """Refuse: `==` is not constant time; `equals()` is."""
        raise UsageError(_REFUSAL.format("compared with =="))

    __hash__ = None  # type: ignore[assignment]  # a secret is no dictionary key

    def __reduce__(self) -> NoReturn:
        """Refuse pickling."""
        raise UsageError(_REFUSAL.format("pickled"))

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        """Refuse pickling and the copying that rests on it."""
        raise UsageError(_REFUSAL.format("pickled or copied"))

    def __copy__(self) -> NoReturn:
        """Refuse: a copy needs an owner, `copy_of()` names one."""
        raise UsageError(_REFUSAL.format("copied"))

    def __deepcopy__(self, _memo: object) -> NoReturn:
        """Refuse: a copy needs an owner, `copy_of()` names one."""
        raise UsageError(_REFUSAL.format("copied"))

    def __bytes__(self) -> NoReturn:
        """Refuse: bytes cannot be wiped."""
        raise UsageError(_REFUSAL.format("turned into bytes"))

    def __iter__(self) -> NoReturn:
        """Refuse: iterating would leave the bytes behind as integers."""
        raise UsageError(_REFUSAL.format("iterated"))
