"""`qflare policy`: when device keys are due for rotation, on the server's side."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qflare.cli import listing, options

if TYPE_CHECKING:
    from qflare.manager.policies import RotationPlan
    from qflare.model.rotation import RotationPolicy, RotationProgress
    from qflare.service.key_manager import QuantumKeyManager

app = typer.Typer(name="policy", help="Say when device keys are due for rotation (server side).", no_args_is_help=True)

MaxAge = Annotated[
    int | None, typer.Option("--max-age-h", metavar="HOURS", help="Age at which keys are due, 2 to 87600 hours.")
]
MaxRecords = Annotated[
    int | None, typer.Option("--max-records", metavar="N", help="Records that the sessions of a key version carry.")
]
MaxBytes = Annotated[
    int | None, typer.Option("--max-bytes", metavar="N", help="Bytes of sealed records, the same way.")
]
Jitter = Annotated[
    int | None,
    typer.Option(
        "--jitter", metavar="PERCENT", help="How much earlier by a device's own jitter; a divisor of 100 up to 50. [10]"
    ),
]
MinutePpm = Annotated[
    int | None,
    typer.Option(
        "--minute-ppm", metavar="N", help="Share of the devices marked a minute, in millionths; one at least. [10000]"
    ),
]
Grace = Annotated[
    int | None,
    typer.Option(
        "--grace-h", metavar="HOURS", help="Hours after the mark in which data are still taken; else for ever."
    ),
]


@app.callback()
def _group() -> None:
    """Say when device keys are due for rotation (server side)."""


@app.command("show")
def show(
    *,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Show the tenant's policy; without one no key is due by itself."""
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit

    async def work(manager: QuantumKeyManager) -> RotationPolicy | None:
        return await manager.rotation_policy()

    policy = run_with_manager(work, dsn, data_dir, tenant=tenant)
    text = "no rotation policy: no key is due by itself" if policy is None else None
    emit({"policy": None} if policy is None else _policy_facts(policy), as_json=as_json, text=text)


@app.command("set")
def set_(
    *,
    max_age_h: MaxAge = None,
    max_records: MaxRecords = None,
    max_bytes: MaxBytes = None,
    jitter: Jitter = None,
    minute_ppm: MinutePpm = None,
    grace_h: Grace = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would make due, and change nothing.")] = False,
    call_id: options.CallId = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Set the whole policy anew; it holds at once for the keys that exist."""
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit

    policy = _policy(max_age_h, max_records, max_bytes, jitter, minute_ppm, grace_h)
    change = listing.parse_call_id(call_id)

    async def work(manager: QuantumKeyManager) -> RotationPlan:
        plan = await manager.plan_rotations(policy)
        if not dry_run:
            await manager.set_rotation_policy(policy, call_id=change)
        return plan

    emit({"is_set": not dry_run} | _plan_facts(run_with_manager(work, dsn, data_dir, tenant=tenant)), as_json=as_json)


@app.command("remove")
def remove(
    *,
    call_id: options.CallId = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Remove the policy; devices that are marked stay so."""
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit

    change = listing.parse_call_id(call_id)

    async def work(manager: QuantumKeyManager) -> Literal[True]:
        await manager.set_rotation_policy(None, call_id=change)
        return True

    emit({"removed": run_with_manager(work, dsn, data_dir, tenant=tenant)}, as_json=as_json)


@app.command("plan")
def plan(
    *,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Say what the policy makes due now, and how long marking it takes."""
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit

    async def work(manager: QuantumKeyManager) -> RotationPlan:
        return await manager.plan_rotations()

    emit(_plan_facts(run_with_manager(work, dsn, data_dir, tenant=tenant)), as_json=as_json)


@app.command("status")
def status(
    *,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Show how many devices wait for their rotation and how many have rotated."""
    from qflare.cli.managing import run_with_manager
    from qflare.cli.output import emit

    async def work(manager: QuantumKeyManager) -> RotationProgress:
        return await manager.rotation_progress()

    emit(dataclasses.asdict(run_with_manager(work, dsn, data_dir, tenant=tenant)), as_json=as_json)


def _policy(  # noqa: PLR0917 - one parameter an option
    max_age_h: int | None,
    max_records: int | None,
    max_bytes: int | None,
    jitter: int | None,
    minute_ppm: int | None,
    grace_h: int | None,
) -> RotationPolicy:
    from qflare.model.rotation import RotationPolicy

    policy = RotationPolicy(
        max_age_s=None if max_age_h is None else max_age_h * 3600,
        max_records=max_records,
        max_bytes=max_bytes,
        grace_s=None if grace_h is None else grace_h * 3600,
    )
    if jitter is not None:
        policy = dataclasses.replace(policy, jitter_percent=jitter)
    return policy if minute_ppm is None else dataclasses.replace(policy, minute_ppm=minute_ppm)


def _policy_facts(policy: RotationPolicy) -> dict[str, object]:
    return dataclasses.asdict(policy)


def _plan_facts(made: RotationPlan) -> dict[str, object]:
    facts = dataclasses.asdict(made)
    return _policy_facts(made.policy) | {name: facts[name] for name in facts if name != "policy"} | {"due": made.due}
