"""
Updates: dicts of arrays as bytes and back, without pickle and without needing numpy.

    header = "QFLU" ‖ version u8 ‖ round u64 ‖ count u32 ‖ count × (n u8 ‖ name ‖ dtype 2 ‖ dims u8 ‖ dims × u64)
    update = header ‖ zeros to a multiple of 8 ‖ for each array: its elements, zeros to a multiple of 8

Header integers are big-endian as everywhere in QFX-1; elements are little-endian in C order.  Names stand in the order
of their UTF-8 bytes, so that one dict has one encoding.  The header is what a record's associated data should be: the
receiver, who knows which arrays of which round it waits for, makes it from its own `UpdateSpec`, and an update of
another round, dtype or shape does not even open.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import DecodeError, UsageError
from qflare.primitives.rows import as_view
from qflare.protocol.wire import u32, u64

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from typing_extensions import Buffer

    from qflare.primitives.rows import Readable

MAGIC: Final = b"QFLU"
VERSION: Final = 1
DTYPES: Final = {
    "f2": 2, "f4": 4, "f8": 8,
    "i1": 1, "i2": 2, "i4": 4, "i8": 8,
    "u1": 1, "u2": 2, "u4": 4, "u8": 8,
    "b1": 1,
}  # fmt: skip
"""Element types by their two letters, and bytes an element; b1 is a truth value, 0 or 1."""

_KINDS: Final = {"e": "f", "f": "f", "d": "f", "?": "b", **dict.fromkeys("bhilqn", "i"), **dict.fromkeys("BHILQN", "u")}
"""Kind letter by the format letter of the buffer protocol; with the item size it names the dtype on any platform."""
_ALIGNMENT: Final = 8
_HEAD_BYTES: Final = len(MAGIC) + 1 + 8 + 4
_ROUND_MAX: Final = 2**63 - 1
_IS_LITTLE: Final = sys.byteorder == "little"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateLimits:
    """What is refused before anything is allocated."""

    arrays_max: int = 4096
    name_bytes_max: int = 255
    dims_max: int = 16
    total_bytes_max: int = 1 << 33
    """Bytes of all elements together: 8 GiB."""


DEFAULT_LIMITS: Final = UpdateLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """Name, element type and shape of one array."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all elements."""
        size = DTYPES[self.dtype]
        for dim in self.shape:
            size *= dim
        return size


@dataclass(frozen=True, slots=True)
class UpdateSpec:
    """Which arrays an update has, in the order of their names' UTF-8 bytes."""

    arrays: tuple[ArraySpec, ...]

    @classmethod
    def of(cls, arrays: Mapping[str, Buffer], *, limits: UpdateLimits = DEFAULT_LIMITS) -> UpdateSpec:
        """
        Describe *arrays*: anything with the buffer protocol, element format and shape (numpy arrays, `array.array`).

        Raises:
            UsageError: an array cannot be sent, or a limit is passed; the message names array and remedy.
        """
        names = sorted(arrays, key=_encode_name)
        specs = tuple(
            ArraySpec(name=name, dtype=dtype, shape=shape)
            for name in names
            for dtype, shape in (_describe(name, arrays[name]),)
        )
        spec = cls(specs)
        reason = _refuse_spec(spec, limits)
        if reason is not None:
            raise UsageError(reason)
        return spec

    def header(self, *, round_number: int) -> bytes:
        """
        Return the header of this update in a round: give it to the record as associated data.

        Raises:
            UsageError: *round_number* is not 0 to 2^63 - 1.
        """
        if type(round_number) is not int or not 0 <= round_number <= _ROUND_MAX:
            message = f"a round is an integer from 0 to 2^63 - 1, got {round_number!r}"
            raise UsageError(message)
        parts = [MAGIC, bytes((VERSION,)), u64(round_number), u32(len(self.arrays))]
        for spec in self.arrays:
            name = _encode_name(spec.name)
            parts += [bytes((len(name),)), name, spec.dtype.encode(), bytes((len(spec.shape),))]
            parts += [u64(dim) for dim in spec.shape]
        return b"".join(parts)

    def encoded_size(self) -> int:
        """Return the size of the whole update, header included."""
        return sum(_padded(size) for size in (len(self.header(round_number=0)), *(a.size_bytes for a in self.arrays)))


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedUpdate:
    """An update as bytes, and what binds it."""

    aad: bytes
    """The header: associated data for the record."""
    payload: bytearray
    """The plaintext of the record; its owner may wipe it once it is sealed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayView:
    """One decoded array; a view of the update's bytes, valid as long as they are."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview
    """Elements, little-endian, C order."""

    @property
    def __array_interface__(self) -> dict[str, object]:
        """Let ``numpy.asarray(view)`` see the array without a copy."""
        kind = f"|{self.dtype}" if DTYPES[self.dtype] == 1 else f"<{self.dtype}"
        return {"version": 3, "shape": self.shape, "typestr": kind, "data": self.data}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedUpdate:
    """A decoded update."""

    round_number: int
    spec: UpdateSpec
    arrays: dict[str, ArrayView]


