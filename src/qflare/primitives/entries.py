"""Leaves of the log's entries of type 3, many in one call of the C core (docs/audit.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare._native import entries as native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.primitives.rows import Readable

SALT_BYTES: Final = native.SALT_BYTES


def entry_leaves(
    tenant_id: Readable, salts: Readable, parts: Sequence[bytes], field_counts: Sequence[int]
) -> tuple[list[bytes], list[bytes]]:
    """
    Make the leaf data and leaf hashes of entries of one tenant.

    Args:
        tenant_id: 16 bytes.
        salts: ``n x 32`` bytes, the salt of each entry; those of its fields are derived and wiped in C.
        parts: Of each entry in order: the head of its leaf data, what its row stores, its device's name, then name and
            canonical JSON of each field of its data.
        field_counts: How many fields of data each entry has.

    Returns:
        n leaf data and n leaf hashes, 32 bytes each.

    Raises:
        BatchError: more entries than a call takes, or *parts* are not those of *field_counts*.
        LengthError: tenant, salts or a part has the wrong size.

    Source: docs/audit.md, entry type 3; RFC 9162, section 2.1.1.
    """
    return native.entry_leaves(tenant_id, salts, parts, field_counts)
