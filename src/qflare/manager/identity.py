"""
The server's identity at work (PROTOCOL A1): made at first start, loaded by every worker, followed when it changes.

The root signs CERT; announce and log key sign what is online.  All three rest sealed under KEK_L.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, KeeperError, KeyStateError, QflareError
from qflare.manager.deadline import Deadline
from qflare.manager.forks import wipe_after_fork
from qflare.manager.sealing import ANNOUNCE_COLUMN, LOG_COLUMN, ROOT_COLUMN, Place, seal
from qflare.manager.signers import NewSigner, held_elsewhere, is_held_elsewhere, signing_key, unseal_key
from qflare.model.bucket import SealedIdentity
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.ids import DEFAULT_TENANT
from qflare.primitives.sig import SIG44, SIG87
from qflare.protocol.identity import Certificate, ServerIdentity, decode_certificate, issue_certificate, server_id_of
from qflare.protocol.new_event import new_event
from qflare.protocol.wire import OVERLAP_BUCKETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qflare.clock import Clock
    from qflare.manager.background import Background
    from qflare.manager.offload import Offload
    from qflare.manager.settings import ManagerSettings
    from qflare.model.identity_ports import IdentityStore
    from qflare.model.keeper_ports import Keeper
    from qflare.model.signer_ports import Signer
    from qflare.secret import SecretBytes

_log = logging.getLogger("qflare.manager")

_YEAR_S: Final = 31_557_600
_FIRST_SERIAL: Final = 1
SLACK_BUCKETS: Final = 288
"""Buckets before the present one that CERT covers, for a clock that is set back after it."""


@dataclass(slots=True, kw_only=True)
class SigningKeys:
    """One certificate with its two online signing keys; wiped when it is retired and nothing signs with it."""

    public: ServerIdentity
    announce: SecretBytes
    log: SecretBytes | None
    """None where a signer of its own holds it."""
    current_from: int
    """The server's bucket when the certificate came into force."""
    users: int = 0
    is_retired: bool = False

    @property
    def certificate(self) -> Certificate:
        """CERT."""
        return self.public.certificate

    def release(self) -> None:
        """Wipe if nothing needs it any more."""
        if self.is_retired and self.users == 0:
            self.wipe()

    def wipe(self) -> None:
        """Destroy both signing keys."""
        self.announce.wipe()
        if self.log is not None:
            self.log.wipe()


