"""`qflare audit countersign`: the offline root signs a head of the log, for archives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qflare.cli import options
from qflare.cli.audit_files import read_note


def countersign(
    note: Annotated[Path, typer.Argument(metavar="NOTE", help="A signed note that was verified, as watch keeps it.")],
    *,
    root: Annotated[Path, typer.Option("--root", metavar="FILE", help="What `identity export-root` wrote.")],
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="New file for the note with both lines.")],
    passphrase_file: Annotated[
        Path | None, typer.Option("--passphrase-file", metavar="FILE", help="Its passphrase, else typed.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Add the root's ML-DSA-87 signature to a signed note; needs no database and no network.

    Verify the note first: the root says what it is given. `qflare audit verify --since` checks both signatures.
    """
    from qflare.cli.output import emit
    from qflare.cli.passphrase import read_passphrase
    from qflare.manager.signers import signing_key
    from qflare.primitives.sig import SIG87
    from qflare.protocol.checkpoint import decode_note_body
    from qflare.protocol.countersignature import countersign_note
    from qflare.service.exports import new_file
    from qflare.service.root_file import read_root

    text = read_note(note)
    body = decode_note_body(text)
    with (
        new_file(output) as file,
        read_passphrase(passphrase_file, is_new=False) as passphrase,
        read_root(root, passphrase) as key,
        signing_key(SIG87, key.stored, key.root_key) as root_sk,
    ):
        file.write(countersign_note(text, key.root_key, root_sk).encode())
    emit({"written": str(output), "origin": body.origin, "size": body.size, "root": body.root}, as_json=as_json)
