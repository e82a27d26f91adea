"""`qflare sessions`: the sessions of a tenant, on the server's side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from qflare.cli import listing, options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.session import Session
    from qflare.service.key_manager import QuantumKeyManager

app = typer.Typer(name="sessions", help="List and revoke sessions (server side).", no_args_is_help=True)

_COLUMNS: Final = {"session_id": 32, "device_id": 20, "state": 10, "last_bucket": 12}
_FORMS: Final = {1: "hello", 2: "offer"}
Sid = Annotated[str, typer.Argument(metavar="SESSION", help="The session's id, 32 hex digits.")]


@app.callback()
def _group() -> None:
    """List and revoke sessions (server side)."""


@app.command("list")
def list_(
    *,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="Only the live sessions of this device.")
    ] = None,
    limit: listing.Limit = listing.DEFAULT_LIMIT,
    after: listing.After = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """List sessions in order of id, ended ones too until their time is over."""
    from qflare.cli.managing import run_with_manager

    last = None if after is None else listing.parse_id(after, name="--after")

    async def work(manager: QuantumKeyManager) -> Sequence[Session]:
        return await manager.list_sessions(limit=limit, after=last, device_id=device)

    rows = [_facts(session) for session in run_with_manager(work, dsn, data_dir, tenant=tenant)]
    listing.emit_page("sessions", rows, _COLUMNS, limit=limit, key="session_id", as_json=as_json)


@app.command("show")
def show(
    session: Sid,
    *,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Show one session's terms and state."""
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit

    sid = listing.parse_id(session, name="SESSION")

    async def work(manager: QuantumKeyManager) -> Session:
        return await manager.find_session(sid)

    emit(_facts(run_with_manager(work, dsn, data_dir, tenant=tenant)), as_json=as_json)


@app.command("revoke")
def revoke(
    session: Sid,
    *,
    reason: listing.Reason,
    call_id: options.CallId = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """End one session on every worker; its device may begin another."""
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit
    from qflare.errors import KeyStateError

    sid = listing.parse_id(session, name="SESSION")

    change = listing.parse_call_id(call_id)

    async def work(manager: QuantumKeyManager) -> bool:
        await manager.find_session(sid)
        return await manager.revoke_session(sid, reason=reason, call_id=change)

    if not run_with_manager(work, dsn, data_dir, tenant=tenant):
        message = f"session {session} does not live any more"
        raise KeyStateError(message)
    emit({"session_id": sid.hex(), "state": "revoked"}, as_json=as_json, text=f"session {sid.hex()} is revoked")


def _facts(session: Session) -> dict[str, object]:
    from qflare.cli.table import moment

    return {
        "session_id": session.sid.hex(),
        "device_id": session.device_id,
        "state": session.state.value,
        "reason": session.reason,
        "form": _FORMS[session.form],
        "key_version": session.key_version,
        "first_bucket": session.start,
        "last_bucket": session.last_bucket,
        "epoch": session.epoch,
        "created_at": moment(session.created_at),
        "ended_at": moment(session.ended_at),
        "log_index": session.log_index,
    }
