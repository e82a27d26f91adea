"""`qflare incident plan|apply|confirm|undo|dismiss|responses|rules`: what is done about incidents (server side)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from qflare.cli import listing, options
from qflare.cli.incidents import app, get_incident
from qflare.cli.operator_login import By, SecretFile, authenticate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qflare.model.response import Response, ResponsePlan
    from qflare.service.key_manager import QuantumKeyManager

_RESPONSES: Final = {"response_id": 32, "action": 15, "state": 9, "lacks": 5, "device_id": 13}
_RULES: Final = {"rule": 30, "signal": 18, "action": 15, "mode": 9}

IdOrNone: TypeAlias = Annotated[
    str, typer.Argument(metavar="INCIDENT", help="The incident's id, 32 hex digits; - for none.")
]
ResponseArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="RESPONSE", help="The response's id, 32 hex digits.")
]
Action: TypeAlias = Annotated[
    str, typer.Argument(metavar="ACTION", help="What to do: quarantine, lift, rekey, revoke, … (docs/operations.md).")
]
DeviceOption: TypeAlias = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="The device; else the incident's.")
]
Source: TypeAlias = Annotated[
    str | None, typer.Option("--source", metavar="ADDRESS", help="The network address of limit-source.")
]
PerMinute: TypeAlias = Annotated[
    int | None, typer.Option("--per-minute", metavar="N", min=1, help="Of a limit: messages a minute.")
]
LastsHours: TypeAlias = Annotated[
    int | None, typer.Option("--hours", metavar="N", min=1, help="Of a limit: when it ends by itself.")
]


@app.command("responses")
def responses(
    *,
    waiting: Annotated[bool, typer.Option("--waiting", help="Those that wait for people, only.")] = False,
    limit: listing.Limit = listing.DEFAULT_LIMIT,
    after: listing.After = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """List responses, the last asked for first."""
    from qflare.cli.managing import run_with_manager
    from qflare.model.response import ResponseState

    last = None if after is None else listing.parse_id(after, name="--after")
    states = (ResponseState.PROPOSED,) if waiting else None

    async def work(manager: QuantumKeyManager) -> Sequence[Response]:
        return await manager.list_responses(states=states, limit=limit, after=last)

    rows = [response_facts(each) for each in run_with_manager(work, dsn, data_dir, tenant=tenant)]
    listing.emit_page("responses", rows, _RESPONSES, limit=limit, key="response_id", as_json=as_json)


@app.command("plan")
def plan(
    incident: IdOrNone,
    action: Action,
    *,
    device: DeviceOption = None,
    source: Source = None,
    per_minute: PerMinute = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Say what a response would do, to whom and how many; change nothing."""
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit

    key = None if incident == "-" else listing.parse_id(incident, name="INCIDENT")

    async def work(manager: QuantumKeyManager) -> ResponsePlan:
        name = await _device_of(manager, key, action, device)
        return await manager.plan_response(action, device_id=name, source=source, per_minute=per_minute)

    emit(_plan_facts(run_with_manager(work, dsn, data_dir, tenant=tenant)), as_json=as_json)


