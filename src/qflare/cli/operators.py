"""`qflare operator`: people who may look at a tenant's page, made on the server's side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from qflare.cli import listing, options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qflare.model.operator import Operator
    from qflare.service.key_manager import QuantumKeyManager

app = typer.Typer(name="operator", help="Let people look at a tenant's page (server side).", no_args_is_help=True)

_COLUMNS: Final = {"name": 28, "state": 8, "created_at": 20, "changed_at": 20}
Name = Annotated[str, typer.Argument(metavar="NAME", help="The operator's name, as the log will have it.")]
Output = Annotated[
    Path | None, typer.Option("--output", metavar="FILE", help="New file for the secret, 0600; else stdout.")
]


@app.callback()
def _group() -> None:
    """Let people look at a tenant's page (server side)."""


@app.command("add")
def add(
    name: Name,
    *,
    output: Output = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Add an operator and print the secret to log in with, once."""
    _give_secret(lambda manager: manager.add_operator(name), name, output, dsn, data_dir, tenant, as_json=as_json)


@app.command("renew")
def renew(
    name: Name,
    *,
    reason: listing.Reason,
    output: Output = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Print another secret for an operator, once; the one before ends, and so do its logins."""
    _give_secret(
        lambda manager: manager.renew_operator(name, reason=reason),
        *(name, output, dsn, data_dir, tenant),
        as_json=as_json,
    )


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
    """List operators in order of name, revoked ones too."""
    from qflare.cli.managing import run_with_manager

    async def work(manager: QuantumKeyManager) -> Sequence[Operator]:
        return await manager.list_operators(limit=limit, after=after)

    rows = [_facts(operator) for operator in run_with_manager(work, dsn, data_dir, tenant=tenant)]
    listing.emit_page("operators", rows, _COLUMNS, limit=limit, key="name", as_json=as_json)


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
    """Take an operator's access; pages that are open end within seconds."""
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit

    change = listing.parse_call_id(call_id)

    async def work(manager: QuantumKeyManager) -> Operator:
        return await manager.revoke_operator(name, reason=reason, call_id=change)

    facts = _facts(run_with_manager(work, dsn, data_dir, tenant=tenant))
    emit(facts, as_json=as_json, text=f"operator {name} is revoked")


def _give_secret(  # noqa: PLR0917 - the options that every command has
    call: Callable[[QuantumKeyManager], Awaitable[str]],
    name: str,
    output: Path | None,
    dsn: str | None,
    data_dir: Path | None,
    tenant: str | None,
    *,
    as_json: bool,
) -> None:
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit
    from qflare.cli.tokens import require_new, write_secret

    async def work(manager: QuantumKeyManager) -> str:
        return await call(manager)

    if output is not None:
        require_new(output)
    secret = run_with_manager(work, dsn, data_dir, tenant=tenant)
    facts: dict[str, object] = {"name": name}
    if output is None:
        emit(facts | {"credential": secret}, as_json=as_json, text=secret)
        return
    write_secret(output, secret + "\n")
    emit(facts | {"output": str(output)}, as_json=as_json, text=f"secret of operator {name} in {output}")


def _facts(operator: Operator) -> dict[str, object]:
    from qflare.cli.table import moment

    return {
        "name": operator.name,
        "state": operator.state.value,
        "reason": operator.reason,
        "created_at": moment(operator.created_at),
        "changed_at": moment(operator.changed_at),
    }
