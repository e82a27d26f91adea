"""Message keys and reply keys derived from chain keys, for rows of a batch (PROTOCOL R2, R6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.manager.chains import CHAIN_KEY_BYTES
from qflare.manager.reply_keys import derive_and_seal_reply_keys, reply_key_of
from qflare.model.session import Session
from qflare.primitives.kdf import message_keys_many
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.manager.buckets import Ring
    from qflare.manager.sessions import Resolved
    from qflare.model.reply import SealedReplyKey
    from qflare.protocol.record import RecordHeader

MESSAGE_KEY_BYTES: Final = 64


def derive_message_keys(chain_keys: SecretBytes, rows: Sequence[tuple[int, int, bytes]]) -> SecretBytes:
    """
    Derive a message key for each (bucket, direction, purpose), one C call for all rows that agree in them (R2).

    Args:
        chain_keys: ``n × 64`` bytes, each of its row's bucket.
        rows: One a chain key.

    Returns:
        ``n × 64`` bytes, owned by the caller.
    """
    keys = SecretBytes.zeros(len(rows) * MESSAGE_KEY_BYTES)
    groups: dict[tuple[int, int, bytes], list[int]] = {}
    for position, row in enumerate(rows):
        groups.setdefault(row, []).append(position)
    try:
        for (bucket, direction, purpose), positions in groups.items():
            with (
                rows_of(chain_keys, positions) as chosen,
                message_keys_many(chosen, bucket, direction, purpose) as made,
            ):
                for number, position in enumerate(positions):
                    keys.row(position, MESSAGE_KEY_BYTES)[:] = made.row(number, MESSAGE_KEY_BYTES)
    except BaseException:
        keys.wipe()
        raise
    return keys


def make_reply_keys(
    ring: Ring, resolved: Resolved, asking: dict[int, tuple[int, RecordHeader]], lifetimes: dict[int, int]
) -> dict[int, SealedReplyKey]:
    """Derive and seal the keys of the replies to requests (R6): place -> (row of *resolved*, header) in, rows out."""
    keys = [
        reply_key_of(session, header, lifetime=lifetimes[place])
        for place, (row, header) in asking.items()
        if isinstance(session := resolved.sessions[row], Session)
    ]
    with rows_of(resolved.chain_keys, [row for row, _ in asking.values()]) as chain_keys:
        return dict(zip(asking, derive_and_seal_reply_keys(ring, keys, chain_keys), strict=True))


def rows_of(chain_keys: SecretBytes, places: Sequence[int]) -> SecretBytes:
    """Copy the chain keys of *places*, in that order; the caller wipes the copy."""
    chosen = SecretBytes.zeros(len(places) * CHAIN_KEY_BYTES)
    for number, place in enumerate(places):
        chosen.row(number, CHAIN_KEY_BYTES)[:] = chain_keys.row(place, CHAIN_KEY_BYTES)
    return chosen
