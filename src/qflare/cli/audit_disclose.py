"""`qflare audit disclose` and `verify-disclosure`: chosen fields of an entry, proven to who has the log's key alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from qflare.cli import options
from qflare.cli.audit_files import parse_server_id, read_disclosure, read_key

if TYPE_CHECKING:
    from qflare.protocol.disclosure import DisclosedEntry, Disclosure

HOLDS_NOT: Final = 1
UNCHECKED: Final = 2


def disclose(
    index: Annotated[int, typer.Argument(metavar="INDEX", min=0, help="The entry's index.")],
    *,
    field: Annotated[
        list[str] | None, typer.Option("--field", metavar="NAME", help="A field to show; may be given several times.")
    ] = None,
    device: Annotated[bool, typer.Option("--device", help="Show which device it is about.")] = False,
    show_tenant: Annotated[bool, typer.Option("--show-tenant", help="Show whose entry it is.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="New file for the disclosure; else stdout.")
    ] = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Prove chosen fields of one entry to a third party, and hide the others.

    Time, type and severity are always shown. Check it with  qflare audit verify-disclosure.
    """
    import asyncio

    from qflare.cli.managing import open_monitor
    from qflare.cli.output import emit
    from qflare.errors import ConfigError

    async def run() -> Disclosure:
        async with open_monitor(dsn, data_dir, tenant=tenant) as monitor:
            return await monitor.disclose_event(index, fields=field or (), device=device, tenant=show_tenant)

    text = asyncio.run(run()).to_json()
    if output is None:
        print(text)
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as failure:
        raise ConfigError(f"cannot write {output}: {failure.strerror}") from None
    emit({"written": str(output)}, as_json=as_json)


def verify_disclosure(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="From  qflare audit disclose.")],
    *,
    server_id: Annotated[
        str | None, typer.Option("--server-id", metavar="HEX", help="The server_id you pinned, 64 hex digits.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="VKEY", help="The log's verifier key you pinned, or its file.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Check a disclosure with the server_id or the log's key alone, and show what it proves."""
    from qflare.cli.output import aligned, emit, say_error
    from qflare.errors import AuthenticationError, ConfigError, DecodeError, QflareError

    try:
        if (server_id is None) == (key is None):
            raise ConfigError("pin the log by one of --server-id and --key: a disclosure vouches for nobody")
        found = read_disclosure(file)
        proven = found.verify(server_id=parse_server_id(server_id), key=None if key is None else read_key(key))
    except (AuthenticationError, DecodeError) as failure:
        if as_json:
            emit({"holds": False, "message": str(failure)}, as_json=True)
        say_error(type(failure).__name__, f"the disclosure does not hold: {failure}", as_json=as_json)
        raise typer.Exit(HOLDS_NOT) from None
    except QflareError as failure:
        say_error(type(failure).__name__, f"the disclosure could not be checked: {failure}", as_json=as_json)
        raise typer.Exit(UNCHECKED) from None
    facts = _facts(proven)
    emit(facts, as_json=as_json, text=f"the disclosure holds\n{aligned(facts)}")


def _facts(proven: DisclosedEntry) -> dict[str, object]:
    import json

    from qflare.clock import utc

    facts: dict[str, object] = {
        "holds": True,
        "log": proven.origin,
        "index": proven.index,
        "size": proven.size,
        "signed_at": utc(proven.signed_at_s).isoformat(),
        "occurred_at_ms": proven.occurred_at_ms,
        "event_type": proven.event_type.value,
        "severity": proven.severity.value,
        "fields": {name: json.loads(value) for name, value in proven.data.items()},
        "hidden_fields": proven.hidden,
    }
    if proven.tenant_id is not None:
        facts["tenant_id"] = proven.tenant_id
    if proven.device_id is not None or proven.is_about_no_device:
        facts["device_id"] = proven.device_id
    return facts