def encode_update(
    arrays: Mapping[str, Buffer], *, round_number: int, limits: UpdateLimits = DEFAULT_LIMITS
) -> EncodedUpdate:
    """
    Encode *arrays* as one update.

    Args:
        arrays: Arrays by name; C-contiguous, of one of `DTYPES`.
        round_number: The round of training that the update belongs to.
        limits: What to refuse.

    Raises:
        UsageError: an array cannot be sent, or a limit is passed.
    """
    spec = UpdateSpec.of(arrays, limits=limits)
    payload = bytearray(spec.encoded_size())
    at = 0
    for piece in update_pieces(arrays, round_number=round_number, limits=limits):
        payload[at : at + len(piece)] = piece
        at += len(piece)
    return EncodedUpdate(aad=spec.header(round_number=round_number), payload=payload)


def update_pieces(
    arrays: Mapping[str, Buffer], *, round_number: int, limits: UpdateLimits = DEFAULT_LIMITS
) -> Iterator[memoryview]:
    """
    Yield an update piece by piece for `StreamSealer.seal`, so that no second copy of the arrays is made.

    Raises:
        UsageError: as `encode_update`, before the first piece.
    """
    spec = UpdateSpec.of(arrays, limits=limits)
    header = spec.header(round_number=round_number)
    return _pieces(spec, header, arrays)


def decode_update(
    payload: Readable, *, round_number: int | None = None, limits: UpdateLimits = DEFAULT_LIMITS
) -> DecodedUpdate:
    """
    Decode an update; the arrays are views of *payload*, nothing is copied.

    Args:
        payload: The plaintext of a record.
        round_number: If given, the round that is expected.
        limits: What to refuse.

    Raises:
        DecodeError: it is no update, of another round, or past a limit.
    """
    view = _readonly(payload)
    found, spec, header_size = _read_header(view, limits)
    if round_number is not None and found != round_number:
        message = f"the update is of round {found}, expected round {round_number}"
        raise DecodeError(message)
    if len(view) != spec.encoded_size():
        message = f"an update of these arrays has {spec.encoded_size()} bytes, got {len(view)}"
        raise DecodeError(message)
    _require_zeros(view[header_size : _padded(header_size)])
    at = _padded(header_size)
    arrays: dict[str, ArrayView] = {}
    for array in spec.arrays:
        end = at + array.size_bytes
        data = view[at:end]
        if array.dtype == "b1" and bytes(data).translate(None, b"\0\1"):
            message = f"array {array.name!r} has truth values other than 0 and 1"
            raise DecodeError(message)
        _require_zeros(view[end : at + _padded(array.size_bytes)])
        arrays[array.name] = ArrayView(dtype=array.dtype, shape=array.shape, data=data)
        at += _padded(array.size_bytes)
    return DecodedUpdate(round_number=found, spec=spec, arrays=arrays)