class Identity:
    """Who the server is, and the certificate in force, to which it follows when another worker has issued a new one."""

    def __init__(
        self,
        keys: SigningKeys,
        certificates: Sequence[Certificate],
        *,
        store: IdentityStore,
        keeper: Keeper,
        offload: Offload,
        settings: ManagerSettings,
    ) -> None:
        """Own *keys*; *certificates* are all that were in force, the newest first."""
        self._has_signer = settings.signer_socket is not None
        self._keys = keys
        self._certificates = tuple(certificates)
        self._store = store
        self._keeper = keeper
        self._offload = offload
        self._tick_s = settings.tick_max_s
        self._deadline = Deadline(settings.store_timeout_s)
        self._lock = asyncio.Lock()
        wipe_after_fork(self.wipe)

    @property
    def held(self) -> SigningKeys:
        """The keys in force; whoever signs with them takes them by `lend`."""
        return self._keys

    @property
    def public(self) -> ServerIdentity:
        """Root key and CERT."""
        return self._keys.public

    @property
    def certificate(self) -> Certificate:
        """CERT."""
        return self._keys.certificate

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """Every CERT that was in force, the newest first: what was signed in their time stays signed."""
        return self._certificates

    @property
    def serial(self) -> int:
        """Of the certificate in force."""
        return self.certificate.serial

    @property
    def server_id(self) -> bytes:
        """32 bytes, pinned by devices."""
        return self.public.server_id

    @property
    def log_origin(self) -> str:
        """Name of the log in checkpoints; it stays when the log's key changes, for the tree stays."""
        return self.certificate.log_origin

    def is_overlap_over(self, bucket: int) -> bool:
        """Return whether no device takes anything under the certificate before this one any more (A1)."""
        return bucket > self._keys.current_from + OVERLAP_BUCKETS

    @contextlib.contextmanager
    def lend(self) -> Iterator[SigningKeys]:
        """Lend the keys in force: they are not wiped before the block ends, whoever rotates them meanwhile."""
        keys = self._keys
        keys.users += 1
        try:
            yield keys
        finally:
            keys.users -= 1
            keys.release()

    async def follow(self) -> bool:
        """
        Take over the certificate with the highest serial, whoever issued it; return whether it is a new one.

        Raises:
            KeeperError: the keeper's long-term key is not the one that sealed it.
            KeyStateError: it is another server's.
            StoreUnavailableError: the store did not answer.
        """
        if await self._deadline.of(self._store.identity_serial()) <= self.serial:
            return False
        async with self._lock:
            row = await self._deadline.of(self._store.find_identity())
            if row is None or row.serial <= self.serial:
                return False
            if row.server_id != self.server_id:
                raise KeyStateError("the database holds another server's identity now: start the workers again")
            encoded = await self._deadline.of(self._store.list_certificates())
            keys, certificates = await self._offload.run(
                partial(_open, self._keeper, row, encoded, has_signer=self._has_signer),
                wipe=lambda opened: opened[0].wipe(),
            )
            retired, self._keys, self._certificates = self._keys, keys, certificates
            retired.is_retired = True
            retired.release()
        _log.info("the server's certificate of serial %d is in force", self.serial)
        return True

    async def watch(self, background: Background) -> None:
        """Look for a new certificate until the manager closes."""
        while not background.stop.is_set():
            await background.pause(self._tick_s)
            try:
                await self.follow()
            except QflareError as failure:
                _log.warning("looking for a new certificate failed: %s", type(failure).__name__)

    def wipe(self) -> None:
        """Destroy this worker's copies of the signing keys."""
        self._keys.wipe()


async def open_identity(
    *,
    store: IdentityStore,
    keeper: Keeper,
    signer: Signer | None = None,
    offload: Offload,
    clock: Clock,
    settings: ManagerSettings,
) -> Identity:
    """
    Load the server's identity, or make it in an empty database; the first worker's insert wins.

    Raises:
        KeeperError: the keeper's long-term key is not the one that sealed the identity.
        StoreUnavailableError: the store did not answer.
    """
    deadline = Deadline(settings.store_timeout_s)
    row = await deadline.of(store.find_identity())
    if row is None:
        log_key = None if signer is None else await signer.public_key()
        made = await offload.run(partial(_make, keeper, clock.now_s(), settings, log_key=log_key))
        event = new_event(
            SecurityEventType.KEY_GENERATION,
            EventSeverity.INFO,
            {"what": "server identity", "server_id": made.server_id.hex(), "serial": made.serial},
            tenant_id=DEFAULT_TENANT,
            occurred_at_ms=clock.now_ms(),
        )
        row = await deadline.of(store.save_identity(made, event=event))
    encoded = await deadline.of(store.list_certificates())
    has_signer = settings.signer_socket is not None
    keys, certificates = await offload.run(
        partial(_open, keeper, row, encoded, has_signer=has_signer), wipe=lambda opened: opened[0].wipe()
    )
    if has_signer and keys.log is not None:
        _log.warning(
            "the log's key in force rests in this database, not with the signer: rotate it there with  qflare identity "
            "rotate"
        )
    return Identity(keys, certificates, store=store, keeper=keeper, offload=offload, settings=settings)


def _make(keeper: Keeper, now_s: int, settings: ManagerSettings, *, log_key: bytes | None) -> SealedIdentity:
    bucket = now_s // settings.bucket_width_s
    with keeper.long_term_key() as kek, NewSigner.generate(SIG87) as root:
        server_id = server_id_of(root.verification_key)
        return issue_identity(
            kek,
            root.signing_key,
            root.stored,
            root_key=root.verification_key,
            serial=_FIRST_SERIAL,
            first_bucket=max(0, bucket - SLACK_BUCKETS),
            last_bucket=last_bucket_of(bucket, settings),
            log_origin=settings.log_origin or f"qflare/{server_id[:8].hex()}",
            current_from=bucket,
            held_log_key=log_key,
        )


