r"""
A mapper's whole state outside of it (PROTOCOL K3): signing keys and mappings, sealed under a key of the master key.

    "QFLARE-MAPPER\x01" ‖ number(u64) ‖ tenant_id(16) ‖ width(u32) ‖ salt(32) ‖ ciphertext ‖ tag(16)

The key is KMAC256(server_master_key, salt) with a customisation of its own, one for each export, so that the nonce is
zero; everything before the ciphertext is associated data.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from qflare.errors import DecodeError, OverloadedError
from qflare.model.ids import ID_BYTES, DeviceId, TenantId
from qflare.primitives import aead, kem
from qflare.primitives.hash import kmac256
from qflare.primitives.random import random_bytes
from qflare.primitives.sig import SIG44
from qflare.protocol.mapping import MappingSigner
from qflare.protocol.mapping_state import SEALED_MAPPING_BYTES
from qflare.protocol.wire import AEAD_KEY_BYTES, MAPPING_BYTES
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence

EXPORTED_MAX: Final = 100_000
"""Mappings of one export, some 600 MB; a larger fleet parts its devices among mappers."""
_MAGIC: Final = b"QFLARE-MAPPER\x01"
_CUSTOM: Final = b"QFLARE mapper state"
_SALT_BYTES: Final = 32
_HEAD: Final = struct.Struct(f">{len(_MAGIC)}sQ{ID_BYTES}sI{_SALT_BYTES}s")
_COUNTS: Final = struct.Struct(">HI")
_SIGNER_BYTES: Final = SIG44.PK_BYTES + SIG44.SK_BYTES
_SIGNERS_MAX: Final = 0xFFFF
_FIXED: Final = struct.Struct(f">HQ{kem.EK_BYTES}s{MAPPING_BYTES}s{SEALED_MAPPING_BYTES}sB")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedMapping:
    """One mapping in an export."""

    device_id: DeviceId
    client_public_key: bytes
    descriptor: bytes
    server_public_key: bytes
    """Of the signing key, which stands in the export once."""
    expires_s: int
    sealed: bytes = field(repr=False)
    """As `seal_mapping` made it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapperState:
    """What an export holds; its holder wipes the signers."""

    number: int
    """Counts the exports of a mapper, from 1."""
    tenant: TenantId
    width_s: int
    signers: tuple[MappingSigner, ...] = field(repr=False)
    mappings: tuple[ExportedMapping, ...]

    def wipe(self) -> None:
        """Destroy the signing keys."""
        for signer in self.signers:
            signer.wipe()


def seal_state(
    master_key: SecretBytes,
    *,
    number: int,
    tenant: TenantId,
    width_s: int,
    signers: Sequence[MappingSigner],
    mappings: Sequence[ExportedMapping],
) -> bytes:
    """
    Seal an export; the caller keeps the keys.

    Raises:
        OverloadedError: more mappings or signing keys than one export takes.
        EntropyError: the random source failed.
    """
    if len(mappings) > EXPORTED_MAX or len(signers) > _SIGNERS_MAX:
        raise OverloadedError(f"an export holds at most {EXPORTED_MAX} mappings: call cleanup_expired_mappings() first")
    places = {signer.verification_key: place for place, signer in enumerate(signers)}
    names = [mapping.device_id.encode() for mapping in mappings]
    head = _HEAD.pack(_MAGIC, number, tenant, width_s, random_bytes(_SALT_BYTES))
    size = _COUNTS.size + len(signers) * _SIGNER_BYTES + len(mappings) * _FIXED.size + sum(map(len, names))
    with SecretBytes.zeros(size) as body, _key(master_key, head) as key:
        with body.view() as view:
            _COUNTS.pack_into(view, 0, len(signers), len(mappings))
            at = _COUNTS.size
            for signer in signers:
                view[at : at + SIG44.PK_BYTES] = signer.verification_key
                with signer.signing_key.view() as secret:
                    view[at + SIG44.PK_BYTES : at + _SIGNER_BYTES] = secret
                at += _SIGNER_BYTES
            for mapping, name in zip(mappings, names, strict=True):
                _FIXED.pack_into(
                    view,
                    at,
                    places[mapping.server_public_key],
                    mapping.expires_s,
                    mapping.client_public_key,
                    mapping.descriptor,
                    mapping.sealed,
                    len(name),
                )
                at += _FIXED.size
                view[at : at + len(name)] = name
                at += len(name)
        return head + aead.seal(key, aead.NONCE_ZERO, body, head)


def open_state(master_key: SecretBytes, exported: bytes) -> MapperState:
    """
    Open what `seal_state` made; the caller owns and wipes its signers.

    Raises:
        AuthenticationError: it was sealed under another master key, or altered, or cut.
        DecodeError: it is no mapper's export.
    """
    if not exported.startswith(_MAGIC) or len(exported) < _HEAD.size + _COUNTS.size + aead.TAG_BYTES:
        raise DecodeError("this is no state of a SecureKeyMapper, or it is cut: pass what export_state() returned")
    head = exported[: _HEAD.size]
    _, number, tenant, width_s, _ = _HEAD.unpack(head)
    with _key(master_key, head) as key:
        body = aead.open(key, aead.NONCE_ZERO, exported[_HEAD.size :], head)
    # From here on every byte is what a mapper with this master key wrote.
    with body, body.view() as view:
        signer_count, mapping_count = _COUNTS.unpack_from(view)
        at = _COUNTS.size
        signers = []
        for _ in range(signer_count):
            with SecretBytes.copy_of(view[at + SIG44.PK_BYTES : at + _SIGNER_BYTES]) as secret:
                signers.append(MappingSigner.restore(secret, verification_key=bytes(view[at : at + SIG44.PK_BYTES])))
            at += _SIGNER_BYTES
        mappings = []
        for _ in range(mapping_count):
            place, expires_s, public_key, descriptor, sealed, name_bytes = _FIXED.unpack_from(view, at)
            at += _FIXED.size
            mappings.append(
                ExportedMapping(
                    device_id=DeviceId(bytes(view[at : at + name_bytes]).decode()),
                    client_public_key=public_key,
                    descriptor=descriptor,
                    server_public_key=signers[place].verification_key,
                    expires_s=expires_s,
                    sealed=sealed,
                )
            )
            at += name_bytes
    return MapperState(
        number=number,
        tenant=TenantId(tenant),
        width_s=width_s,
        signers=tuple(signers),
        mappings=tuple(mappings),
    )


def _key(master_key: SecretBytes, head: bytes) -> SecretBytes:
    return kmac256(master_key, head[-_SALT_BYTES:], AEAD_KEY_BYTES, _CUSTOM)
