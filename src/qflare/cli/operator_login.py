"""The operator who runs a command: their name, and the secret that shows that it is them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from qflare.service.key_manager import QuantumKeyManager

By: TypeAlias = Annotated[str, typer.Option("--by", metavar="NAME", help="The operator who asks.")]
SecretFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--secret-file", metavar="FILE", help="The operator's secret; else it is typed unseen."),
]


async def authenticate(manager: QuantumKeyManager, by: str, secret_file: Path | None) -> None:
    """Raise `AuthenticationError` unless whoever runs the command has the operator's secret."""
    from qflare.cli.passphrase import read_passphrase
    from qflare.errors import AuthenticationError
    from qflare.service.operator_secret import decode_secret

    option = "--secret-file"
    with (
        read_passphrase(secret_file, is_new=False, what="operator's secret", option=option) as typed,
        typed.view() as it,
    ):
        # SAFETY: base32 is decoded from text, which cannot be wiped; it lives to the end of this call.
        made = decode_secret(bytes(it).decode(errors="replace"))
    with made.secret as secret:
        if made.tenant_id != manager.tenant or not await manager.check_operator(by, secret):
            raise AuthenticationError