def issue_identity(
    kek: SecretBytes,
    root_sk: SecretBytes,
    stored_root: SecretBytes,
    *,
    root_key: bytes,
    serial: int,
    first_bucket: int,
    last_bucket: int,
    log_origin: str,
    current_from: int,
    held_log_key: bytes | None = None,
) -> SealedIdentity:
    """
    Make fresh announce and log keys, have the root sign for them, and seal all three under *kek*; blocking.

    With *held_log_key*, the public half of a key that a signer holds, none is made for the log.
    """
    with NewSigner.generate(SIG44) as announce, contextlib.ExitStack() as stack:
        log: NewSigner | None = None
        log_key = held_log_key
        if log_key is None:
            log = stack.enter_context(NewSigner.generate(SIG44))
            log_key = log.verification_key
        certificate = issue_certificate(
            root_sk,
            root_key,
            serial=serial,
            announce_key=announce.verification_key,
            log_key=log_key,
            first_bucket=first_bucket,
            last_bucket=last_bucket,
            log_origin=log_origin,
        )
        server_id = certificate.server_id
        return SealedIdentity(
            server_id=server_id,
            root_key=root_key,
            certificate=certificate.encoded,
            serial=serial,
            sealed_root=seal(kek, stored_root, Place(ROOT_COLUMN, server_id, serial)),
            sealed_announce=seal(kek, announce.stored, Place(ANNOUNCE_COLUMN, server_id, serial)),
            sealed_log=held_elsewhere(certificate.log_key)
            if log is None
            else seal(kek, log.stored, Place(LOG_COLUMN, server_id, serial)),
            current_from=current_from,
        )


def last_bucket_of(bucket: int, settings: ManagerSettings) -> int:
    """Return the last bucket of a certificate that is issued in *bucket*."""
    return bucket + settings.certificate_years * _YEAR_S // settings.bucket_width_s


def _open(
    keeper: Keeper, row: SealedIdentity, encoded: Sequence[bytes], *, has_signer: bool
) -> tuple[SigningKeys, tuple[Certificate, ...]]:
    certificate = decode_certificate(row.certificate, root_key=row.root_key)
    earlier = [_earlier(each, row.root_key) for each in encoded if each != row.certificate]
    if row.sealed_announce is None or row.sealed_log is None:
        raise KeeperError("the certificate in force has no signing keys beside it: the identity row was altered")
    is_held = is_held_elsewhere(row.sealed_log)
    if is_held and not has_signer:
        raise KeeperError(
            "a signer of its own holds the log's key: name its socket in QFLARE_SIGNER_SOCKET (setting signer_socket)"
        )
    with keeper.long_term_key() as kek:
        announce = unseal_key(kek, row.sealed_announce, Place(ANNOUNCE_COLUMN, row.server_id, row.serial))
        log = None if is_held else unseal_key(kek, row.sealed_log, Place(LOG_COLUMN, row.server_id, row.serial))
    with announce, log or contextlib.nullcontext():
        keys = SigningKeys(
            public=ServerIdentity(root_key=row.root_key, certificate=certificate),
            announce=signing_key(SIG44, announce, certificate.announce_key),
            log=None if log is None else signing_key(SIG44, log, certificate.log_key),
            current_from=row.current_from,
        )
    return keys, (certificate, *(each for each in earlier if each is not None))


def _earlier(encoded: bytes, root_key: bytes) -> Certificate | None:
    try:
        return decode_certificate(encoded, root_key=root_key)
    except AuthenticationError:
        # It vouches for old receipts alone: no reason not to start.
        _log.warning("a certificate that was in force before does not verify any more: its row was altered")
        return None
