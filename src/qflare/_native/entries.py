"""The C border of the log's entries: commitments, leaf data and leaf hashes of a batch in one call."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Final

from qflare._native._qflare import ffi, lib
from qflare._native.border import borrowed, check, require_count, writable
from qflare.errors import BatchError, LengthError
from qflare.secret import zeroize

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from typing_extensions import Buffer

    from qflare.secret import SecretBytes

LEAF_HASH_BYTES: Final[int] = int(lib.QFL_LEAF_HASH_BYTES)
SALT_BYTES: Final[int] = int(lib.QFL_ENTRY_SALT_BYTES)
TENANT_BYTES: Final[int] = int(lib.QFL_TENANT_BYTES)
FIXED_PARTS: Final = 3
"""Parts of an entry in front of names and values: head, what its row stores, device."""
_ADDED_BYTES: Final = 2 * LEAF_HASH_BYTES
_PART_BYTES_MAX: Final = 2**32 - 1
_SIZES: Final[Any] = ffi.typeof("uint64_t[]")


def entry_leaves(
    tenant_id: Buffer | SecretBytes,
    salts: Buffer | SecretBytes,
    parts: Sequence[bytes | bytearray],
    field_counts: Sequence[int],
) -> tuple[list[bytes], list[bytes]]:
    """
    Make the leaf data and leaf hashes of entries of type 3 (`qfl_entry_leaves_batch`).

    Raises:
        BatchError: more entries than a call takes, or *parts* are not those of *field_counts*.
        LengthError: tenant, salts or a part has the wrong size.
    """
    count = require_count(len(field_counts), row_bytes=_ADDED_BYTES, name="the number of entries")
    if count == 0:
        return [], []
    sizes = list(map(len, parts))
    heads = list(accumulate([FIXED_PARTS + 2 * fields for fields in field_counts], initial=0))
    at = heads.pop()
    if at != len(sizes) or min(field_counts) < 0:
        message = f"the entries have {at} parts, got {len(sizes)}"
        raise BatchError(message)
    if max(sizes) > _PART_BYTES_MAX:
        name = "a part of an entry"
        raise LengthError(name, expected=f"at most {_PART_BYTES_MAX}", actual=max(sizes))
    tenant, salt_rows = borrowed(tenant_id), borrowed(salts)
    for name, memory, expected in (("tenant_id", tenant, TENANT_BYTES), ("salts", salt_rows, count * SALT_BYTES)):
        if len(memory) != expected:
            raise LengthError(name, expected=expected, actual=len(memory))
    leaf_sizes = [sizes[head] + _ADDED_BYTES for head in heads]
    leaves, hashes = bytearray(sum(leaf_sizes)), bytearray(count * LEAF_HASH_BYTES)
    joined = bytearray().join(parts)
    try:
        check(
            lib.qfl_entry_leaves_batch(
                writable(leaves),
                writable(hashes),
                tenant,
                salt_rows,
                borrowed(joined),
                ffi.new(_SIZES, sizes),
                ffi.new(_SIZES, field_counts),
                len(joined),
                len(sizes),
                len(leaves),
                count,
            ),
            "making leaves",
        )
    finally:
        zeroize(joined)  # it holds salts and what they hide, and this copy is ours
    return _cut(leaves, accumulate(leaf_sizes, initial=0)), _cut(
        hashes, range(0, len(hashes) + LEAF_HASH_BYTES, LEAF_HASH_BYTES)
    )


def _cut(joined: bytearray, edges: Iterable[int]) -> list[bytes]:
    whole = bytes(joined)
    return [whole[at:end] for at, end in pairwise(edges)]


def force_plain(*, is_plain: bool) -> bool:
    """Let this thread's SHA-256 do without the processor's instructions, or use them; returns whether it does so."""
    return bool(lib.qfl_sha256_force(1 if is_plain else 0) == 0)
