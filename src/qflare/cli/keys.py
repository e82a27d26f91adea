"""`qflare keys`: the states of keys with times and reasons, on the server's side; never a key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from qflare.cli import listing, options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qflare.model.key_record import KeyRecord
    from qflare.service.key_manager import QuantumKeyManager

app = typer.Typer(name="keys", help="Show keys' states, destroy what is over (server side).", no_args_is_help=True)

Kind = Literal["bucket", "root", "announce", "log", "kem", "signature", "psk"]
_COLUMNS: Final = {"kind": 9, "number": 10, "state": 11, "since": 20, "reason": 22}
_KEEPERS: Final = {"destroyed": 9, "left": 4, "next_end_at": 20, "has_worker": 10, "folder": 32}
_OF_DEVICES: Final = frozenset({"kem", "signature", "psk"})
Device = Annotated[str | None, typer.Option("--device", metavar="NAME", help="The keys of this device.")]


@app.callback()
def _group() -> None:
    """Show keys' states, destroy what is over (server side)."""


@app.command("list")
def list_(
    *,
    device: Device = None,
    limit: listing.Limit = listing.DEFAULT_LIMIT,
    before: Annotated[
        int | None, typer.Option("--before", metavar="NUMBER", min=0, help="Only buckets or versions below this one.")
    ] = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """List keys, newest first: the server's identity and buckets, or one device's."""
    from qflare.cli.output import emit
    from qflare.cli.table import table

    rows = [_facts(key) for key in _read(device, limit=limit, before=before, tenant=tenant, dsn=dsn, data_dir=data_dir)]
    emit({"keys": rows}, as_json=as_json, text=table(rows, _COLUMNS, none="no keys"))


@app.command("show")
def show(
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help="bucket, root, announce, log, kem, signature or psk.")],
    number: Annotated[
        int, typer.Argument(metavar="NUMBER", min=0, help="Bucket, serial of the certificate, key or psk version.")
    ],
    *,
    device: Device = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Show one key's states, with times and reasons."""
    from qflare.cli.output import aligned, emit
    from qflare.cli.table import moment, table
    from qflare.errors import ConfigError, KeyNotFoundError

    if (kind in _OF_DEVICES) != (device is not None):
        message = "kem and signature keys and psks are a device's: name it with --device, and no other kind"
        raise ConfigError(message)
    # Two rows a version, or a bucket whose pair was made twice: one page holds all of one number.
    found = [
        key
        for key in _read(device, limit=100, before=number + 1, tenant=tenant, dsn=dsn, data_dir=data_dir)
        if (key.kind, key.number) == (kind, number)
    ]
    if not found:
        message = f"no {kind} key {number}: list them with  qflare keys list"
        raise KeyNotFoundError(message)
    facts = [
        _facts(key)
        | {
            "moves": [
                {"from": move.from_state.value, "to": move.to_state.value, "at": moment(move.moved_at),
                 "reason": move.reason}
                for move in key.moves
            ]
        }
        for key in found
    ]  # fmt: skip
    moves = {"from": 11, "to": 11, "at": 20, "reason": 32}
    text = "\n\n".join(
        aligned({name: value for name, value in each.items() if name != "moves"})
        + "\n"
        + table(each["moves"] if isinstance(each["moves"], list) else [], moves, none="in its first state")
        for each in facts
    )
    emit({"keys": facts}, as_json=as_json, text=text)


@app.command("destroy")
def destroy(*, data_dir: options.DataDir = None, as_json: options.Json = False) -> None:
    """
    Destroy keys of buckets that are over, where no worker does.

    Workers do it by themselves. Where all of them were stopped, the last buckets' keys lie in the keeper until one runs
    again: run this every few minutes then. It looks for a worker for a few seconds, and needs no database.
    """
    import dataclasses

    from qflare.cli.managing import require_server
    from qflare.cli.output import emit
    from qflare.cli.table import moment, table

    require_server()
    from qflare.manager.settings import ManagerSettings
    from qflare.service.config import read_settings
    from qflare.service.overdue import destroy_overdue

    found = destroy_overdue(data_dir, settings=read_settings(ManagerSettings))
    rows = [dataclasses.asdict(each) | {"next_end_at": moment(each.next_end_at)} for each in found]
    emit({"keepers": rows}, as_json=as_json, text=table(rows, _KEEPERS, none="no keeper in that data folder"))


def _read(
    device: str | None,
    *,
    limit: int,
    before: int | None,
    tenant: str | None,
    dsn: str | None,
    data_dir: Path | None,
) -> Sequence[KeyRecord]:
    from qflare.cli.managing import run_with_manager

    async def work(manager: QuantumKeyManager) -> Sequence[KeyRecord]:
        if device is not None:
            return await manager.list_device_keys(device, limit=limit, before=before)
        identity = await manager.list_server_keys(limit=limit)
        return (*identity, *await manager.list_bucket_keys(limit=limit, before=before))

    return run_with_manager(work, dsn, data_dir, tenant=tenant)


def _facts(key: KeyRecord) -> dict[str, object]:
    from qflare.cli.table import moment

    return {
        "kind": key.kind,
        "number": key.number,
        "algorithm": key.algorithm,
        "state": key.state.value,
        "since": moment(key.since),
        "reason": key.reason,
        "created_at": moment(key.created_at),
    }
