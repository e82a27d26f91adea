"""The server's identity in memory (PROTOCOL A1)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from qflare.errors import IllegalTransitionError
from qflare.model.call import IDENTITY_REQUEST, IDENTITY_ROTATION, call_about, print_of
from qflare.model.device import KeyState
from qflare.model.key_record import KeyRecord
from qflare.model.response import ResponseAction
from qflare.model.server_key import PendingServerKey, ServerKey, ServerKeyKind
from qflare.testing.memory.constraints import (
    REASON_BYTES_MAX,
    UNIQUE_VIOLATION,
    refused,
    require,
    require_size,
    require_text,
)
from qflare.testing.memory.entries import Logging
from qflare.testing.memory.rows import ServerKeyRow
from qflare.testing.memory.states import moved
from qflare.testing.memory.two_person_control import require_two_hands

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.bucket import SealedIdentity
    from qflare.model.event import NewEvent
    from qflare.model.ids import CallId

_WHAT: Final = "server key"
_KEY_BYTES: Final = 1312
_ROOT_BYTES: Final = 2592
_SERVER_ID_BYTES: Final = 32
_CERTIFICATE_BYTES: Final = (7319, 7573)
_SEALED_BYTES: Final = (48, 8192)
# docs/protocol.md, A1: where CERT holds its two keys.
_ANNOUNCE: Final = slice(50, 50 + _KEY_BYTES)
_LOG: Final = slice(50 + _KEY_BYTES, 50 + 2 * _KEY_BYTES)
_SIGNING: Final = (ServerKeyKind.ANNOUNCE, ServerKeyKind.LOG)


class Identities(Logging):
    """Certificates and the identity's keys."""

    async def find_identity(self) -> SealedIdentity | None:
        """Return the identity with the highest serial, or None in an empty store."""
        async with self._transaction() as tables:
            return tables.identities[max(tables.identities)] if tables.identities else None

    async def save_identity(self, identity: SealedIdentity, *, event: NewEvent) -> SealedIdentity:
        """Insert *identity* if its serial is new and return the row that stands; the event only if it was new."""
        async with self._transaction() as tables:
            if self._insert(identity):
                self._write_events(self._log_tenant, [event])
            return tables.identities[identity.serial]

    async def identity_serial(self) -> int:
        """Return the highest serial, 0 in an empty store."""
        async with self._transaction() as tables:
            return max(tables.identities, default=0)

    async def list_certificates(self) -> tuple[bytes, ...]:
        """Return every CERT that was in force, the newest first."""
        async with self._transaction() as tables:
            return tuple(tables.identities[serial].certificate for serial in sorted(tables.identities, reverse=True))

    async def follow_identity(
        self,
        identity: SealedIdentity,
        *,
        after: int,
        compromised: str | None,
        event: NewEvent,
        call_id: CallId | None = None,
    ) -> int:
        """Bring *identity* into force after the certificate of serial *after*; keys that waited for another one end."""
        change = call_about(call_id, IDENTITY_ROTATION)
        async with self._transaction() as tables:
            stands = self._carried_out(self._log_tenant, change)
            if stands is not None:
                return stands
            self._require_serial(after)
            if tables.identities[after].sealed_root is None:
                identity = replace(identity, sealed_root=None)
            if identity.sealed_root is not None:
                require_two_hands(tables, self._log_tenant, ResponseAction.ROTATE_IDENTITY, ref=None, now=self._now)
            why = f"serial {identity.serial} came into force with other keys"
            self._drop_pending(why, (identity.certificate[_ANNOUNCE], identity.certificate[_LOG]))
            if not self._insert(identity):
                raise IllegalTransitionError(f"a certificate of serial {identity.serial} stands already")
            if compromised is not None:
                self._end_keys(identity.serial, KeyState.COMPROMISED, compromised)
                self._remove_sealed_keys(identity.serial)
            self._write_events(self._log_tenant, [event])
            self._note_call(self._log_tenant, change, outcome=identity.serial)
            return identity.serial

    async def save_pending_keys(
        self,
        keys: Sequence[PendingServerKey],
        *,
        after: int,
        reason: str,
        event: NewEvent,
        call_id: CallId | None = None,
    ) -> int:
        """Keep *keys* as pre-active after serial *after*, and destroy those that waited before."""
        change = call_about(call_id, IDENTITY_REQUEST)
        kept = print_of(*(key.public_key for key in keys))
        async with self._transaction():
            stands = self._carried_out(self._log_tenant, change)
            if stands is not None:
                return stands
            self._require_serial(after)
            self._drop_pending("another certificate was asked for", ())
            for key in keys:
                require_size(key.sealed_key, "server_key_sealed_key_size", *_SEALED_BYTES)
                row = self._new_key(key.kind, key.serial, key.public_key, KeyState.PRE_ACTIVE, reason)
                if row.key_id in self._tables.server_keys:
                    raise refused("server_key_pkey", sqlstate=UNIQUE_VIOLATION)
                self._put_key(replace(row, sealed_key=key.sealed_key))
            self._write_events(self._log_tenant, [event])
            self._note_call(self._log_tenant, change, outcome=kept)
            return kept

    async def find_pending_keys(self) -> tuple[PendingServerKey, ...]:
        """Return the keys that wait for a certificate, announce before log; empty if none does."""
        async with self._transaction() as tables:
            waiting = [row for row in tables.server_keys.values() if row.record.state is KeyState.PRE_ACTIVE]
            return tuple(
                PendingServerKey(
                    serial=row.serial, kind=row.kind, public_key=row.public_key, sealed_key=row.sealed_key or b""
                )
                for row in sorted(waiting, key=lambda row: (row.serial, row.kind.value))
            )

    async def deactivate_server_keys(self, *, before: int, reason: str, event: NewEvent) -> int:
        """End the active announce and log keys of serials below *before* and forget their signing halves."""
        async with self._transaction():
            count = self._end_keys(before, KeyState.DEACTIVATED, reason)
            self._remove_sealed_keys(before)
            if count:
                self._write_events(self._log_tenant, [event])
            return count

    async def remove_root(self, *, event: NewEvent) -> None:
        """Forget the root's sealed signing key: it is kept offline from now on."""
        async with self._transaction() as tables:
            held = [(serial, row) for serial, row in tables.identities.items() if row.sealed_root is not None]
            for serial, identity in held:
                tables.identities.put(serial, replace(identity, sealed_root=None))
            if held:
                self._write_events(self._log_tenant, [event])

    async def list_server_keys(self) -> tuple[ServerKey, ...]:
        """Return the identity's keys with their states, the newest serial first."""
        async with self._transaction() as tables:
            rows = sorted(tables.server_keys.values(), key=lambda row: (-row.serial, row.kind.value))
            return tuple(
                ServerKey(
                    key_id=row.key_id,
                    serial=row.serial,
                    kind=row.kind,
                    state=row.record.state,
                    reason=row.record.reason or row.first_reason,
                    changed_at=row.record.since,
                    created_at=row.record.created_at,
                    has_signing_key=self._has_signing_key(row),
                )
                for row in rows
            )

    def _has_signing_key(self, row: ServerKeyRow) -> bool:
        if row.record.state is KeyState.PRE_ACTIVE:
            return True
        identities = self._tables.identities
        if row.kind is ServerKeyKind.ROOT:
            return any(identity.sealed_root is not None for identity in identities.values())
        identity = identities.get(row.serial)
        if identity is None:
            return False
        return (identity.sealed_announce if row.kind is ServerKeyKind.ANNOUNCE else identity.sealed_log) is not None

    def _require_serial(self, after: int) -> None:
        if max(self._tables.identities, default=None) != after:
            raise IllegalTransitionError(
                f"the certificate of serial {after} is not in force any more: look at it (identity show) and ask again"
            )

    def _insert(self, identity: SealedIdentity) -> bool:
        """Insert a row and make its keys active; False if its serial stands already."""
        require(identity.serial >= 0, "server_identity_serial_range")
        require(identity.current_from >= 0, "server_identity_current_from_range")
        require_size(identity.server_id, "server_identity_server_id_size", _SERVER_ID_BYTES)
        require_size(identity.root_key, "server_identity_root_key_size", _ROOT_BYTES)
        require_size(identity.certificate, "server_identity_certificate_size", *_CERTIFICATE_BYTES)
        for name in ("root", "announce", "log"):
            require_size(getattr(identity, f"sealed_{name}"), f"server_identity_sealed_{name}_size", *_SEALED_BYTES)
        tables = self._tables
        if not tables.identities.put_new(identity.serial, identity):
            return False
        reason = f"certificate of serial {identity.serial}"
        for kind, place in zip(_SIGNING, (_ANNOUNCE, _LOG), strict=True):
            fresh = self._new_key(kind, identity.serial, identity.certificate[place], KeyState.ACTIVE, reason)
            row = tables.server_keys.get(fresh.key_id)
            if row is None:
                self._put_key(fresh)
                continue
            if (row.serial, row.kind, row.record.state) != (identity.serial, kind, KeyState.PRE_ACTIVE):
                raise refused("server_key_of_certificate")
            self._move_server_key(row, KeyState.ACTIVE, reason)
        root = self._new_key(ServerKeyKind.ROOT, identity.serial, identity.root_key, KeyState.ACTIVE, reason)
        if root.key_id not in tables.server_keys:
            self._put_key(root)
        return True

    def _new_key(
        self, kind: ServerKeyKind, serial: int, public_key: bytes, state: KeyState, reason: str
    ) -> ServerKeyRow:
        is_root = kind is ServerKeyKind.ROOT
        require(serial >= 0, "server_key_serial_range")
        require_size(public_key, "server_key_public_key_size", _ROOT_BYTES if is_root else _KEY_BYTES)
        require_text(reason, "server_key_state_reason_size", 1, REASON_BYTES_MAX)
        return ServerKeyRow(
            key_id=hashlib.sha256(public_key).digest(),
            serial=serial,
            kind=kind,
            public_key=public_key,
            first_reason=reason,
            record=KeyRecord(
                kind=kind.value,
                number=serial,
                algorithm="ML-DSA-87" if is_root else "ML-DSA-44",
                state=state,
                created_at=self._now,
                moves=(),
            ),
        )

    def _put_key(self, row: ServerKeyRow) -> None:
        """Insert a key; one of a kind a serial, but for those that waited in vain."""
        for other in self._tables.server_keys.values():
            if (other.serial, other.kind) == (row.serial, row.kind) and other.record.state is not KeyState.DESTROYED:
                raise refused("server_key_kind_once", sqlstate=UNIQUE_VIOLATION)
        self._tables.server_keys.put(row.key_id, row)

    def _move_server_key(self, row: ServerKeyRow, state: KeyState, reason: str) -> None:
        require_text(reason, "server_key_state_reason_size", 1, REASON_BYTES_MAX)
        record = moved(row.record, state, what=_WHAT, reason=reason, at=self._now)
        self._tables.server_keys.put(row.key_id, replace(row, record=record, sealed_key=None))

    def _drop_pending(self, reason: str, kept: tuple[bytes, ...]) -> None:
        for row in list(self._tables.server_keys.values()):
            if row.record.state is KeyState.PRE_ACTIVE and row.public_key not in kept:
                self._move_server_key(row, KeyState.DESTROYED, reason)

    def _end_keys(self, before: int, state: KeyState, reason: str) -> int:
        ending = [
            row
            for row in self._tables.server_keys.values()
            if row.serial < before and row.kind in _SIGNING and row.record.state is KeyState.ACTIVE
        ]
        for row in ending:
            self._move_server_key(row, state, reason)
        return len(ending)

    def _remove_sealed_keys(self, before: int) -> None:
        for serial, identity in list(self._tables.identities.items()):
            if serial < before:
                self._tables.identities.put(serial, replace(identity, sealed_announce=None, sealed_log=None))
