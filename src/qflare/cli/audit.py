"""`qflare audit`: the signed log, checked as a whole and against what devices hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qflare.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.event import AuditEntry
    from qflare.monitor.audit import HeldReceipt, LogReport
    from qflare.protocol.evidence import Evidence
    from qflare.protocol.identity import ServerIdentity

EVIDENCE_BYTES_MAX = 64 * 2**10
HOLDS_NOT = 1
UNCHECKED = 2

app = typer.Typer(name="audit", help="Check and read the audit log.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Check and read the audit log."""


@app.command("verify", epilog="Exit codes: 0 the log holds, 1 it does not, 2 it could not be checked.")
def verify(
    *,
    deep: Annotated[bool, typer.Option("--deep", help="Also compare every stored node of the tree.")] = False,
    receipts: Annotated[
        list[Path] | None,
        typer.Option("--receipts", metavar="FILE", help="A device's evidence; may be given several times."),
    ] = None,
    server_id: Annotated[
        str | None, typer.Option("--server-id", metavar="HEX", help="The server_id you pinned, 64 hex digits.")
    ] = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Check the whole log, and what devices hold.

    Reads every entry, rebuilds the tree, and checks the signed head and the devices' receipts against it.
    """
    import asyncio

    from qflare.cli.output import aligned, emit, say_error
    from qflare.errors import AuthenticationError, EvidenceError, LogForkError, QflareError

    try:
        evidence = [(path, _read_evidence(path)) for path in receipts or ()]
        pinned = _parse_server_id(server_id)
        report = asyncio.run(_verify(dsn, data_dir, evidence, pinned, deep=deep))
    except (EvidenceError, LogForkError, AuthenticationError) as failure:
        index = failure.index if isinstance(failure, EvidenceError) else None
        if as_json:
            emit({"holds": False, "index": index, "message": str(failure)}, as_json=True)
        say_error(type(failure).__name__, f"the log does not hold: {failure}", as_json=as_json)
        raise typer.Exit(HOLDS_NOT) from None
    except QflareError as failure:
        say_error(type(failure).__name__, f"the log could not be checked: {failure}", as_json=as_json)
        raise typer.Exit(UNCHECKED) from None
    facts: dict[str, object] = {
        "holds": True,
        "size": report.size,
        "root": report.root,
        "signed_size": None if report.checkpoint is None else report.checkpoint.size,
        "tenants": report.tenants,
        "receipts": report.receipts,
        "entries": report.entries,
    }
    emit(facts, as_json=as_json, text=f"the log holds\n{aligned(facts)}")


@app.command("show")
def show(
    *,
    first: Annotated[int, typer.Option("--first", metavar="INDEX", min=0, help="Index of the first entry.")] = 0,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="How many at most.")] = 100,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Show entries of the default tenant's log."""
    import asyncio

    from qflare.cli.managing import open_monitor
    from qflare.cli.output import emit

    async def run() -> Sequence[AuditEntry]:
        async with open_monitor(dsn, data_dir) as monitor:
            return await monitor.list_events(first=first, limit=limit)

    entries = [_facts(entry) for entry in asyncio.run(run())]
    text = "\n".join(
        f"{entry['index']:>8}  {entry['recorded_at']}  {entry['severity']:8}  {entry['event_type']:22}"
        f"  {entry['device_id'] or ''}  {entry['data']}"
        for entry in entries
    )
    emit({"entries": entries}, as_json=as_json, text=text or "no entries")


def _facts(entry: AuditEntry) -> dict[str, object]:
    return {
        "index": entry.index,
        "event_type": entry.event_type.value,
        "severity": entry.severity.value,
        "device_id": entry.device_id,
        "recorded_at": entry.recorded_at.isoformat(timespec="milliseconds"),
        "leaf_hash": entry.leaf_hash,
        "data": entry.data.decode(),
    }


async def _verify(
    dsn: str | None,
    data_dir: Path | None,
    evidence: Sequence[tuple[Path, Evidence]],
    pinned: bytes | None,
    *,
    deep: bool,
) -> LogReport:
    from qflare.cli.managing import open_monitor

    async with open_monitor(dsn, data_dir) as monitor:
        identities = [_identity(served, pinned) for served in await monitor.identities()]
        held = [_held(path, each, identities) for path, each in evidence]
        return await monitor.verify_log(deep=deep, receipts=held)


def _identity(served: bytes, pinned: bytes | None) -> ServerIdentity:
    from qflare.errors import AuthenticationError, EvidenceError
    from qflare.primitives.sig import SIG87
    from qflare.protocol.identity import decode_identity, server_id_of

    try:
        return decode_identity(served, server_id=pinned or server_id_of(served[: SIG87.PK_BYTES]))
    except AuthenticationError:
        raise EvidenceError("the server's identity is not the pinned one") from None


def _held(path: Path, evidence: Evidence, identities: Sequence[ServerIdentity]) -> HeldReceipt:
    """Check evidence under the server's identity of its time, and return what must be found in the log."""
    from qflare.errors import AuthenticationError, DecodeError, EvidenceError
    from qflare.monitor.audit import HeldReceipt
    from qflare.protocol.evidence import verify_evidence

    for identity in identities:
        try:
            verify_evidence(evidence, identity)
        except (AuthenticationError, DecodeError):
            continue
        return HeldReceipt.of(evidence)
    raise EvidenceError(f"the evidence in {path} is not this server's, or altered")


def _read_evidence(path: Path) -> Evidence:
    from qflare.errors import ConfigError, DecodeError
    from qflare.protocol.evidence import Evidence

    try:
        with path.open("rb") as file:
            text = file.read(EVIDENCE_BYTES_MAX)
        return Evidence.from_json(text)
    except OSError as failure:
        raise ConfigError(f"cannot read {path}: {failure.strerror}") from None
    except DecodeError as failure:
        raise DecodeError(f"{path} holds no evidence: {failure}") from None


def _parse_server_id(text: str | None) -> bytes | None:
    from qflare.errors import ConfigError
    from qflare.protocol.wire import SERVER_ID_BYTES

    if text is None:
        return None
    try:
        server_id = bytes.fromhex(text)
    except ValueError:
        server_id = b""
    if len(server_id) != SERVER_ID_BYTES:
        raise ConfigError(f"--server-id is {2 * SERVER_ID_BYTES} hex digits")
    return server_id