@app.command("apply")
def apply(
    incident: IdOrNone,
    action: Action,
    *,
    by: By,
    reason: listing.Reason,
    secret_file: SecretFile = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this it is only planned.")] = False,
    device: DeviceOption = None,
    source: Source = None,
    per_minute: PerMinute = None,
    hours: LastsHours = None,
    call_id: options.CallId = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Respond to an incident: planned without --yes, done with it, or proposed where two operators must want it."""
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit

    if not yes:
        plan(
            incident,
            action,
            device=device,
            source=source,
            per_minute=per_minute,
            tenant=tenant,
            dsn=dsn,
            data_dir=data_dir,
            as_json=as_json,
        )
        return
    key = None if incident == "-" else listing.parse_id(incident, name="INCIDENT")
    change = listing.parse_call_id(call_id)

    async def work(manager: QuantumKeyManager) -> Response:
        await authenticate(manager, by, secret_file)
        return await manager.respond(
            action,
            by=by,
            reason=reason,
            device_id=await _device_of(manager, key, action, device),
            source=source,
            per_minute=per_minute,
            lasts_s=None if hours is None else hours * 3600,
            incident_id=key,
            call_id=change,
        )

    done = run_with_manager(work, dsn, data_dir, tenant=tenant)
    emit(response_facts(done), as_json=as_json, text=_told(done))


@app.command("confirm")
def confirm(
    response: ResponseArgument,
    *,
    by: By,
    secret_file: SecretFile = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Want a proposed response too; it is carried out as soon as enough operators do."""
    key = listing.parse_id(response, name="RESPONSE")
    _respond(
        lambda manager: manager.confirm_response(key, by=by), by, secret_file, dsn, data_dir, tenant, as_json=as_json
    )


@app.command("undo")
def undo(
    response: ResponseArgument,
    *,
    by: By,
    reason: listing.Reason,
    secret_file: SecretFile = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Put back what was before a response, if what it did still stands."""
    key = listing.parse_id(response, name="RESPONSE")
    _respond(
        lambda manager: manager.undo_response(key, by=by, reason=reason),
        *(by, secret_file, dsn, data_dir, tenant),
        as_json=as_json,
    )


@app.command("dismiss")
def dismiss(
    response: ResponseArgument,
    *,
    by: By,
    reason: listing.Reason,
    secret_file: SecretFile = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Say that a proposed response is not wanted."""
    key = listing.parse_id(response, name="RESPONSE")
    _respond(
        lambda manager: manager.dismiss_response(key, by=by, reason=reason),
        *(by, secret_file, dsn, data_dir, tenant),
        as_json=as_json,
    )


@app.command("rules")
def rules(
    *,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="A playbook; else QFLARE_PLAYBOOK's, or the shipped one."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Check a playbook before workers start with it, and show its rules."""
    from qflare.cli.managing import require_server
    from qflare.cli.output import emit
    from qflare.cli.table import table

    require_server()
    from qflare.manager.settings import ManagerSettings
    from qflare.service.config import read_settings
    from qflare.service.responding.playbook import read_playbook

    path = str(file) if file is not None else read_settings(ManagerSettings).playbook
    playbook = read_playbook(path)
    rows: list[dict[str, object]] = [
        {
            "rule": rule.name,
            "signal": "any" if rule.signal is None else rule.signal.value,
            "severity": rule.severity.value,
            "action": rule.action.value,
            "mode": rule.mode.value,
            "about": rule.about.value,
            "proven_min": rule.proven_min,
            "why": rule.why,
        }
        for rule in playbook.rules
    ]
    sent = None if playbook.webhook is None else playbook.webhook.url
    facts = {"rules": rows, "bounds": dataclasses.asdict(playbook.bounds), "webhook": sent}
    emit(facts, as_json=as_json, text=table(rows, _RULES, none="no rules"))


def _respond(  # noqa: PLR0917 - the options that every command has
    call: Callable[[QuantumKeyManager], Awaitable[Response]],
    by: str,
    secret_file: Path | None,
    dsn: str | None,
    data_dir: Path | None,
    tenant: str | None,
    *,
    as_json: bool,
) -> None:
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit

    async def work(manager: QuantumKeyManager) -> Response:
        await authenticate(manager, by, secret_file)
        return await call(manager)

    done = run_with_manager(work, dsn, data_dir, tenant=tenant)
    emit(response_facts(done), as_json=as_json, text=_told(done))


async def _device_of(manager: QuantumKeyManager, key: bytes | None, action: str, device: str | None) -> str | None:
    """Return the device that a response is about: the one that was named, else the incident's."""
    from qflare.model.response import ABOUT_DEVICE
    from qflare.service.response_calls import as_action

    if key is None:
        return device
    found = await get_incident(manager, key)
    return device if device is not None or as_action(action) not in ABOUT_DEVICE else found.device_id


def _told(done: Response) -> str:
    from qflare.model.response import ResponseState

    text = f"{done.action.value} is {done.state.value}"
    if done.state is ResponseState.PROPOSED and done.lacks:
        return f"{text}: another operator confirms it with\n  qflare incident confirm {done.response_id.hex()}"
    return f"{text}: response {done.response_id.hex()}"


def _plan_facts(made: ResponsePlan) -> dict[str, object]:
    return {
        "is_planned_only": True,
        "action": made.action.value,
        "would": made.would,
        "device_id": made.target.device_id,
        "source": made.target.source,
        "count": made.count,
        "before": made.before,
        "is_reversible": made.is_reversible,
        "needs_two": made.needs_two,
        "obstacle": made.obstacle,
    }


def response_facts(response: Response) -> dict[str, object]:
    """Return what is shown of a response."""
    from qflare.cli.table import moment

    return {
        "response_id": response.response_id.hex(),
        "incident_id": None if response.incident_id is None else response.incident_id.hex(),
        "action": response.action.value,
        "state": response.state.value,
        "device_id": response.target.device_id,
        "source": response.target.source,
        "rule": response.rule,
        "is_automatic": response.is_automatic,
        "lacks": response.lacks,
        "first_by": response.first_by,
        "second_by": response.second_by,
        "reason": response.reason,
        "before": response.before,
        "changed": response.changed,
        "per_minute": response.per_minute,
        "until_at": moment(response.until_at),
        "asked_at": moment(response.asked_at),
        "changed_at": moment(response.changed_at),
        "ended_by": response.ended_by,
        "ended_because": response.ended_because,
    }
