"""The server's identity in PostgreSQL (PROTOCOL A1)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from qflare.errors import IllegalTransitionError, StoreError
from qflare.model.bucket import SealedIdentity
from qflare.model.call import IDENTITY_REQUEST, IDENTITY_ROTATION, call_about, print_of
from qflare.model.device import KeyState
from qflare.model.ids import DEFAULT_TENANT
from qflare.model.server_key import PendingServerKey, ServerKey, ServerKeyKind
from qflare.stores.postgres.calls import carried_out
from qflare.stores.postgres.connections import Connected, Transaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from qflare.model.event import NewEvent
    from qflare.model.ids import CallId

SERIALS_MAX: Final = 1000
"""Certificates that are read at most; more were never issued by hand."""
_LOCK: Final = 0x51464C_01
"""Advisory lock under which the identity changes: one change after the other, in all workers."""


class Identities(Connected):
    """Tables server_identity and server_key."""

    async def find_identity(self) -> SealedIdentity | None:
        """Return the identity with the highest serial, or None in an empty database."""
        row = await self._connections.fetch_row("find_identity")
        return None if row is None else _identity(row)

    async def save_identity(self, identity: SealedIdentity, *, event: NewEvent) -> SealedIdentity:
        """Insert *identity* if its serial is new and return the row that stands; the event only if it was new."""
        async with self._connections.transaction() as transaction:
            inserted = await transaction.fetch_row("insert_identity", *_columns(identity))
            if inserted is not None:
                await transaction.write_events([event])
            row = await transaction.fetch_row("get_identity", identity.serial)
        if row is None:
            raise StoreError("the identity that was just saved is gone; another process deletes rows of this database")
        return _identity(row)

    async def identity_serial(self) -> int:
        """Return the highest serial, 0 in an empty database; cheap enough for every look at the clock."""
        serial: int | None = (await self._connections.get_row("identity_serial"))["serial"]
        return serial or 0

    async def list_certificates(self) -> tuple[bytes, ...]:
        """Return every CERT that was in force, the newest first."""
        return tuple(row["certificate"] for row in await self._connections.fetch("list_certificates", SERIALS_MAX))

    async def follow_identity(
        self,
        identity: SealedIdentity,
        *,
        after: int,
        compromised: str | None,
        event: NewEvent,
        call_id: CallId | None = None,
    ) -> int:
        """
        Bring *identity* into force after the certificate of serial *after*; keys that waited for another one end.

        Args:
            identity: Its serial is above *after*; where its keys waited, they are taken from there.
            after: The highest serial, as the caller saw it.
            compromised: Why the keys before it are compromised; None where they are only superseded.
            event: Stands in the log with the change.
            call_id: Names the change, if its caller gave an id.

        Returns:
            The serial that came into force: that of an earlier call with the same id, if there was one.

        Raises:
            ConflictError: its keys are not those that wait, or stand under another serial.
            IllegalTransitionError: another certificate came into force meanwhile.
        """
        change = call_about(call_id, IDENTITY_ROTATION)

        async def follow() -> int:
            async with self._connections.transaction() as transaction:
                await self._hold(transaction, after)
                standing = await transaction.fetch_row("find_identity")
                made = identity
                if standing is not None and standing["sealed_root"] is None:
                    # Removed while this was made: a root that is offline does not come back.
                    made = replace(identity, sealed_root=None)
                why = f"serial {made.serial} came into force with other keys"
                await transaction.execute("drop_pending_keys", why, made.certificate)
                if await transaction.fetch_row("insert_identity", *_columns(made)) is None:
                    raise IllegalTransitionError(f"a certificate of serial {made.serial} stands already")
                if compromised is not None:
                    await transaction.execute("end_server_keys", made.serial, "compromised", compromised)
                    await transaction.execute("remove_sealed_keys", made.serial)
                await transaction.write_events([event])
                await transaction.note_call(change, "identity-rotation", outcome=made.serial)
            return identity.serial

        return await carried_out(self._connections, DEFAULT_TENANT, change, follow, is_given=call_id is not None)

    async def save_pending_keys(
        self,
        keys: Sequence[PendingServerKey],
        *,
        after: int,
        reason: str,
        event: NewEvent,
        call_id: CallId | None = None,
    ) -> int:
        """
        Keep *keys* as pre-active, after the certificate of serial *after*; those that waited before end.

        Returns the print of the keys that the call kept, or an earlier one with the same id.

        Raises:
            IllegalTransitionError: another certificate came into force meanwhile.
        """
        change = call_about(call_id, IDENTITY_REQUEST)
        kept = print_of(*(key.public_key for key in keys))

        async def save() -> int:
            async with self._connections.transaction() as transaction:
                await self._hold(transaction, after)
                await transaction.execute("drop_pending_keys", "another certificate was asked for", b"")
                for key in keys:
                    await transaction.execute(
                        "insert_pending_key", key.serial, key.kind.value, key.public_key, reason, key.sealed_key
                    )
                await transaction.write_events([event])
                await transaction.note_call(change, "identity-request", outcome=kept)
            return kept

        return await carried_out(self._connections, DEFAULT_TENANT, change, save, is_given=call_id is not None)

    async def find_pending_keys(self) -> tuple[PendingServerKey, ...]:
        """Return the keys that wait for a certificate, announce before log; empty if none does."""
        return tuple(
            PendingServerKey(
                serial=row["serial"],
                kind=ServerKeyKind(row["kind"]),
                public_key=row["public_key"],
                sealed_key=row["sealed_key"],
            )
            for row in await self._connections.fetch("find_pending_keys")
        )

    async def deactivate_server_keys(self, *, before: int, reason: str, event: NewEvent) -> int:
        """End the active announce and log keys of serials below *before* and forget their signing halves."""
        async with self._connections.transaction() as transaction:
            moved = await transaction.fetch("end_server_keys", before, "deactivated", reason)
            await transaction.execute("remove_sealed_keys", before)
            if moved:
                await transaction.write_events([event])
        return len(moved)

    async def remove_root(self, *, event: NewEvent) -> None:
        """Forget the root's sealed signing key: it is kept offline from now on. Once: then it writes nothing."""
        async with self._connections.transaction() as transaction:
            await transaction.execute("hold_identity", _LOCK)
            if await transaction.fetch("remove_sealed_root"):
                await transaction.write_events([event])

    async def list_server_keys(self) -> tuple[ServerKey, ...]:
        """Return the identity's keys with their states, the newest serial first."""
        return tuple(
            ServerKey(
                key_id=row["key_id"],
                serial=row["serial"],
                kind=ServerKeyKind(row["kind"]),
                state=KeyState(row["state"]),
                reason=row["state_reason"],
                changed_at=row["state_changed_at"],
                created_at=row["created_at"],
                has_signing_key=row["has_signing_key"],
            )
            for row in await self._connections.fetch("list_server_keys", 3 * SERIALS_MAX)
        )

    async def _hold(self, transaction: Transaction, after: int) -> None:
        await transaction.execute("hold_identity", _LOCK)
        row = await transaction.fetch_row("identity_serial")
        if row is None or row["serial"] != after:
            raise IllegalTransitionError(
                f"the certificate of serial {after} is not in force any more: look at it (identity show) and ask again"
            )


def _columns(identity: SealedIdentity) -> tuple[object, ...]:
    return (
        identity.serial,
        identity.server_id,
        identity.root_key,
        identity.certificate,
        identity.sealed_root,
        identity.sealed_announce,
        identity.sealed_log,
        identity.current_from,
    )


def _identity(row: asyncpg.Record) -> SealedIdentity:
    return SealedIdentity(
        server_id=row["server_id"],
        root_key=row["root_key"],
        certificate=row["certificate"],
        serial=row["serial"],
        sealed_root=row["sealed_root"],
        sealed_announce=row["sealed_announce"],
        sealed_log=row["sealed_log"],
        current_from=row["current_from"],
    )
