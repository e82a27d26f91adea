"""`qflare audit verify`: the whole log checked, in the database or as an export, and against what others hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from qflare.cli import options
from qflare.cli.audit_files import parse_server_id, read_evidence, read_key, read_note

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qflare.monitor.audit import LogReport
    from qflare.monitor.export_check import ExportFindings
    from qflare.monitor.held import HeldReceipt
    from qflare.protocol.evidence import Evidence
    from qflare.protocol.identity import ServerIdentity
    from qflare.protocol.log_key import LogKey

HOLDS_NOT: Final = 1
UNCHECKED: Final = 2


def verify(
    *,
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="PATH", help="Check this export, a file or a folder, not the database."),
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also compare every stored node of the tree.")] = False,
    since: Annotated[
        Path | None,
        typer.Option("--since", metavar="NOTE", help="A signed head that you kept: the log must go on from it."),
    ] = None,
    receipts: Annotated[
        list[Path] | None,
        typer.Option("--receipts", metavar="FILE", help="A device's evidence; may be given several times."),
    ] = None,
    server_id: Annotated[
        str | None, typer.Option("--server-id", metavar="HEX", help="The server_id you pinned, 64 hex digits.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="VKEY", help="The log's verifier key you pinned, or its file.")
    ] = None,
    progress: Annotated[
        bool, typer.Option("--progress", help="Show progress on stderr where that is no terminal, too.")
    ] = False,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Check the whole log, and what devices hold.

    Reads every entry, rebuilds the tree, and checks the signed head and the devices' receipts against it. With a pinned
    server_id or key it needs read access alone; an export needs one of them and no database.
    """
    from qflare.cli.output import aligned, emit, say_error
    from qflare.cli.progress import Progress
    from qflare.errors import AuthenticationError, ConfigError, EvidenceError, LogForkError, QflareError

    shown = Progress("checked", is_wanted=progress)
    try:
        if export is not None and deep:
            raise ConfigError("an export holds no nodes to compare: every entry of it is always checked")
        evidence = [(path, read_evidence(path)) for path in receipts or ()]
        note = None if since is None else read_note(since)
        pinned = parse_server_id(server_id)
        pinned_key = None if key is None else read_key(key)
        if export is not None:
            facts = _verify_export(export, evidence, pinned, pinned_key, since=note, progress=shown)
        else:
            facts = _verify_database(dsn, data_dir, evidence, pinned, pinned_key, deep=deep)
    except (EvidenceError, LogForkError, AuthenticationError) as failure:
        shown.end()
        index, last = (failure.index, failure.last) if isinstance(failure, EvidenceError) else (None, None)
        if as_json:
            emit({"holds": False, "index": index, "last": last, "message": str(failure)}, as_json=True)
        say_error(type(failure).__name__, f"the log does not hold: {failure}", as_json=as_json)
        raise typer.Exit(HOLDS_NOT) from None
    except QflareError as failure:
        shown.end()
        say_error(type(failure).__name__, f"the log could not be checked: {failure}", as_json=as_json)
        raise typer.Exit(UNCHECKED) from None
    finally:
        shown.end()
    emit({"holds": True, **facts}, as_json=as_json, text=f"the log holds\n{aligned({'holds': True, **facts})}")


def _verify_export(
    path: Path,
    evidence: Sequence[tuple[Path, Evidence]],
    server_id: bytes | None,
    key: LogKey | None,
    *,
    since: str | None,
    progress: Callable[[int], None],
) -> dict[str, object]:
    from qflare.errors import ConfigError, EvidenceError
    from qflare.monitor.export_check import ExportCheck
    from qflare.monitor.held import HeldReceipt
    from qflare.service.exports import parts_of

    for name, each in evidence:
        if server_id is not None and each.server_id != server_id:
            raise EvidenceError(f"the evidence in {name} is not this server's, or altered")
    check = ExportCheck(
        server_id=server_id,
        key=key,
        since=since,
        receipts=[HeldReceipt.of(each) for _, each in evidence],
        progress=progress,
    )
    parts = parts_of(path)
    if not parts:
        raise ConfigError(f"there is no export in {path}")
    for part in parts:
        try:
            with part.open("rb") as file:
                check.read(file)
        except OSError as failure:
            raise ConfigError(f"cannot read {part}: {failure.strerror}") from None
    return _findings(check.finish(), parts=len(parts))


def _findings(found: ExportFindings, *, parts: int) -> dict[str, object]:
    return {
        "first": found.first,
        "size": found.size,
        "root": found.root,
        "signed_size": found.checkpoint.size,
        "signed_heads": found.heads,
        "heads_by_other_keys": found.heads_of_others,
        "parts": parts,
        "receipts": found.receipts,
        "entries": found.entries,
    }


def _verify_database(
    dsn: str | None,
    data_dir: Path | None,
    evidence: Sequence[tuple[Path, Evidence]],
    server_id: bytes | None,
    key: LogKey | None,
    *,
    deep: bool,
) -> dict[str, object]:
    import asyncio

    from qflare.cli.managing import choose_dsn, open_monitor, require_server

    async def with_workers_keys() -> LogReport:
        # Without a pin the keeper vouches: the log key in the certificate is the one whose other half it sealed.
        async with open_monitor(dsn, data_dir) as monitor:
            from qflare.service.auditing import decode_identities

            identities = decode_identities(await monitor.identities(), None)
            held = [_held(path, each, identities) for path, each in evidence]
            return await monitor.verify_log(deep=deep, receipts=held)

    async def with_pin() -> LogReport:
        from qflare.monitor.audit import verify_log
        from qflare.service.auditing import open_audit

        async with open_audit(choose_dsn(dsn), data_dir, server_id=server_id) as audit:
            return await verify_log(
                store=audit.log,
                keys=audit.keys if key is None else (key,),
                runner=audit.offload,
                receipts=[_held(path, each, audit.identities) for path, each in evidence],
                is_deep=deep,
            )

    require_server()
    report = asyncio.run(with_workers_keys() if server_id is None and key is None else with_pin())
    return {
        "size": report.size,
        "root": report.root,
        "signed_size": None if report.checkpoint is None else report.checkpoint.size,
        "tenants": report.tenants,
        "erased": report.erased,
        "receipts": report.receipts,
        "entries": report.entries,
    }


def _held(path: Path, evidence: Evidence, identities: Sequence[ServerIdentity]) -> HeldReceipt:
    """Check evidence under the server's identity of its time, and return what must be found in the log."""
    from qflare.errors import AuthenticationError, DecodeError, EvidenceError
    from qflare.monitor.held import HeldReceipt
    from qflare.protocol.evidence import verify_evidence

    for identity in identities:
        try:
            verify_evidence(evidence, identity)
        except (AuthenticationError, DecodeError):
            continue
        return HeldReceipt.of(evidence)
    raise EvidenceError(f"the evidence in {path} is not this server's, or altered")
