"""`qflare audit erase`: what the log says of a device, gone for good; the log itself stays whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from qflare.cli import options

if TYPE_CHECKING:
    from qflare.monitor.erasure import ErasurePlan


def erase(
    *,
    device_id: Annotated[str, typer.Option("--device", metavar="NAME", help="The device whose entries are erased.")],
    confirm: Annotated[
        str | None,
        typer.Option("--confirm", metavar="NAME", help="The device's name again: erase; else only say what would be."),
    ] = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Erase what the log says of a device, for good; tree and proofs stay valid.

    Without --confirm it is a dry run. An entry of the log says which entries were erased, and not whose they were.
    """
    import asyncio

    from qflare.cli.managing import open_monitor
    from qflare.cli.output import emit
    from qflare.errors import UsageError

    if confirm is not None and confirm != device_id:
        raise UsageError("--confirm is the device's name once more, exactly: nothing was erased")

    async def run() -> ErasurePlan:
        async with open_monitor(dsn, data_dir, tenant=tenant) as monitor:
            if confirm is None:
                return await monitor.plan_device_erasure(device_id)
            return await monitor.erase_device_entries(device_id)

    plan = asyncio.run(run())
    is_done = confirm is not None
    facts: dict[str, object] = {
        "is_erased": is_done,
        "entries": plan.entries,
        "mentions": plan.mentions,
        "named_for_good": plan.named,
    }
    said = f"{plan.entries} entries {'were' if is_done else 'would be'} erased"
    if plan.mentions:
        said += f"; {plan.mentions} incidents and responses {'had' if is_done else 'have'} its name"
    if plan.named:
        said += f"; {plan.named} of type 2 name the device in their leaves for good"
    if not is_done:
        said += "; to erase them:  --confirm NAME"
    emit(facts, as_json=as_json, text=said)
