"""`qflare audit verify`: the whole log checked, in the database or as an export, and against what others hold."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from qflare.cli import options
from qflare.cli.audit_files import parse_server_id, read_key, read_note, read_receipt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from qflare.cli.progress import Progress
    from qflare.monitor.audit import LogReport
    from qflare.monitor.held import HeldReceipt
    from qflare.monitor.known import Reference
    from qflare.protocol.evidence import Evidence
    from qflare.protocol.identity import ServerIdentity
    from qflare.protocol.log_key import LogKey
    from qflare.protocol.log_proof import LogProof
    from qflare.service.archiving import ArchivesFound
    from qflare.service.state_file import StateFile

HOLDS_NOT: Final = 1
UNCHECKED: Final = 2


def verify(
    *,
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="PATH", help="Check this export, a file or a folder, not the database."),
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also compare every stored hash and signed head.")] = False,
    since: Annotated[
        Path | None,
        typer.Option("--since", metavar="NOTE", help="A signed head that you kept: the log must go on from it."),
    ] = None,
    archive: Annotated[
        list[Path] | None,
        typer.Option("--archive", metavar="FILE", help="An archive of older entries; several in their order."),
    ] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option("--passphrase-file", metavar="FILE", help="The archives' passphrase, else typed.")
    ] = None,
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            "--reference",
            metavar="PATH",
            help="An export or archive kept from earlier: names the first entry that differs; several may be given.",
        ),
    ] = None,
    receipts: Annotated[
        list[Path] | None,
        typer.Option(
            "--receipts", metavar="FILE", help="A device's evidence or a .tlog-proof; may be given several times."
        ),
    ] = None,
    server_id: Annotated[
        str | None, typer.Option("--server-id", metavar="HEX", help="The server_id you pinned, 64 hex digits.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="VKEY", help="The log's verifier key you pinned, or its file.")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="FILE", help="Note here how far it came, and go on from there next time."),
    ] = None,
    state_key: Annotated[
        Path | None,
        typer.Option("--state-key", metavar="FILE", help="Where the state's key is made, for you alone; with --state."),
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
    server_id or key it needs read access alone; an export needs one of them and no database. What an interrupted run
    checked is not read again with --state, and the answer says so.
    """
    import asyncio

    from qflare.cli.output import aligned, emit, say_error
    from qflare.cli.progress import Progress
    from qflare.errors import AuthenticationError, ConfigError, EvidenceError, LogForkError, QflareError

    shown = Progress("checked", is_wanted=progress)
    try:
        if export is not None and deep:
            raise ConfigError("an export holds no nodes to compare: every entry of it is always checked")
        if archive and export is not None:
            raise ConfigError("archives go with the database, which is then checked from where the last one ends")
        evidence = [(path, read_receipt(path)) for path in receipts or ()]
        asked = _Asked(
            evidence=evidence,
            server_id=parse_server_id(server_id),
            key=None if key is None else read_key(key),
            since=None if since is None else read_note(since),
            archives=tuple(archive or ()),
            references=tuple(reference or ()),
            passphrase_file=passphrase_file,
            progress=shown,
        )
        with _kept(state, state_key) as kept:
            if export is not None:
                facts = _verify_export(export, asked, kept)
            else:
                facts = asyncio.run(_verify_database(dsn, data_dir, asked, kept, deep=deep))
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the caller pins, holds and keeps."""

    evidence: Sequence[tuple[Path, Evidence | LogProof]]
    server_id: bytes | None
    key: LogKey | None
    since: str | None
    archives: tuple[Path, ...]
    references: tuple[Path, ...]
    passphrase_file: Path | None
    progress: Progress


class _Kept:
    """The state of an earlier run, and where this one's goes; neither without --state."""

    def __init__(self, file: StateFile | None) -> None:
        from qflare.clock import SystemClock

        self.earlier = None if file is None else file.load()
        self.note = None if file is None else file.note
        self.now_s = SystemClock().now_s()

    def facts(self, resumed_at: int | None) -> dict[str, object]:
        """Say what this run did not read again, or that it could not go on from where the earlier one was."""
        if self.earlier is None:
            return {}
        if resumed_at is None:
            return {"resumed_at": None, "begun_anew": True}
        from qflare.clock import utc

        return {"resumed_at": resumed_at, "checked_before": utc(self.earlier.checked_at_s).isoformat()}


