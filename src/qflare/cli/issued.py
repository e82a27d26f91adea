"""`qflare tokens`: enrolment tokens that were issued, on the server's side; never what opens one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from qflare.cli import listing, options
from qflare.cli.tokens import issue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.token import IssuedToken
    from qflare.service.key_manager import QuantumKeyManager

app = typer.Typer(name="tokens", help="List, issue and revoke enrolment tokens (server side).", no_args_is_help=True)

_COLUMNS: Final = {"token_id": 32, "device_id": 14, "state": 8, "expires_at": 20}
TokenId = Annotated[str, typer.Argument(metavar="TOKEN", help="The token's id, 32 hex digits; not the token.")]


@app.callback()
def _group() -> None:
    """List, issue and revoke enrolment tokens (server side)."""


app.command("issue")(issue)


@app.command("list")
def list_(
    *,
    limit: listing.Limit = listing.DEFAULT_LIMIT,
    after: listing.After = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """List tokens in order of id, used, revoked and expired ones too."""
    from qflare.cli.managing import run_with_manager

    last = None if after is None else listing.parse_id(after, name="--after")

    async def work(manager: QuantumKeyManager) -> Sequence[IssuedToken]:
        return await manager.list_enrolment_tokens(limit=limit, after=last)

    rows = [_facts(token) for token in run_with_manager(work, dsn, data_dir, tenant=tenant)]
    listing.emit_page("tokens", rows, _COLUMNS, limit=limit, key="token_id", as_json=as_json)


@app.command("show")
def show(
    token: TokenId,
    *,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Show for whom a token was, and what became of it."""
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit

    wanted = listing.parse_id(token, name="TOKEN")

    async def work(manager: QuantumKeyManager) -> IssuedToken:
        return await manager.find_enrolment_token(wanted)

    emit(_facts(run_with_manager(work, dsn, data_dir, tenant=tenant)), as_json=as_json)


@app.command("revoke")
def revoke(
    token: TokenId,
    *,
    reason: listing.Reason,
    call_id: options.CallId = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Take a token back before a device enrols with it."""
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit

    wanted = listing.parse_id(token, name="TOKEN")

    change = listing.parse_call_id(call_id)

    async def work(manager: QuantumKeyManager) -> IssuedToken:
        return await manager.revoke_enrolment_token(wanted, reason=reason, call_id=change)

    facts = _facts(run_with_manager(work, dsn, data_dir, tenant=tenant))
    emit(facts, as_json=as_json, text=f"token {wanted.hex()} is revoked")


def _facts(token: IssuedToken) -> dict[str, object]:
    from qflare.cli.table import moment

    return {
        "token_id": token.token_id.hex(),
        "device_id": token.device_id,
        "state": token.state.value,
        "reason": token.reason,
        "created_at": moment(token.created_at),
        "expires_at": moment(token.expires_at),
        "changed_at": moment(token.changed_at),
    }
