"""receipts.json: inclusion and signature for trees of many sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.protocol.checkpoint import checkpoint_message
from qflare.protocol.log import hash_leaf
from qflare.protocol.receipt import decode_receipt, verify_receipt

from .stream import draw
from .world import LOG_ORIGIN, make_world, receipt_for

if TYPE_CHECKING:
    from .stream import Value


def receipt_cases() -> list[Value]:
    """First, middle and last leaves; trees of one leaf, powers of two and their neighbours."""
    world = make_world()
    cases: list[Value] = []
    for index, size in ((0, 1), (0, 2), (1, 2), (2, 3), (3, 7), (6, 7), (5, 8), (8, 9), (100, 129), (128, 129)):
        label = f"receipt {index} of {size}"
        entry = draw(f"{label} entry", 165)
        receipt = receipt_for(hash_leaf(entry), index=index, size=size, label=label)
        decoded = decode_receipt(receipt)
        root = verify_receipt(decoded, hash_leaf(entry), log_key=world.log.verification_key, origin=LOG_ORIGIN)
        cases.append(
            {
                "entry": entry,
                "leaf_hash": hash_leaf(entry),
                "index": index,
                "size": size,
                "time": decoded.time_s,
                "path": list(decoded.path),
                "root": root,
                "log_origin": LOG_ORIGIN,
                "log_vk": world.log.verification_key,
                "cosigned_message": checkpoint_message(LOG_ORIGIN, size, root, decoded.time_s),
                "receipt": receipt,
            }
        )
    return cases