@contextmanager
def _kept(path: Path | None, key_path: Path | None) -> Iterator[_Kept]:
    from qflare.errors import ConfigError

    if (path is None) != (key_path is None):
        raise ConfigError(
            "--state and --state-key go together: what was checked is believed only under a key that nobody else can "
            "read, so keep that file where you keep your notes"
        )
    if path is None or key_path is None:
        yield _Kept(None)
        return
    from qflare.service.state_file import StateFile

    file = StateFile(path, key_path)
    try:
        try:
            yield _Kept(file)
        except BaseException:
            # What the check found, or who interrupted it, comes first.
            with suppress(ConfigError):
                file.save()
            raise
        file.remove()
    finally:
        file.close()


def _verify_export(path: Path, asked: _Asked, kept: _Kept) -> dict[str, object]:
    from qflare.errors import ConfigError
    from qflare.monitor.export_check import ExportCheck
    from qflare.service.exports import parts_of

    check = ExportCheck(
        server_id=asked.server_id,
        key=asked.key,
        since=asked.since,
        receipts=[_held_unchecked(name, each, asked.server_id) for name, each in asked.evidence],
        progress=asked.progress,
        resume=kept.earlier,
        note_state=kept.note,
        now_s=kept.now_s,
        references=_read_references(asked, asked.server_id),
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
    found = check.finish()
    return {
        "first": found.first,
        "size": found.size,
        "root": found.root,
        "signed_size": found.checkpoint.size,
        "signed_heads": found.heads,
        "heads_by_other_keys": found.heads_of_others,
        "parts": len(parts),
        "receipts": found.receipts,
        "entries": found.entries,
        **_countersigned(asked.since, check.root_key),
        **kept.facts(found.resumed_at),
    }


def _countersigned(note: str | None, root_key: bytes | None) -> dict[str, object]:
    """Say whether the kept head carries the signature of the root too, where that is known; a bad one is an alarm."""
    from qflare.errors import OtherLogError
    from qflare.protocol.countersignature import verify_countersignature

    if note is None or root_key is None:
        return {}
    try:
        verify_countersignature(note, root_key)
    except OtherLogError:
        return {"countersigned": False}
    return {"countersigned": True}


async def _verify_database(
    dsn: str | None, data_dir: Path | None, asked: _Asked, kept: _Kept, *, deep: bool
) -> dict[str, object]:
    import asyncio

    from qflare.cli.managing import choose_dsn, open_monitor, require_server
    from qflare.errors import KeyNotFoundError

    require_server()
    archived: dict[str, object] = {}
    root_key: bytes | None = None
    from qflare.protocol.log_key import LogKey, open_note
    from qflare.service.auditing import decode_identities, open_audit

    async def check(
        run: Callable[..., Awaitable[LogReport]], identities: Sequence[ServerIdentity], keys: Sequence[LogKey]
    ) -> LogReport:
        nonlocal root_key
        if asked.key is None and identities:
            root_key = identities[0].root_key
        held = [_held(path, each, identities) for path, each in asked.evidence]
        since = None if asked.since is None else open_note(asked.since, keys)
        server_id = identities[0].server_id if identities else None
        references = await asyncio.to_thread(_read_references, asked, server_id)
        if asked.archives:
            of_archives = await asyncio.to_thread(_check_archives, asked, server_id, held)
            found, held = of_archives.findings, of_archives.beyond
            references.append(of_archives.reference)
            since = found.checkpoint
            archived.update(archived_size=found.size, archived_receipts=found.receipts, archived_entries=found.entries)
        return await run(
            references=references,
            receipts=held,
            since=since,
            resume=kept.earlier,
            note_state=kept.note,
            now_s=kept.now_s,
            progress=asked.progress,
        )

    if asked.server_id is None and asked.key is None:
        # Without a pin the keeper vouches: the log key in the certificate is the one whose other half it sealed.
        async with open_monitor(dsn, data_dir) as monitor:
            identities = decode_identities(await monitor.identities(), None)
            keys = [LogKey.of(each.certificate) for each in identities]
            report = await check(partial(monitor.verify_log, deep=deep), identities, keys)
    else:
        from qflare.monitor.audit import verify_log

        async with open_audit(choose_dsn(dsn), data_dir, server_id=asked.server_id) as audit:
            keys = list(audit.keys) if asked.key is None else [asked.key]
            run = partial(verify_log, store=audit.log, keys=keys, others=audit.keys, runner=audit.offload, is_deep=deep)
            report = await check(run, audit.identities, keys)
    signed = max(report.first, 0 if report.checkpoint is None else report.checkpoint.size)
    if signed == 0 < report.size:
        # Whoever can rewrite rows, hashes and head together can also delete every signature over them.
        raise KeyNotFoundError(
            f"no head of its {report.size} entries is signed, so that nothing vouches for them: a worker signs one "
            "with its next receipt, and within two minutes where it watches for attacks; if one did, it was taken away"
        )
    return {
        "first": report.first,
        "size": report.size,
        "root": report.root,
        "signed_size": None if report.checkpoint is None else report.checkpoint.size,
        "unsigned": max(report.size - signed, 0),
        "signed_heads": report.heads,
        "tenants": report.tenants,
        "erased": report.erased,
        "receipts": report.receipts,
        "entries": report.entries,
        **({"archived_hashes": report.archived} if deep else {}),
        **archived,
        **_countersigned(asked.since, root_key),
        **kept.facts(report.resumed_at),
    }


def _check_archives(asked: _Asked, server_id: bytes | None, held: Sequence[HeldReceipt]) -> ArchivesFound:
    from qflare.cli.passphrase import read_passphrase
    from qflare.service.archiving import check_archives

    with read_passphrase(asked.passphrase_file, is_new=False) as passphrase:
        return check_archives(
            asked.archives,
            passphrase,
            server_id=server_id if asked.key is None else None,
            key=asked.key,
            since=asked.since,
            receipts=held,
        )


def _read_references(asked: _Asked, server_id: bytes | None) -> list[Reference]:
    from qflare.cli.passphrase import read_passphrase
    from qflare.service.references import is_archive, read_reference

    read = partial(read_reference, server_id=server_id if asked.key is None else None, key=asked.key)
    found: list[Reference] = []
    for path in asked.references:
        if is_archive(path):
            with read_passphrase(asked.passphrase_file, is_new=False) as passphrase:
                found.append(read(path, passphrase=passphrase))
        else:
            found.append(read(path))
    return found


def _held(path: Path, each: Evidence | LogProof, identities: Sequence[ServerIdentity]) -> HeldReceipt:
    """Check evidence under the server's identity of its time, and return what must be found in the log."""
    from qflare.errors import AuthenticationError, DecodeError, EvidenceError, OtherLogError
    from qflare.monitor.held import HeldReceipt
    from qflare.protocol.checkpoint import decode_note_body
    from qflare.protocol.evidence import Evidence, verify_evidence

    if not isinstance(each, Evidence):
        origin = decode_note_body(each.note).origin
        if origin not in {identity.certificate.log_origin for identity in identities}:
            raise OtherLogError(f"the proof in {path} is of another log, {origin!r}")
        return _held_unchecked(path, each, None)
    for identity in identities:
        try:
            verify_evidence(each, identity)
        except (AuthenticationError, DecodeError):
            continue
        return HeldReceipt.of(each)
    raise EvidenceError(f"the evidence in {path} is not this server's, or altered")


def _held_unchecked(path: Path, each: Evidence | LogProof, server_id: bytes | None) -> HeldReceipt:
    """Return what must be found in the log; its signature is checked with it."""
    from qflare.errors import DecodeError, EvidenceError
    from qflare.monitor.held import HeldReceipt
    from qflare.protocol.evidence import Evidence

    if isinstance(each, Evidence):
        if server_id is not None and each.server_id != server_id:
            raise EvidenceError(f"the evidence in {path} is not this server's, or altered")
        return HeldReceipt.of(each)
    if each.leaf_hash is None:
        raise DecodeError(f"the proof in {path} has no leaf hash in its extra line: it cannot be told what it proves")
    return HeldReceipt(each.leaf_hash, each.receipt())
