"""`qflare identity`: the server's own root, certificate and keys (PROTOCOL A1)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qflare.cli import listing, options

if TYPE_CHECKING:
    from qflare.manager.certificates import IdentityReport
    from qflare.protocol.identity import Certificate

FILE_BYTES_MAX = 16 * 2**10
"""A request or certificate has at most some 7,600 bytes."""
ROOT_KEY_BYTES = 2592
"""Root vk in front of CERT, as the identity is served."""

app = typer.Typer(name="identity", help="The server's root, certificate and keys.", no_args_is_help=True)

Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; stands in the log.")]
Compromised = Annotated[
    bool, typer.Option("--compromised", help="The keys before are known to others: end them at once, without overlap.")
]
Passphrase = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="FILE", help="First line is the passphrase; else it is typed unseen."),
]


@app.callback()
def _group() -> None:
    """The server's root, certificate and keys."""


@app.command("show")
def show(*, dsn: options.Dsn = None, data_dir: options.DataDir = None, as_json: options.Json = False) -> None:
    """Show the certificate in force and every key with its state."""
    import asyncio

    from qflare.cli.managing import open_manager
    from qflare.cli.output import aligned, emit

    async def run() -> IdentityReport:
        async with open_manager(dsn, data_dir) as manager:
            return await manager.get_identity_report()

    report = asyncio.run(run())
    facts = _facts(report.certificate) | {
        "bucket": report.bucket,
        "current_from": report.current_from,
        "root": "offline" if report.is_root_offline else "in the database",
    }
    keys = [
        {
            "serial": key.serial,
            "kind": key.kind.value,
            "state": key.state.value,
            "since": key.changed_at.isoformat(timespec="seconds"),
            "reason": key.reason,
            "signing_key": key.has_signing_key,
            "key_id": key.key_id,
        }
        for key in report.keys
    ]
    lines = [
        f"{key.serial:>6}  {key.kind.value:8}  {key.state.value:11}  {key.changed_at:%Y-%m-%d %H:%M:%S}  {key.reason}"
        for key in report.keys
    ]
    emit(facts | {"keys": keys}, as_json=as_json, text="\n".join((aligned(facts), "", *lines)))


@app.command("rotate")
def rotate(
    *,
    reason: Reason,
    compromised: Compromised = False,
    call_id: options.CallId = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Replace announce and log key, with the root in the database."""
    import asyncio

    from qflare.cli.managing import open_manager
    from qflare.cli.output import emit

    change = listing.parse_call_id(call_id)

    async def run() -> Certificate:
        async with open_manager(dsn, data_dir) as manager:
            return await manager.rotate_identity(reason=reason, is_compromised=compromised, call_id=change)

    emit(_facts(asyncio.run(run())), as_json=as_json)


@app.command("export-root")
def export_root(
    *,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="New file for the sealed root, 0600.")],
    passphrase_file: Passphrase = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Then remove the root from the database: it is offline from now on.")
    ] = False,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Write the root's signing key to a file, sealed under a passphrase."""
    import asyncio

    from qflare.cli.managing import open_manager
    from qflare.cli.output import emit
    from qflare.cli.passphrase import read_passphrase
    from qflare.cli.tokens import require_new
    from qflare.service.passphrase_key import require_passphrase
    from qflare.service.root_file import write_root

    require_new(output)
    with read_passphrase(passphrase_file, is_new=True) as passphrase:
        require_passphrase(passphrase)

        async def run() -> bytes:
            async with open_manager(dsn, data_dir) as manager:
                with await manager.export_root() as root:
                    # Written, made durable and read back: only then may the database forget it.
                    await asyncio.to_thread(write_root, output, root, passphrase)
                if remove:
                    await manager.remove_root()
                return await manager.server_id()

        server_id = asyncio.run(run())
    emit({"server_id": server_id, "output": str(output), "removed_from_database": remove}, as_json=as_json)


@app.command("request")
def request(
    *,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="New file for what the root has to sign.")],
    reason: Reason,
    compromised: Compromised = False,
    call_id: options.CallId = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Make the next keys, and write what the offline root has to sign for them."""
    import asyncio

    from qflare.cli.managing import open_manager
    from qflare.cli.output import emit
    from qflare.cli.tokens import require_new
    from qflare.protocol.identity import decode_certificate_body

    require_new(output)
    change = listing.parse_call_id(call_id)

    async def run() -> tuple[bytes, bytes]:
        async with open_manager(dsn, data_dir) as manager:
            body = await manager.request_certificate(reason=reason, is_compromised=compromised, call_id=change)
            return body, await manager.identity()

    body, served = asyncio.run(run())
    _write_public(output, body)
    facts = _facts(decode_certificate_body(body, root_key=served[:ROOT_KEY_BYTES]))
    emit(facts | {"output": str(output)}, as_json=as_json)


@app.command("sign")
def sign(
    *,
    file: Annotated[Path, typer.Argument(metavar="REQUEST", help="What `identity request` wrote.")],
    root: Annotated[Path, typer.Option("--root", metavar="FILE", help="What `identity export-root` wrote.")],
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="New file for the certificate.")],
    passphrase_file: Passphrase = None,
    as_json: options.Json = False,
) -> None:
    """Sign a request with the exported root; needs no database and no network."""
    from qflare.cli.output import emit
    from qflare.cli.passphrase import read_passphrase
    from qflare.cli.tokens import require_new
    from qflare.service.root_file import read_root, sign_request

    require_new(output)
    body = _read(file)
    with read_passphrase(passphrase_file, is_new=False) as passphrase, read_root(root, passphrase) as key:
        certificate = sign_request(key, body)
    _write_public(output, certificate.encoded)
    emit(_facts(certificate) | {"output": str(output)}, as_json=as_json)


@app.command("import")
def import_certificate(
    *,
    file: Annotated[Path, typer.Argument(metavar="CERTIFICATE", help="What `identity sign` wrote.")],
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Bring a certificate into force that the offline root has signed."""
    import asyncio

    from qflare.cli.managing import open_manager
    from qflare.cli.output import emit

    encoded = _read(file)

    async def run() -> Certificate:
        async with open_manager(dsn, data_dir) as manager:
            return await manager.import_certificate(encoded)

    emit(_facts(asyncio.run(run())), as_json=as_json)


def _facts(certificate: Certificate) -> dict[str, object]:
    import hashlib

    from qflare.protocol.log_key import LogKey

    return {
        "server_id": certificate.server_id,
        "serial": certificate.serial,
        "first_bucket": certificate.first_bucket,
        "last_bucket": certificate.last_bucket,
        "log_origin": certificate.log_origin,
        "announce_key_id": hashlib.sha256(certificate.announce_key).digest(),
        "log_key_id": hashlib.sha256(certificate.log_key).digest(),
        "log_verifier_key": LogKey.of(certificate).encode(),
    }


def _read(path: Path) -> bytes:
    from qflare.errors import ConfigError

    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as failure:
        raise ConfigError(f"cannot read {path}: {failure.strerror}") from None
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"{path} is too long for what it should be: name the file that qflare wrote")
    return content


def _write_public(path: Path, content: bytes) -> None:
    import os

    from qflare.errors import ConfigError

    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError as failure:
        raise ConfigError(f"cannot write {path}: {failure.strerror}; name a new file in a folder you own") from None
