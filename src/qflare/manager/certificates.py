"""
Changing the server's identity (PROTOCOL A1): rotation where the root is at hand, request and import where it is not.

A certificate names an announce and a log key.  A new one comes into force for all workers in one transaction; each
follows at its next look, and has the live buckets announced under the new key.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Self

from qflare.errors import (
    AlreadyExistsError,
    AuthenticationError,
    DecodeError,
    KeeperError,
    KeyNotFoundError,
    KeyStateError,
    ServerIdentityError,
    UsageError,
)
from qflare.manager.deadline import Deadline
from qflare.manager.identity import SLACK_BUCKETS, issue_identity, last_bucket_of
from qflare.manager.sealing import ANNOUNCE_COLUMN, LOG_COLUMN, ROOT_COLUMN, Place, seal
from qflare.manager.signers import NewSigner, held_elsewhere, is_held_elsewhere, signing_key, unseal_key
from qflare.model.bucket import SealedIdentity
from qflare.model.call import IDENTITY_REQUEST, IDENTITY_ROTATION, call_about, print_of
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.ids import DEFAULT_TENANT
from qflare.model.mark import HighWaterMark
from qflare.model.reason import require_reason
from qflare.model.server_key import PendingServerKey, ServerKey, ServerKeyKind
from qflare.primitives.sig import SIG44, SIG87
from qflare.protocol.identity import Certificate, certificate_body, decode_certificate
from qflare.protocol.leaf import JsonValue
from qflare.protocol.new_event import new_event

if TYPE_CHECKING:
    from qflare.clock import Clock
    from qflare.manager.buckets import Buckets
    from qflare.manager.identity import Identity
    from qflare.manager.offload import Offload
    from qflare.manager.settings import ManagerSettings
    from qflare.model.event import NewEvent
    from qflare.model.ids import CallId
    from qflare.model.keeper_ports import Keeper
    from qflare.model.ports import Store
    from qflare.model.signer_ports import Signer
    from qflare.secret import SecretBytes

REASON_BYTES_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityReport:
    """The server's identity as the operator sees it; nothing secret."""

    certificate: Certificate
    """In force."""
    bucket: int
    """The server's."""
    current_from: int
    """The server's bucket when it came into force."""
    is_root_offline: bool
    """Whether the root's signing key is kept outside the database."""
    keys: tuple[ServerKey, ...]
    """All keys with their states, the newest serial first."""


@dataclass(frozen=True, slots=True)
class RootKey:
    """The root as it is exported; its holder wipes it."""

    root_key: bytes
    """ML-DSA-87 verification key, 2592 bytes."""
    stored: SecretBytes = field(repr=False)
    """The seed, 32 bytes, or the whole signing key where liboqs makes none from a seed."""

    def __enter__(self) -> Self:
        """Lend the root to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy this copy at the end of the block."""
        self.stored.wipe()