def decode_update_into(
    payload: Readable,
    arrays: Mapping[str, Buffer],
    *,
    round_number: int | None = None,
    limits: UpdateLimits = DEFAULT_LIMITS,
) -> None:
    """
    Decode an update into the caller's *arrays*, which must be exactly those of the update in name, dtype and shape.

    Everything is checked before the first element is written.

    Raises:
        DecodeError: it is no update, of another round, past a limit, or of other arrays.
        UsageError: an array of the caller's cannot be written.
    """
    wanted = UpdateSpec.of(arrays, limits=limits)
    update = decode_update(payload, round_number=round_number, limits=limits)
    if update.spec != wanted:
        message = f"the update has other arrays than expected: {_difference(update.spec, wanted)}"
        raise DecodeError(message)
    targets = {name: memoryview(array) for name, array in arrays.items()}
    for name, target in targets.items():
        if target.readonly:
            message = f"array {name!r} is read-only; give one that can be written"
            raise UsageError(message)
    for name, target in targets.items():
        array = update.arrays[name]
        if array.data.nbytes:
            _write_raw(target, _little(array.data, DTYPES[array.dtype]))


def _pieces(spec: UpdateSpec, header: bytes, arrays: Mapping[str, Buffer]) -> Iterator[memoryview]:
    yield memoryview(header + bytes(_padded(len(header)) - len(header)))
    for array in spec.arrays:
        if array.size_bytes:
            yield _little(_raw(memoryview(arrays[array.name])), DTYPES[array.dtype])
        padding = _padded(array.size_bytes) - array.size_bytes
        if padding:
            yield memoryview(bytes(padding))


def _describe(name: str, array: Buffer) -> tuple[str, tuple[int, ...]]:
    """Return dtype and shape of a caller's array."""
    try:
        view = memoryview(array)
    except (TypeError, ValueError, BufferError):
        view = None
    if view is None:
        message = f"array {name!r} is a {type(array).__name__}, which has no buffer; pass a numpy array or array.array"
        raise UsageError(message)
    letter = view.format.lstrip("@=<")
    kind = _KINDS.get(letter) if len(letter) == 1 else None
    dtype = f"{kind}{view.itemsize}"
    if kind is None or dtype not in DTYPES or (view.format.startswith("<") and not _IS_LITTLE):
        message = (
            f"array {name!r} has elements of format {view.format!r}; sent are {', '.join(DTYPES)} "
            "in native byte order: convert it first, for example with astype"
        )
        raise UsageError(message)
    if not view.c_contiguous:
        message = f"array {name!r} is not C-contiguous: pass a copy, for example numpy.ascontiguousarray(x)"
        raise UsageError(message)
    return dtype, tuple(view.shape or ())


def _refuse_spec(spec: UpdateSpec, limits: UpdateLimits) -> str | None:
    """Say which limit an update passes, or None."""
    if len(spec.arrays) > limits.arrays_max:
        return f"an update has at most {limits.arrays_max} arrays, got {len(spec.arrays)}"
    total = 0
    for array in spec.arrays:
        name_size = len(_encode_name(array.name))
        if not 1 <= name_size <= min(limits.name_bytes_max, 255):
            return f"an array's name is 1 to {limits.name_bytes_max} bytes of UTF-8, got {name_size}"
        if len(array.shape) > limits.dims_max:
            return f"array {array.name!r} has {len(array.shape)} dimensions, at most {limits.dims_max} are sent"
        if any(dim > limits.total_bytes_max for dim in array.shape):
            return f"array {array.name!r} has a dimension above {limits.total_bytes_max}"
        total += array.size_bytes
        if total > limits.total_bytes_max:
            return f"an update has at most {limits.total_bytes_max} bytes of elements; raise the limit or send parts"
    return None


