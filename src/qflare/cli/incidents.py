"""`qflare incident`: what the detector found (server side); `responses` adds what is done about it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from qflare.cli import listing, options
from qflare.cli.operator_login import By, SecretFile, authenticate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qflare.model.incident import Incident, IncidentState
    from qflare.model.response import Response
    from qflare.service.key_manager import QuantumKeyManager

app = typer.Typer(name="incident", help="Look at incidents and respond to them (server side).", no_args_is_help=True)

_COLUMNS: Final = {"incident_id": 32, "signal": 20, "severity": 8, "state": 7, "device_id": 20}
_PAGE_MAX: Final = 100

Id: TypeAlias = Annotated[str, typer.Argument(metavar="INCIDENT", help="The incident's id, 32 hex digits.")]
Note: TypeAlias = Annotated[str, typer.Option("--note", metavar="TEXT", help="What is to be said about it.")]


@app.callback()
def _group() -> None:
    """Look at incidents and respond to them (server side)."""


@app.command("list")
def list_(
    *,
    closed: Annotated[bool, typer.Option("--closed", help="Those that are closed, too.")] = False,
    limit: listing.Limit = listing.DEFAULT_LIMIT,
    after: listing.After = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """List incidents, the last seen first."""
    from qflare.cli.managing import run_with_manager
    from qflare.model.incident import IncidentState

    last = None if after is None else listing.parse_id(after, name="--after")
    states = None if closed else (IncidentState.OPEN, IncidentState.ACKNOWLEDGED)

    async def work(manager: QuantumKeyManager) -> Sequence[Incident]:
        return await manager.monitor.list_incidents(states=states, limit=limit, after=last)

    rows = [_facts(each) for each in run_with_manager(work, dsn, data_dir, tenant=tenant)]
    listing.emit_page("incidents", rows, _COLUMNS, limit=limit, key="incident_id", as_json=as_json)


@app.command("show")
def show(
    incident: Id,
    *,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Show an incident, its evidence, and the responses to it."""
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit
    from qflare.cli.responses import response_facts
    from qflare.model.evidence import count_proven

    key = listing.parse_id(incident, name="INCIDENT")

    async def work(manager: QuantumKeyManager) -> tuple[Incident, Sequence[Response]]:
        return await get_incident(manager, key), await manager.list_responses(incident_id=key, limit=_PAGE_MAX)

    found, responses = run_with_manager(work, dsn, data_dir, tenant=tenant)
    told: list[object] = (
        [response_facts(each) for each in responses]
        if as_json
        else [f"{each.action.value} {each.state.value} {each.response_id.hex()}" for each in responses]
    )
    evidence: object = json.loads(found.evidence)
    emit(
        _facts(found) | {"evidence": evidence, "proven": count_proven(found.evidence), "responses": told},
        as_json=as_json,
    )


@app.command("ack")
def ack(
    incident: Id,
    *,
    by: By,
    secret_file: SecretFile = None,
    note: Note = "",
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Say that somebody looks at an incident; what comes is still added to it."""
    from qflare.model.incident import IncidentState

    _move(incident, IncidentState.ACKNOWLEDGED, by, secret_file, note, dsn, data_dir, tenant, as_json=as_json)


@app.command("close")
def close(
    incident: Id,
    *,
    by: By,
    secret_file: SecretFile = None,
    note: Note = "",
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Close an incident for good; the same again opens another."""
    from qflare.model.incident import IncidentState

    _move(incident, IncidentState.CLOSED, by, secret_file, note, dsn, data_dir, tenant, as_json=as_json)


def _move(  # noqa: PLR0917 - the options that every command has
    incident: str,
    state: IncidentState,
    by: str,
    secret_file: Path | None,
    note: str,
    dsn: str | None,
    data_dir: Path | None,
    tenant: str | None,
    *,
    as_json: bool,
) -> None:
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit

    key = listing.parse_id(incident, name="INCIDENT")

    async def work(manager: QuantumKeyManager) -> Incident:
        await authenticate(manager, by, secret_file)
        return await manager.monitor.move_incident(key, state, by=by, note=note)

    moved = run_with_manager(work, dsn, data_dir, tenant=tenant)
    emit(_facts(moved), as_json=as_json, text=f"incident {incident} is {moved.state.value}")


async def get_incident(manager: QuantumKeyManager, key: bytes) -> Incident:
    """Return one incident; `KeyNotFoundError` if there is none."""
    from qflare.errors import KeyNotFoundError

    found = await manager.monitor.find_incident(key)
    if found is None:
        raise KeyNotFoundError("no such incident in this tenant: list them with  qflare incident list")
    return found


def _facts(incident: Incident) -> dict[str, object]:
    from qflare.cli.table import moment

    return {
        "incident_id": incident.incident_id.hex(),
        "signal": incident.signal.value,
        "severity": incident.severity.value,
        "state": incident.state.value,
        "device_id": incident.device_id,
        "ref": None if incident.ref is None else incident.ref.hex(),
        "count": incident.count,
        "first_seen_at": moment(incident.first_seen_at),
        "last_seen_at": moment(incident.last_seen_at),
        "note": incident.note,
        "changed_by": incident.changed_by,
    }
