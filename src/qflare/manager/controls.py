"""Control records: what a device asks of its session itself, each kind of body answered by its own part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.protocol.record import KIND_CONTROL
from qflare.protocol.rekey import BODY_REKEY

if TYPE_CHECKING:
    from qflare.manager.record import OpenedRecord
    from qflare.manager.rekeys import Rekeys
    from qflare.manager.rotations import Rotations


class Controls:
    """Hands control records on by the first byte of their body."""

    def __init__(self, *, rekeys: Rekeys, rotations: Rotations) -> None:
        """Answer by these."""
        self._rekeys = rekeys
        self._rotations = rotations

    async def answer(self, record: OpenedRecord) -> bytes:
        """
        Do what a control record asks and return the sealed answer.

        Raises:
            RefusedError: it asks for nothing that exists, or what it asks does not hold; the session stands.
        """
        with record.plaintext.view() as view:
            is_rekey = record.header.kind == KIND_CONTROL and len(view) > 0 and view[0] == BODY_REKEY
            # A REKEY holds a ciphertext and numbers: nothing in it is secret.
            body = bytes(view) if is_rekey else b""
        if is_rekey:
            return await self._rekeys.answer(record, body)
        return await self._rotations.answer(record)
