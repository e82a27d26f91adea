"""The port to tenants, the roster and enrolment tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qflare.model.call_ports import CallStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.call import NotedCall
    from qflare.model.device import Device, KeyState, NewDevice
    from qflare.model.event import LogAppend, NewEvent
    from qflare.model.ids import CallId, DeviceId, DeviceRef, TenantId, TokenId
    from qflare.model.token import EnrolmentClaim, EnrolmentOutcome, IssuedToken, TokenRecord


class DeviceStore(CallStore, Protocol):
    """Tenants, roster and enrolment tokens."""

    async def save_tenant(self, tenant_id: TenantId, name: str, *, event: NewEvent) -> None:
        """Insert a tenant; `AlreadyExistsError` if the id or name is taken. The default tenant always exists."""

    async def list_tenants(self) -> tuple[tuple[TenantId, str], ...]:
        """Return every tenant's id and name."""

    async def add_devices(
        self,
        tenant_id: TenantId,
        devices: Sequence[NewDevice],
        *,
        events: Sequence[NewEvent],
        calls: Sequence[NotedCall | None] | None = None,
    ) -> tuple[tuple[bool, ...], LogAppend | None]:
        """
        Register devices; True where one was added, False where the name exists. One event per added device.

        `calls[i]` is remembered if device i was added.
        """

    async def find_devices(self, tenant_id: TenantId, refs: Sequence[DeviceRef]) -> dict[DeviceRef, Device]:
        """Return the rows found among *refs*."""

    async def list_devices(
        self, tenant_id: TenantId, *, limit: int, after: DeviceId | None = None, prefix: str = ""
    ) -> tuple[Device, ...]:
        """Return up to *limit* devices whose names begin with *prefix*, in order of name."""

    async def set_device_state(
        self,
        tenant_id: TenantId,
        ref: DeviceRef,
        state: KeyState,
        *,
        reason: str,
        event: NewEvent,
        call_id: CallId | None = None,
    ) -> Device:
        """
        Change a device's state, and end its sessions unless it becomes active.

        Raises `IllegalTransitionError` or `KeyNotFoundError`.
        """

    async def rotate_device_keys(
        self,
        tenant_id: TenantId,
        device: NewDevice,
        *,
        key_version: int,
        event: NewEvent,
        call_id: CallId | None = None,
    ) -> Device:
        """
        Make *device*'s keys current as *key_version*; the old become deactivated.

        Raises `ConflictError` unless *key_version* is the current one + 1, or these keys are current as it already, and
        `AlreadyExistsError` if a call with *call_id* rotated this device's keys before.
        """

    async def set_device_psk(
        self,
        tenant_id: TenantId,
        ref: DeviceRef,
        sealed_psk: bytes | None,
        *,
        psk_version: int,
        event: NewEvent,
        reason: str = "",
        call_id: CallId | None = None,
        outcome: int = 1,
    ) -> int:
        """
        Store or remove a device's sealed pre-shared key as *psk_version*.

        Returns the outcome of the call that did: *outcome*, or an earlier one's with the same id.  Raises
        `ConflictError` unless *psk_version* is the current one + 1.
        """

    async def add_token(self, token: TokenRecord, *, event: NewEvent) -> None:
        """Store a token; `AlreadyExistsError` if its id is taken."""

    async def find_tokens(self, tenant_id: TenantId, token_ids: Sequence[TokenId]) -> dict[TokenId, TokenRecord]:
        """Return the tokens found among *token_ids*."""

    async def list_tokens(
        self, tenant_id: TenantId, *, limit: int, after: TokenId | None = None
    ) -> tuple[IssuedToken, ...]:
        """Return up to *limit* tokens in order of id."""

    async def get_token(self, tenant_id: TenantId, token_id: TokenId) -> IssuedToken:
        """Return one token; `KeyNotFoundError` if there is none."""

    async def revoke_token(
        self, tenant_id: TenantId, token_id: TokenId, *, reason: str, event: NewEvent, call_id: CallId | None = None
    ) -> None:
        """Take a token back; `IllegalTransitionError` if it was used or revoked, `KeyNotFoundError` if absent."""

    async def enrol_devices(
        self, tenant_id: TenantId, claims: Sequence[EnrolmentClaim], *, events: Sequence[NewEvent], now_s: int
    ) -> tuple[tuple[EnrolmentOutcome, ...], LogAppend | None]:
        """
        Consume tokens and register devices; each claim ends by itself (E3).

        `events[i]` is written if claim i enrols.
        """
