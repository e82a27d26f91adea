"""The key schedule that hello and offer share (H4, O2), and what both sides derive from its end (H7, H9, H10)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.errors import UsageError
from qflare.primitives import kem
from qflare.primitives.columns import Column, rows, shared
from qflare.primitives.kdf import expand_many, extract_many
from qflare.protocol import wire
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence


def derive_ck2(
    count: int, ck1: SecretBytes, psks: Sequence[SecretBytes | None], shared_secrets: SecretBytes
) -> SecretBytes:
    """
    Compute ``ck2 = Extract(Extract(ck1, psk or zeros), ss)`` for *count* rows.

    Args:
        count: Rows.
        ck1: ``count × 64`` bytes.
        psks: One a row, 64 bytes or None.
        shared_secrets: ``count × 32`` bytes: ss_e of a hello, ss_b of an offer.

    Returns:
        ``count × 64`` bytes, owned by the caller.

    Raises:
        UsageError: a psk was wiped already.

    Source: docs/protocol.md, steps H4 and O2.
    """
    with SecretBytes.zeros(count * wire.PSK_BYTES) as psk_rows:
        column: Column = shared(wire.NO_PSK)
        if any(psk is not None for psk in psks):
            column = rows(psk_rows, wire.PSK_BYTES)
            for row, psk in enumerate(psks):
                if psk is None:
                    continue
                psk_rows.row(row, wire.PSK_BYTES)[:] = psk.view()
                # Zeros mean none: a psk that was wiped too early must not turn into a session without one.
                # CT: equals() compares in constant time.
                if psk.equals(wire.NO_PSK):
                    message = "a psk was wiped before the handshake that needs it was over"
                    raise UsageError(message)
        with extract_many(count, rows(ck1, wire.SECRET_BYTES), column) as inner:
            return extract_many(count, rows(inner, wire.SECRET_BYTES), rows(shared_secrets, kem.SS_BYTES))


def expand_th3(count: int, ck2: SecretBytes, label: str, th3: bytes | bytearray, length: int) -> SecretBytes:
    """Compute ``Expand(ck2, label, th3, length)`` for *count* rows; the caller owns the result."""
    return expand_many(count, rows(ck2, wire.SECRET_BYTES), label, (rows(th3, wire.HASH_BYTES),), length)