class Certificates:
    """The operator's side of the identity of one worker."""

    def __init__(
        self,
        *,
        store: Store,
        keeper: Keeper,
        signer: Signer | None,
        identity: Identity,
        buckets: Buckets,
        offload: Offload,
        clock: Clock,
        settings: ManagerSettings,
    ) -> None:
        """Work on *identity*, which other workers may change meanwhile; log keys are *signer*'s where there is one."""
        self._signer = signer
        self._store = store
        self._keeper = keeper
        self._identity = identity
        self._buckets = buckets
        self._offload = offload
        self._clock = clock
        self._settings = settings
        self._deadline = Deadline(settings.store_timeout_s)

    async def report(self) -> IdentityReport:
        """Return who the server is, and its keys with their states."""
        bucket = await self._buckets.refresh()
        row = await self._row()
        return IdentityReport(
            certificate=self._identity.certificate,
            bucket=bucket,
            current_from=row.current_from,
            is_root_offline=row.sealed_root is None,
            keys=await self._deadline.of(self._store.list_server_keys()),
        )

    async def rotate(self, *, reason: str, is_compromised: bool = False, call_id: CallId | None = None) -> Certificate:
        """
        Issue a certificate over fresh announce and log keys with the root in the database, and bring it into force.

        Args:
            reason: Why; stands in the log, 1 to 200 bytes of UTF-8.
            is_compromised: The keys before are known to others: they end at once, without overlap. A serial is left
                out, which tells devices so.
            call_id: Names the rotation: one that was carried out before returns its certificate.

        Raises:
            KeyStateError: the root is offline.
            IllegalTransitionError: another worker changed the identity meanwhile.
        """
        _require_reason(reason)
        if (
            call_id is not None
            and (stands := await self._find_call(call_about(call_id, IDENTITY_ROTATION))) is not None
        ):
            return await self._certificate(stands)
        bucket = await self._buckets.refresh()
        row = await self._row()
        if row.sealed_root is None:
            raise KeyStateError(
                "the root is kept offline: make a request (qflare identity request), have it signed where the root is "
                "(qflare identity sign), and import the certificate (qflare identity import)"
            )
        serial = await self._latest_serial(row) + (2 if is_compromised else 1)
        log_key = await self._held_log_key()
        made = await self._offload.run(partial(self._issue, row, row.sealed_root, serial, bucket, log_key))
        return await self._bring_into_force(made, row, reason, is_compromised=is_compromised, call_id=call_id)

    async def request(self, *, reason: str, is_compromised: bool = False, call_id: CallId | None = None) -> bytes:
        """
        Make fresh announce and log keys, keep them pre-active, and return what the root has to sign for them.

        Keys that waited for an earlier request are destroyed.  Arguments and errors as `rotate`; a request that was
        carried out before under *call_id* returns one for the same keys, while they wait.

        Returns:
            CERT without its signature, 2691 bytes and the log origin.

        Raises:
            AlreadyExistsError: the keys that were made under *call_id* wait no more.
        """
        _require_reason(reason)
        bucket = await self._buckets.refresh()
        row = await self._row()
        if call_id is not None and (stands := await self._find_call(call_about(call_id, IDENTITY_REQUEST))) is not None:
            return await self._ask_again(row, stands, bucket)
        serial = await self._latest_serial(row) + (2 if is_compromised else 1)
        body, keys = await self._offload.run(partial(self._ask, row, serial, bucket, await self._held_log_key()))
        event = self._event(
            SecurityEventType.KEY_GENERATION,
            {"what": "server certificate requested", "serial": serial, "reason": reason},
        )
        stands = await self._deadline.of(
            self._store.save_pending_keys(keys, after=row.serial, reason=reason, event=event, call_id=call_id)
        )
        if stands != print_of(*(key.public_key for key in keys)):
            # The same call twice at a time: the other one was quicker.
            return await self._ask_again(row, stands, bucket)
        return body

    async def install(self, encoded: bytes) -> Certificate:
        """
        Check CERT as it was signed elsewhere for the keys that wait here, and bring it into force.

        Raises:
            ServerIdentityError: this server's root did not sign these bytes.
            KeyNotFoundError: no keys wait for it.
            KeyStateError: its serial is not above the one in force.
            UsageError: it is for other keys, buckets or another log than this server's.
            IllegalTransitionError: another worker changed the identity meanwhile.
        """
        bucket = await self._buckets.refresh()
        row = await self._row()
        certificate = await self._offload.run(partial(_check_signature, bytes(encoded), row.root_key))
        if certificate.encoded == row.certificate:
            # Asked for again: it is in force.
            return certificate
        if certificate.serial <= row.serial:
            raise KeyStateError(
                f"the certificate has serial {certificate.serial}, serial {row.serial} is in force: serials only rise; "
                "make a new request"
            )
        pending = {key.kind: key for key in await self._deadline.of(self._store.find_pending_keys())}
        announce, log = pending.get(ServerKeyKind.ANNOUNCE), pending.get(ServerKeyKind.LOG)
        if announce is None or log is None:
            raise KeyNotFoundError("no keys wait for a certificate: make a request first (qflare identity request)")
        self._check(certificate, announce, log, bucket)
        made = await self._offload.run(partial(self._complete, row, certificate, announce, log, bucket))
        is_compromised = certificate.serial != row.serial + 1
        return await self._bring_into_force(made, row, "certificate signed elsewhere", is_compromised=is_compromised)

    async def export_root(self) -> RootKey:
        """
        Return a copy of the root, to be sealed under a passphrase; the log says that it left before it leaves.

        Raises:
            KeyStateError: it was removed from the database before.
        """
        row = await self._row()
        if row.sealed_root is None:
            raise KeyStateError("the root is offline already: the database does not hold its signing key")
        event = self._event(SecurityEventType.OPERATOR_ACTION, {"what": "root exported"}, EventSeverity.WARNING)
        await self._deadline.of(self._store.append_events(DEFAULT_TENANT, [event]))
        return await self._offload.run(
            partial(self._export, row, row.sealed_root), wipe=lambda root: root.stored.wipe()
        )

    async def remove_root(self) -> None:
        """Remove the root's sealed signing key from the database; only whoever has a copy elsewhere should."""
        event = self._event(SecurityEventType.OPERATOR_ACTION, {"what": "root removed"}, EventSeverity.WARNING)
        await self._deadline.of(self._store.remove_root(event=event))

    # --- inside -----------------------------------------------------------------------------------

    async def _row(self) -> SealedIdentity:
        await self._buckets.follow()
        row = await self._deadline.of(self._store.find_identity())
        if row is None or row.server_id != self._identity.server_id:
            raise KeyStateError("the database does not hold this server's identity any more: start the workers again")
        return row

    async def _held_log_key(self) -> bytes | None:
        """Return the public half of a fresh log key that the signer made and holds; None without a signer."""
        return None if self._signer is None else await self._signer.public_key(is_fresh=True)

    async def _latest_serial(self, row: SealedIdentity) -> int:
        """Return the highest serial that was ever in force: a restored database knows less than the keeper."""
        mark = await self._offload.run(self._keeper.high_water)
        return max(row.serial, mark.serial if mark.server_id == row.server_id.hex() else 0)

    async def _find_call(self, change: CallId) -> int | None:
        return (await self._deadline.of(self._store.find_calls(DEFAULT_TENANT, [change]))).get(change)

    async def _certificate(self, serial: int) -> Certificate:
        """Return the certificate that an earlier call brought into force, whatever came after it."""
        await self._buckets.follow()
        if self._identity.serial == serial:
            return self._identity.certificate
        row = await self._row()
        for encoded in await self._deadline.of(self._store.list_certificates()):
            certificate = await self._offload.run(partial(_check_signature, encoded, row.root_key))
            if certificate.serial == serial:
                return certificate
        raise KeyStateError(
            f"the certificate of serial {serial} is gone: another process deletes rows of this database"
        )

    async def _ask_again(self, row: SealedIdentity, stands: int, bucket: int) -> bytes:
        """Return a request, from now on, for the keys that an earlier call made, if they wait still."""
        pending = await self._deadline.of(self._store.find_pending_keys())
        if print_of(*(key.public_key for key in pending)) != stands:
            raise AlreadyExistsError(
                "the keys that were made under this call_id wait no more: their certificate is in force, or another "
                "was asked for; look at it (identity show), and ask anew under a new call_id"
            )
        keys = {key.kind: key for key in pending}
        announce, log = keys[ServerKeyKind.ANNOUNCE], keys[ServerKeyKind.LOG]
        return self._body(row, announce.serial, bucket, announce_key=announce.public_key, log_key=log.public_key)

    async def _bring_into_force(
        self,
        made: SealedIdentity,
        row: SealedIdentity,
        reason: str,
        *,
        is_compromised: bool,
        call_id: CallId | None = None,
    ) -> Certificate:
        event = self._event(
            SecurityEventType.KEY_ROTATION,
            {
                "what": "server certificate in force",
                "serial": made.serial,
                "reason": reason,
                "earlier_keys": "compromised" if is_compromised else "superseded",
            },
            EventSeverity.WARNING if is_compromised else EventSeverity.INFO,
        )
        serial = await self._deadline.of(
            self._store.follow_identity(
                made, after=row.serial, compromised=reason if is_compromised else None, event=event, call_id=call_id
            )
        )
        mark = HighWaterMark(server_id=made.server_id.hex(), serial=serial)
        with contextlib.suppress(KeeperError):
            # It is in force; the next start notes what could not be noted now.
            await self._offload.run(partial(self._keeper.raise_high_water, mark))
        return await self._certificate(serial)

    def _issue(
        self, row: SealedIdentity, sealed_root: bytes, serial: int, bucket: int, held_log_key: bytes | None
    ) -> SealedIdentity:
        with (
            self._keeper.long_term_key() as kek,
            unseal_key(kek, sealed_root, Place(ROOT_COLUMN, row.server_id, row.serial)) as stored,
            signing_key(SIG87, stored, row.root_key) as root_sk,
        ):
            return issue_identity(
                kek,
                root_sk,
                stored,
                root_key=row.root_key,
                serial=serial,
                first_bucket=max(0, bucket - SLACK_BUCKETS),
                last_bucket=last_bucket_of(bucket, self._settings),
                log_origin=self._identity.log_origin,
                current_from=bucket,
                held_log_key=held_log_key,
            )

    def _ask(
        self, row: SealedIdentity, serial: int, bucket: int, held_log_key: bytes | None
    ) -> tuple[bytes, tuple[PendingServerKey, ...]]:
        with self._keeper.long_term_key() as kek:
            announce = self._wait(kek, row, serial, ServerKeyKind.ANNOUNCE, ANNOUNCE_COLUMN)
            if held_log_key is None:
                log = self._wait(kek, row, serial, ServerKeyKind.LOG, LOG_COLUMN)
            else:
                log = PendingServerKey(
                    serial=serial,
                    kind=ServerKeyKind.LOG,
                    public_key=held_log_key,
                    sealed_key=held_elsewhere(held_log_key),
                )
        body = self._body(row, serial, bucket, announce_key=announce.public_key, log_key=log.public_key)
        return body, (announce, log)

    @staticmethod
    def _wait(
        kek: SecretBytes, row: SealedIdentity, serial: int, kind: ServerKeyKind, column: bytes
    ) -> PendingServerKey:
        """Make a fresh key that waits for its certificate."""
        with NewSigner.generate(SIG44) as made:
            return PendingServerKey(
                serial=serial,
                kind=kind,
                public_key=made.verification_key,
                sealed_key=seal(kek, made.stored, Place(column, row.server_id, serial)),
            )

    def _body(self, row: SealedIdentity, serial: int, bucket: int, *, announce_key: bytes, log_key: bytes) -> bytes:
        return certificate_body(
            row.root_key,
            serial=serial,
            announce_key=announce_key,
            log_key=log_key,
            first_bucket=max(0, bucket - SLACK_BUCKETS),
            last_bucket=last_bucket_of(bucket, self._settings),
            log_origin=self._identity.log_origin,
        )

    def _check(self, certificate: Certificate, announce: PendingServerKey, log: PendingServerKey, bucket: int) -> None:
        if (certificate.serial, certificate.announce_key, certificate.log_key) != (
            announce.serial,
            announce.public_key,
            log.public_key,
        ):
            raise UsageError(
                f"the certificate is not for the keys that wait, which are of serial {announce.serial}: have the "
                "latest request signed"
            )
        if not (certificate.has_bucket(max(0, bucket - 1)) and certificate.has_bucket(bucket + 1)):
            raise UsageError(
                f"the certificate covers the buckets {certificate.first_bucket} to {certificate.last_bucket}, the "
                f"server is in {bucket}: make a new request"
            )
        if certificate.log_origin != self._identity.log_origin:
            raise UsageError(
                f"the certificate names the log {certificate.log_origin!r}, this server's is "
                f"{self._identity.log_origin!r}: the log goes on under its name"
            )

    def _complete(
        self,
        row: SealedIdentity,
        certificate: Certificate,
        announce: PendingServerKey,
        log: PendingServerKey,
        bucket: int,
    ) -> SealedIdentity:
        with self._keeper.long_term_key() as kek:
            for key, column in ((announce, ANNOUNCE_COLUMN), (log, LOG_COLUMN)):
                if is_held_elsewhere(key.sealed_key):
                    continue
                # Whether they open is found out now, while the keys before them are in force.
                with (
                    unseal_key(kek, key.sealed_key, Place(column, row.server_id, key.serial)) as stored,
                    signing_key(SIG44, stored, key.public_key),
                ):
                    pass
            sealed_root = None
            if row.sealed_root is not None:
                with unseal_key(kek, row.sealed_root, Place(ROOT_COLUMN, row.server_id, row.serial)) as root:
                    sealed_root = seal(kek, root, Place(ROOT_COLUMN, row.server_id, certificate.serial))
        return SealedIdentity(
            server_id=row.server_id,
            root_key=row.root_key,
            certificate=certificate.encoded,
            serial=certificate.serial,
            sealed_root=sealed_root,
            sealed_announce=announce.sealed_key,
            sealed_log=log.sealed_key,
            current_from=bucket,
        )

    def _export(self, row: SealedIdentity, sealed_root: bytes) -> RootKey:
        with self._keeper.long_term_key() as kek:
            stored = unseal_key(kek, sealed_root, Place(ROOT_COLUMN, row.server_id, row.serial))
        return RootKey(row.root_key, stored)

    def _event(
        self,
        event_type: SecurityEventType,
        data: dict[str, JsonValue],
        severity: EventSeverity = EventSeverity.INFO,
    ) -> NewEvent:
        facts: dict[str, JsonValue] = {"server_id": self._identity.server_id.hex(), **data}
        return new_event(event_type, severity, facts, tenant_id=DEFAULT_TENANT, occurred_at_ms=self._clock.now_ms())


def _check_signature(encoded: bytes, root_key: bytes) -> Certificate:
    try:
        return decode_certificate(encoded, root_key=root_key)
    except (AuthenticationError, DecodeError):
        raise ServerIdentityError(
            "this server's root did not sign these bytes: the certificate is altered, cut, or another server's"
        ) from None


def _require_reason(reason: str) -> None:
    require_reason(reason, bytes_max=REASON_BYTES_MAX, remedy="it stands in the log")