def _read_header(view: memoryview, limits: UpdateLimits) -> tuple[int, UpdateSpec, int]:
    """Return round, spec and size of the header; nothing is allocated that the bytes at hand do not pay for."""
    if len(view) < _HEAD_BYTES or bytes(view[: len(MAGIC)]) != MAGIC or view[len(MAGIC)] != VERSION:
        message = f"the bytes are no update of version {VERSION}"
        raise DecodeError(message)
    round_number = int.from_bytes(view[len(MAGIC) + 1 : len(MAGIC) + 9], "big")
    count = int.from_bytes(view[_HEAD_BYTES - 4 : _HEAD_BYTES], "big")
    if count > limits.arrays_max or round_number > _ROUND_MAX:
        message = (
            f"an update has at most {limits.arrays_max} arrays and a round below 2^63, got {count}, {round_number}"
        )
        raise DecodeError(message)
    specs: list[ArraySpec] = []
    previous, at = b"", _HEAD_BYTES
    for _ in range(count):
        name_size = int.from_bytes(view[at : at + 1], "big")
        name = bytes(view[at + 1 : at + 1 + name_size])
        at += 1 + name_size
        dtype, dims = bytes(view[at : at + 2]).decode("latin-1"), int.from_bytes(view[at + 2 : at + 3], "big")
        at += 3
        if at + 8 * dims > len(view) or dtype not in DTYPES or name <= previous or dims > limits.dims_max:
            message = "the update's header is truncated, or has an array out of order or of an unknown dtype"
            raise DecodeError(message)
        shape = tuple(int.from_bytes(view[at + 8 * dim : at + 8 * dim + 8], "big") for dim in range(dims))
        at += 8 * dims
        specs.append(ArraySpec(name=_decode_name(name), dtype=dtype, shape=shape))
        previous = name
    spec = UpdateSpec(tuple(specs))
    reason = _refuse_spec(spec, limits)
    if reason is not None:
        raise DecodeError(reason)
    return round_number, spec, at


def _encode_name(name: str) -> bytes:
    try:
        return name.encode()
    except (UnicodeEncodeError, AttributeError):
        pass
    message = f"an array's name must be text that UTF-8 can hold, got {name!r}"
    raise UsageError(message)


def _decode_name(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        pass
    message = "an array's name in the update is not UTF-8"
    raise DecodeError(message)


def _readonly(payload: Readable) -> memoryview:
    return as_view(payload, name="payload").toreadonly()


def _raw(view: memoryview) -> memoryview:
    """View the elements of a C-contiguous array as bytes; a copy where the exporter spells its format out (ctypes)."""
    return view.cast("B") if _has_raw_view(view) else memoryview(view.tobytes())


def _write_raw(target: memoryview, elements: memoryview) -> None:
    if _has_raw_view(target):
        target.cast("B")[:] = elements
    else:
        io.BytesIO(elements).readinto(target)  # takes any contiguous buffer, whatever its format is called


def _has_raw_view(view: memoryview) -> bool:
    return view.format.lstrip("@") in _KINDS


def _little(raw: memoryview, width: int) -> memoryview:
    """Return elements in little-endian order, or back: a copy on big-endian machines alone."""
    if _IS_LITTLE or width == 1:
        return raw
    return swap_bytes(raw, width)


def swap_bytes(raw: memoryview, width: int) -> memoryview:
    """Reverse the bytes of every element of *width* bytes, in a copy."""
    swapped = bytearray(len(raw))
    for byte in range(width):
        swapped[byte::width] = raw[width - 1 - byte :: width]
    return memoryview(swapped)


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _require_zeros(padding: memoryview) -> None:
    if any(padding):
        message = "the update's padding is not zero"
        raise DecodeError(message)


def _difference(found: UpdateSpec, wanted: UpdateSpec) -> str:
    missing = [array.name for array in wanted.arrays if array not in found.arrays]
    extra = [array.name for array in found.arrays if array not in wanted.arrays]
    return f"missing or different {missing[:3]}, unexpected {extra[:3]}"
