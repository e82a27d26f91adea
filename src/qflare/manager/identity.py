"""
The server's identity at work (PROTOCOL A1): made at first start, loaded by every worker after that.

The root signs CERT; announce and log key sign what is online.  All three rest sealed under KEK_L.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from qflare.errors import AuthenticationError, KeeperError
from qflare.manager.deadline import Deadline
from qflare.manager.sealing import ANNOUNCE_COLUMN, LOG_COLUMN, ROOT_COLUMN, Place, seal, unseal
from qflare.model.bucket import SealedIdentity
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.ids import DEFAULT_TENANT
from qflare.primitives.random import random_secret
from qflare.primitives.sig import SIG44, SIG87, SigKeyPair, SignatureScheme
from qflare.protocol.identity import Certificate, ServerIdentity, decode_certificate, issue_certificate, server_id_of
from qflare.protocol.leaf import new_event
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from qflare.clock import Clock
    from qflare.manager.offload import Offload
    from qflare.manager.settings import ManagerSettings
    from qflare.model.ports import IdentityStore, Keeper

_YEAR_S: Final = 31_557_600
_FIRST_SERIAL: Final = 1
_SLACK_BUCKETS: Final = 288
"""Buckets before the first start that CERT covers, for a clock that is set back after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who the server is, with the two online signing keys; wipe it when the worker ends."""

    public: ServerIdentity
    announce_signing_key: SecretBytes
    log_signing_key: SecretBytes

    @property
    def certificate(self) -> Certificate:
        """CERT."""
        return self.public.certificate

    @property
    def server_id(self) -> bytes:
        """32 bytes, pinned by devices."""
        return self.public.server_id

    @property
    def log_origin(self) -> str:
        """Name of the log in checkpoints."""
        return self.public.certificate.log_origin

    def wipe(self) -> None:
        """Destroy this worker's copies of the signing keys."""
        self.announce_signing_key.wipe()
        self.log_signing_key.wipe()


async def open_identity(
    *, store: IdentityStore, keeper: Keeper, offload: Offload, clock: Clock, settings: ManagerSettings
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
        made = await offload.run(partial(_make, keeper, clock.now_s(), settings))
        event = new_event(
            SecurityEventType.KEY_GENERATION,
            EventSeverity.INFO,
            {"what": "server identity", "server_id": made.server_id.hex(), "serial": made.serial},
            tenant_id=DEFAULT_TENANT,
            occurred_at_ms=clock.now_ms(),
        )
        row = await deadline.of(store.save_identity(made, event=event))
    return await offload.run(partial(_open, keeper, row), wipe=Identity.wipe)


def _make(keeper: Keeper, now_s: int, settings: ManagerSettings) -> SealedIdentity:
    with (
        keeper.long_term_key() as kek,
        _Signer.generate(SIG87) as root,
        _Signer.generate(SIG44) as announce,
        _Signer.generate(SIG44) as log,
    ):
        server_id = server_id_of(root.pair.verification_key)
        bucket = now_s // settings.bucket_width_s
        certificate = issue_certificate(
            root.pair.signing_key,
            root.pair.verification_key,
            serial=_FIRST_SERIAL,
            announce_key=announce.pair.verification_key,
            log_key=log.pair.verification_key,
            first_bucket=max(0, bucket - _SLACK_BUCKETS),
            last_bucket=bucket + settings.certificate_years * _YEAR_S // settings.bucket_width_s,
            log_origin=settings.log_origin or f"qflare/{server_id[:8].hex()}",
        )
        return SealedIdentity(
            server_id=server_id,
            root_key=root.pair.verification_key,
            certificate=certificate.encoded,
            serial=_FIRST_SERIAL,
            sealed_root=seal(kek, root.stored, _place(ROOT_COLUMN, server_id, _FIRST_SERIAL)),
            sealed_announce=seal(kek, announce.stored, _place(ANNOUNCE_COLUMN, server_id, _FIRST_SERIAL)),
            sealed_log=seal(kek, log.stored, _place(LOG_COLUMN, server_id, _FIRST_SERIAL)),
        )


def _open(keeper: Keeper, row: SealedIdentity) -> Identity:
    certificate = decode_certificate(row.certificate, root_key=row.root_key)
    with keeper.long_term_key() as kek:
        announce = _unseal(kek, row.sealed_announce, _place(ANNOUNCE_COLUMN, row.server_id, row.serial))
        log = _unseal(kek, row.sealed_log, _place(LOG_COLUMN, row.server_id, row.serial))
    with announce, log:
        return Identity(
            public=ServerIdentity(root_key=row.root_key, certificate=certificate),
            announce_signing_key=_signing_key(SIG44, announce, certificate.announce_key),
            log_signing_key=_signing_key(SIG44, log, certificate.log_key),
        )


@dataclass(frozen=True, slots=True)
class _Signer:
    """A fresh signing pair and what is stored of it: the seed, or the whole key where liboqs makes none from a seed."""

    pair: SigKeyPair
    stored: SecretBytes

    @classmethod
    def generate(cls, scheme: SignatureScheme) -> _Signer:
        if scheme.has_keys_from_seed():
            seed = random_secret(scheme.SEED_BYTES)
            return cls(scheme.generate_from_seed(seed), seed)
        pair = scheme.generate()
        return cls(pair, SecretBytes.copy_of(pair.signing_key))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pair.signing_key.wipe()
        self.stored.wipe()


def _place(column: bytes, server_id: bytes, serial: int) -> Place:
    return Place(column, server_id, serial)


def _unseal(kek: SecretBytes, sealed: bytes, place: Place) -> SecretBytes:
    try:
        return unseal(kek, sealed, place)
    except AuthenticationError:
        raise KeeperError(
            "the keeper's long-term key did not seal this database's identity: start with the keeper folder that "
            "belongs to this database, or restore it from its backup"
        ) from None


def _signing_key(scheme: SignatureScheme, stored: SecretBytes, verification_key: bytes) -> SecretBytes:
    if len(stored) != scheme.SEED_BYTES:
        return SecretBytes.copy_of(stored)
    pair = scheme.generate_from_seed(stored)
    if pair.verification_key != verification_key:
        pair.signing_key.wipe()
        raise KeeperError(
            "a stored signing key does not belong to the certificate beside it: the identity row was altered"
        )
    return pair.signing_key
