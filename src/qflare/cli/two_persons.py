"""`qflare operator two-persons`: whether one person alone may do what nothing takes back (server side)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qflare.cli import options
from qflare.cli.operator_login import SecretFile, authenticate
from qflare.cli.operators import app

if TYPE_CHECKING:
    from qflare.model.two_person_control import TwoPersonControl
    from qflare.service.key_manager import QuantumKeyManager

Wanted = Annotated[Literal["show", "on", "off"], typer.Argument(metavar="[show|on|off]", help="What to do.")]


@app.command("two-persons")
def two_persons(
    wanted: Wanted = "show",
    *,
    by: Annotated[str | None, typer.Option("--by", metavar="NAME", help="The operator who asks: on, off.")] = None,
    secret_file: SecretFile = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Have revocations and rotations of the identity need two operators, by hand too; two turn it off again."""
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit
    from qflare.cli.table import moment
    from qflare.errors import ConfigError

    async def work(manager: QuantumKeyManager) -> TwoPersonControl:
        if wanted == "show":
            return await manager.get_two_person_control()
        if by is None:
            message = "name the operator who asks, with --by"
            raise ConfigError(message)
        await authenticate(manager, by, secret_file)
        if wanted == "on":
            return await manager.require_two_persons(by=by)
        return await manager.allow_one_person(by=by)

    its = run_with_manager(work, dsn, data_dir, tenant=tenant)
    text = f"two-person control is {'on' if its.is_on else 'off'}"
    if its.is_on and its.off_by is not None:
        text += f"\n{its.off_by} wants it off; another operator may turn it off within a day"
    emit(
        {
            "is_on": its.is_on,
            "changed_by": its.changed_by,
            "changed_at": moment(its.changed_at),
            "off_by": its.off_by,
            "off_at": moment(its.off_at),
        },
        as_json=as_json,
        text=text,
    )
