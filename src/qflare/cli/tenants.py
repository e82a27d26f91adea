"""`qflare tenants`: organisations, on the server's side."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Final

import typer

from qflare.cli import listing, options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.ids import TenantId
    from qflare.model.statistics import KeyStatistics
    from qflare.service.key_manager import QuantumKeyManager

app = typer.Typer(name="tenants", help="List and add tenants (server side).", no_args_is_help=True)

_COLUMNS: Final = {"tenant_id": 32, "name": 46}


@app.callback()
def _group() -> None:
    """List and add tenants (server side)."""


@app.command("list")
def list_(
    *,
    limit: listing.Limit = listing.DEFAULT_LIMIT,
    after: listing.After = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """List tenants in order of name; --after takes a name."""
    from qflare.cli.managing import run_with_manager

    async def work(manager: QuantumKeyManager) -> Sequence[tuple[TenantId, str]]:
        return await manager.list_tenants()

    found = run_with_manager(work, dsn, data_dir, tenant=None)
    names = sorted(((name, tenant_id) for tenant_id, name in found), key=lambda pair: pair[0].encode())
    page = [pair for pair in names if after is None or pair[0].encode() > after.encode()][:limit]
    rows = [{"tenant_id": tenant_id.hex(), "name": name} for name, tenant_id in page]
    listing.emit_page("tenants", rows, _COLUMNS, limit=limit, key="name", as_json=as_json)


@app.command("show")
def show(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id, 32 hex digits, or its name.")],
    *,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Show one tenant and its figures."""
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit
    from qflare.errors import KeyNotFoundError

    async def work(manager: QuantumKeyManager) -> tuple[TenantId, str, KeyStatistics]:
        for tenant_id, name in await manager.list_tenants():
            if tenant in {name, tenant_id.hex()}:
                return tenant_id, name, await manager.for_tenant(tenant_id).get_key_statistics()
        message = f"no tenant {tenant!r}: list them with  qflare tenants list"
        raise KeyNotFoundError(message)

    tenant_id, name, figures = run_with_manager(work, dsn, data_dir, tenant=None)
    emit({"tenant_id": tenant_id.hex(), "name": name} | dataclasses.asdict(figures), as_json=as_json)


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The tenant's name.")],
    *,
    tenant_id: Annotated[
        str | None, typer.Option("--id", metavar="HEX", help="Its id, 32 hex digits; else a random one.")
    ] = None,
    call_id: options.CallId = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Add a tenant and print its id."""
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit
    from qflare.model.ids import TenantId

    change = listing.parse_call_id(call_id)
    chosen = None if tenant_id is None else TenantId(listing.parse_id(tenant_id, name="--id"))

    async def work(manager: QuantumKeyManager) -> TenantId:
        return await manager.create_tenant(name, tenant_id=chosen, call_id=change)

    made = run_with_manager(work, dsn, data_dir, tenant=None)
    emit({"tenant_id": made.hex(), "name": name}, as_json=as_json, text=made.hex())
