"""`qflare audit watch`: a witness that refuses a log which shrinks or shows another history."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qflare.cli import options
from qflare.cli.audit_files import parse_server_id, read_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from qflare.monitor.witness import Seen, WitnessSource
    from qflare.protocol.log_key import LogKey


def watch(
    keep: Annotated[Path, typer.Option("--keep", metavar="FILE", help="Where the last accepted head is kept.")],
    *,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="A log over HTTP, such as https://fl.example/v1; else a database."),
    ] = None,
    server_id: Annotated[
        str | None, typer.Option("--server-id", metavar="HEX", help="The server_id you pinned, 64 hex digits.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="VKEY", help="The log's verifier key you pinned, or its file.")
    ] = None,
    cosign: Annotated[
        Path | None,
        typer.Option("--cosign", metavar="KEYFILE", help="Add this witness's signature to the head that is kept."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Look once and end, as from cron.")] = False,
    every: Annotated[
        float, typer.Option("--every", metavar="S", min=1, max=86_400, help="Seconds between two looks.")
    ] = 60.0,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Follow the signed heads of a log, and refuse one that does not go on from the last.

    Needs a pinned server_id or key, and nothing secret. The file that it keeps is a signed note: compare it with those
    of others, and hand it to  qflare audit verify --since.
    """
    import asyncio

    from qflare.cli.exits import ExitCode
    from qflare.cli.output import say_error
    from qflare.errors import ConfigError, LogForkError

    pinned, pinned_key = parse_server_id(server_id), None if key is None else read_key(key)
    if (pinned is None) == (pinned_key is None):
        raise ConfigError("pin the log by one of --server-id and --key: what it shows vouches for nobody")
    if url is not None and (dsn is not None or data_dir is not None):
        raise ConfigError("--url is a log over HTTP, --dsn and --data-dir are of a database: give one")
    if url is None:
        from qflare.cli.managing import require_server

        require_server()

    def opened() -> AbstractAsyncContextManager[WitnessSource]:
        if url is None:
            return _database(dsn, data_dir, pinned, pinned_key)
        from qflare.service.watching import open_http_log

        return open_http_log(url, server_id=pinned, key=pinned_key)

    try:
        with _signing(cosign) as sign:
            asyncio.run(_follow(keep, opened, sign, every_s=None if once else every, as_json=as_json))
    except LogForkError as failure:
        say_error(type(failure).__name__, str(failure), as_json=as_json)
        raise typer.Exit(ExitCode.FORKED) from None


def witness_key(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="What the witness is called, such as witness.example.org/w1.")
    ],
    *,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="A new file, which becomes yours alone.")],
    as_json: options.Json = False,
) -> None:
    """Make a key with which  qflare audit watch --cosign  signs, and print its verifier key.

    Hand the verifier key to those who shall believe this witness; the file holds the signing key.
    """
    from qflare.cli.output import emit
    from qflare.service.witness_key import make_witness_key

    public = make_witness_key(output, name)
    facts: dict[str, object] = {"written": str(output), "verifier_key": public.encode()}
    emit(facts, as_json=as_json, text=public.encode())


@contextmanager
def _signing(path: Path | None) -> Iterator[Callable[[str], str] | None]:
    if path is None:
        yield None
        return
    from qflare.clock import SystemClock
    from qflare.service.witness_key import open_witness_key

    clock = SystemClock()
    with open_witness_key(path) as key:
        yield lambda note: key.cosign(note, time_s=clock.now_s())


@asynccontextmanager
async def _database(
    dsn: str | None, data_dir: Path | None, server_id: bytes | None, key: LogKey | None
) -> AsyncIterator[WitnessSource]:
    from qflare.cli.managing import choose_dsn
    from qflare.service.auditing import open_audit
    from qflare.service.watching import DatabaseLog

    async with open_audit(choose_dsn(dsn), data_dir, server_id=server_id) as audit:
        yield DatabaseLog(audit, server_id=server_id, key=key)


async def _follow(
    keep: Path,
    opened: Callable[[], AbstractAsyncContextManager[WitnessSource]],
    sign: Callable[[str], str] | None,
    *,
    every_s: float | None,
    as_json: bool,
) -> None:
    """Look at the log again and again, or once."""
    import asyncio

    from qflare.cli.output import say_error
    from qflare.errors import StoreUnavailableError
    from qflare.service.watching import KeptHead

    kept = KeptHead(keep)
    while True:
        try:
            # Opened anew each time: a database or a server that was away is no reason to end.
            async with opened() as source:
                _say(await kept.follow(source, cosign=sign), as_json=as_json, always=every_s is None)
        except StoreUnavailableError as failure:
            if every_s is None:
                raise
            say_error(type(failure).__name__, str(failure), as_json=as_json)
        if every_s is None:
            return
        await asyncio.sleep(every_s)


def _say(seen: Seen, *, as_json: bool, always: bool) -> None:
    from qflare.cli.output import emit
    from qflare.clock import utc

    before = 0 if seen.before is None else seen.before.size
    if not always and seen.before is not None and before == seen.checkpoint.size:
        return
    facts: dict[str, object] = {
        "size": seen.checkpoint.size,
        "before": before,
        "root": seen.checkpoint.root,
        "signed_at": utc(seen.checkpoint.time_s).isoformat(),
        "first_time": seen.before is None,
    }
    how = "seen for the first time" if seen.before is None else f"goes on from {before:,}"
    emit(facts, as_json=as_json, text=f"{seen.checkpoint.size:,} entries, root {seen.checkpoint.root.hex()}: {how}")
