"""`qflare devices`: the roster of a tenant, on the server's side; `qflare device` is the device's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from qflare.cli import listing, options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from qflare.model.device import Device
    from qflare.model.rotation import RotationMark
    from qflare.model.session import Session
    from qflare.service.key_manager import QuantumKeyManager

app = typer.Typer(name="devices", help="List, rotate, suspend and revoke devices (server side).", no_args_is_help=True)

_COLUMNS: Final = {"device_id": 24, "state": 11, "keys": 6, "kem_key": 11, "registered_at": 20}
Name = Annotated[str, typer.Argument(metavar="NAME", help="The device's name.")]
Prefix = Annotated[str, typer.Option("--prefix", metavar="TEXT", help="Those whose names begin so, only.")]


@app.callback()
def _group() -> None:
    """List, rotate, suspend and revoke devices (server side)."""


@app.command("list")
def list_(
    *,
    prefix: Prefix = "",
    limit: listing.Limit = listing.DEFAULT_LIMIT,
    after: listing.After = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """List devices in order of name."""
    from qflare.cli.managing import run_with_manager

    async def work(manager: QuantumKeyManager) -> Sequence[Device]:
        return await manager.list_devices(limit=limit, after=after, prefix=prefix)

    rows = [_facts(device) for device in run_with_manager(work, dsn, data_dir, tenant=tenant)]
    listing.emit_page("devices", rows, _COLUMNS, limit=limit, key="device_id", as_json=as_json)


@app.command("show")
def show(
    name: Name,
    *,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Show one device and its live sessions."""
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit

    async def work(manager: QuantumKeyManager) -> tuple[Device, Sequence[Session]]:
        return await manager.find_device(name), await manager.list_sessions(device_id=name)

    device, sessions = run_with_manager(work, dsn, data_dir, tenant=tenant)
    live = [session.sid.hex() for session in sessions if session.state == "live"]
    emit(_facts(device) | {"ref": device.ref, "live_sessions": live}, as_json=as_json)


@app.command("suspend")
def suspend(
    name: Name,
    *,
    reason: listing.Reason,
    call_id: options.CallId = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Suspend a device until it is resumed; its sessions end."""
    change = listing.parse_call_id(call_id)
    _move(
        lambda manager: manager.suspend_device(name, reason=reason, call_id=change),
        dsn,
        data_dir,
        tenant,
        as_json=as_json,
    )


@app.command("resume")
def resume(
    name: Name,
    *,
    reason: listing.Reason = "resumed by the operator",
    call_id: options.CallId = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Let a suspended device begin sessions again."""
    change = listing.parse_call_id(call_id)
    _move(
        lambda manager: manager.resume_device(name, reason=reason, call_id=change),
        dsn,
        data_dir,
        tenant,
        as_json=as_json,
    )


@app.command("revoke")
def revoke(
    name: Name,
    *,
    reason: listing.Reason,
    call_id: options.CallId = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Revoke a device for good; its sessions end."""
    change = listing.parse_call_id(call_id)
    _move(
        lambda manager: manager.revoke_device(name, reason=reason, call_id=change),
        dsn,
        data_dir,
        tenant,
        as_json=as_json,
    )


@app.command("rotate")
def rotate(
    name: Name,
    *,
    reason: listing.Reason = "asked for by the operator",
    call_id: options.CallId = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Ask that a device rotate its keys: it learns so at its next contact, no policy needed."""
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit
    from qflare.cli.table import moment

    change = listing.parse_call_id(call_id)

    async def work(manager: QuantumKeyManager) -> RotationMark:
        return await manager.request_device_rotation(name, reason=reason, call_id=change)

    mark = run_with_manager(work, dsn, data_dir, tenant=tenant)
    emit(
        {
            "device_id": name,
            "keys": mark.key_version,
            "cause": mark.reason.value,
            "marked_at": moment(mark.marked_at),
            "is_overdue": mark.is_overdue,
        },
        as_json=as_json,
        text=f"device {name} is to rotate its keys of version {mark.key_version}, marked {moment(mark.marked_at)}",
    )


@app.command("compromise")
def compromise(
    name: Name,
    *,
    reason: listing.Reason,
    call_id: options.CallId = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Say that others have the device's keys: as revoke, with an alarm in the log."""
    change = listing.parse_call_id(call_id)
    _move(
        lambda manager: manager.compromise_device(name, reason=reason, call_id=change),
        dsn,
        data_dir,
        tenant,
        as_json=as_json,
    )


def _move(
    call: Callable[[QuantumKeyManager], Awaitable[Device]],
    dsn: str | None,
    data_dir: Path | None,
    tenant: str | None,
    *,
    as_json: bool,
) -> None:
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit

    device = run_with_manager(call, dsn, data_dir, tenant=tenant)
    emit(_facts(device), as_json=as_json, text=f"device {device.device_id} is {device.state.value}")


def _facts(device: Device) -> dict[str, object]:
    from qflare.cli.table import moment

    return {
        "device_id": device.device_id,
        "state": device.state.value,
        "keys": device.key_version,
        "kem_key": device.kem_state.value,
        "registered_at": moment(device.registered_at),
    }
