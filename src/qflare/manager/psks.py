"""Pre-shared keys of devices (PROTOCOL H4) as they rest: sealed under KEK_L, each for one version of one device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.errors import LengthError, UsageError
from qflare.manager.sealing import PSK_COLUMN, Place
from qflare.primitives.kdf import expand

if TYPE_CHECKING:
    from qflare.model.ids import DeviceRef, TenantId
    from qflare.secret import SecretBytes

PSK_BYTES: Final = 64
_PRINT: Final = "psk call"
"""Label of Expand for what nobody but this server computes: not one of the protocol's."""


def require_new_psk(psk: SecretBytes) -> None:
    """Check a psk that is to be set: `LengthError`, or `UsageError` where it is all zeros."""
    if len(psk) != PSK_BYTES:
        raise LengthError("psk", expected=PSK_BYTES, actual=len(psk))
    if psk.equals(bytes(PSK_BYTES)):
        raise UsageError("a psk of zeros means none: draw 64 random bytes, or pass None to remove it")


def psk_place(tenant_id: TenantId, ref: DeviceRef, psk_version: int) -> Place:
    """Say where a psk rests: what the seal is bound to."""
    return Place(PSK_COLUMN, ref, psk_version, tenant_id)


def psk_print(kek: SecretBytes, psk: SecretBytes, tenant_id: TenantId, ref: DeviceRef) -> int:
    """Return what tells this psk from another where a call is repeated; keyed, since it rests in the database."""
    place = psk_place(tenant_id, ref, 0).encode()
    with (
        expand(kek, _PRINT, place, 32) as key,
        expand(key, _PRINT, psk, 8) as made,
        made.view() as number,
    ):
        return int.from_bytes(number, "big") >> 1
