"""`qflare audit prove`: a proof of one entry, for somebody to keep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qflare.cli import options
from qflare.cli.audit_files import parse_server_id, read_key

if TYPE_CHECKING:
    from qflare.protocol.log_key import LogKey


def prove(
    index: Annotated[int, typer.Argument(metavar="INDEX", min=0, help="The entry's index.")],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="A new file, NAME.tlog-proof; else stdout.")
    ] = None,
    server_id: Annotated[
        str | None, typer.Option("--server-id", metavar="HEX", help="The server_id you pinned, 64 hex digits.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="VKEY", help="The log's verifier key you pinned, or its file.")
    ] = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Prove that an entry is in the log, as a .tlog-proof (C2SP) that holds without the database.

    Needs read access alone. Holds hashes and a signature, and nothing of what the entry says.
    """
    import asyncio

    from qflare.cli.managing import choose_dsn, require_server
    from qflare.cli.output import emit

    pinned, pinned_key = parse_server_id(server_id), None if key is None else read_key(key)
    require_server()
    text = asyncio.run(_prove(index, choose_dsn(dsn), data_dir, pinned, pinned_key))
    if output is not None:
        from qflare.service.exports import new_file

        with new_file(output) as file:
            file.write(text.encode())
        emit({"written": str(output), "index": index}, as_json=as_json)
    else:
        emit({"index": index, "proof": text}, as_json=as_json, text=text.removesuffix("\n"))


async def _prove(
    index: int, dsn: str | None, data_dir: Path | None, server_id: bytes | None, key: LogKey | None
) -> str:
    from qflare.service.auditing import open_audit
    from qflare.service.proving import prove_entry

    async with open_audit(dsn, data_dir, server_id=server_id) as audit:
        return await prove_entry(audit, index, audit.keys if key is None else (key,))
