"""Where a witness sees a log, the database or an aggregator's addresses; and the file in which it keeps a head."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from qflare.errors import (
    AuthenticationError,
    ConfigError,
    DecodeError,
    EvidenceError,
    KeyNotFoundError,
    MissingExtraError,
    OtherLogError,
    ServerIdentityError,
    StoreUnavailableError,
)
from qflare.monitor.witness import Seen, WitnessSource, look
from qflare.protocol.checkpoint import NOTE_BYTES_MAX, NoteBody, decode_note_body, encode_note, find_signature
from qflare.protocol.identity import decode_identity
from qflare.protocol.log import HASH_BYTES
from qflare.protocol.log_key import LogKey, verify_under
from qflare.protocol.tile import WIDTH, Tile, nodes_from_tiles, tile_of
from qflare.service.auditing import Audit, decode_identities
from qflare.service.state_file import write_owned

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    import httpx

    from qflare.protocol.log import Node

TIMEOUT_S: Final = 30.0
_IDENTITY_BYTES_MAX: Final = 1 << 16
_HTTP_OK: Final = 200
_HTTP_NOT_FOUND: Final = 404


class DatabaseLog:
    """A log as its database shows it."""

    def __init__(self, audit: Audit, *, server_id: bytes | None, key: LogKey | None) -> None:
        self._audit = audit
        self._server_id = server_id
        self._key = key

    async def keys(self) -> Sequence[LogKey]:
        """Return the log keys that the pin vouches for now."""
        if self._key is not None:
            return (self._key,)
        found = decode_identities(await self._audit.log.identities(), self._server_id)
        return tuple(LogKey.of(identity.certificate) for identity in found)

    async def note(self) -> str:
        """Return the latest signed head as a signed note."""
        head = await self._audit.log.latest_checkpoint()
        if head is None:
            raise KeyNotFoundError("the log has no signed head yet: a worker signs one soon after the first entry")
        try:
            key = verify_under(await self.keys(), head)
        except AuthenticationError:
            raise EvidenceError("the signature of the latest head does not hold under a key of this log") from None
        return encode_note(key.origin, key.key, head)

    async def find_nodes(self, nodes: Sequence[Node], *, size: int) -> dict[Node, bytes]:  # noqa: ARG002 - all sizes
        """Return hashes of complete nodes."""
        return await self._audit.log.find_nodes(nodes)


class HttpLog:
    """A log as it is published: identity, checkpoint and tiles below one address (docs/http.md)."""

    def __init__(self, client: httpx.AsyncClient, url: str, *, server_id: bytes | None, key: LogKey | None) -> None:
        self._client = client
        self._url = url.rstrip("/")
        self._server_id = server_id
        self._key = key
        self._in_force: LogKey | None = None

    async def keys(self) -> Sequence[LogKey]:
        """Return the log key in force, under the pin."""
        if self._key is not None:
            return (self._key,)
        if self._server_id is None:
            raise ConfigError("pin the log by its server_id or its verifier key: an address vouches for nobody")
        served = await self._get("identity", size_max=_IDENTITY_BYTES_MAX)
        try:
            self._in_force = LogKey.of(decode_identity(served, server_id=self._server_id).certificate)
        except ServerIdentityError as failure:
            raise OtherLogError(str(failure)) from None
        except AuthenticationError:
            raise EvidenceError("the certificate that the server shows was altered") from None
        return (self._in_force,)

    async def note(self) -> str:
        """
        Return the latest signed head as a signed note, unverified.

        Raises:
            StoreUnavailableError: it is by another key of this log than the certificate's: the log key changed just
                now, and one of both was fetched too early, or comes from a cache.
        """
        try:
            shown = (await self._get("checkpoint", size_max=NOTE_BYTES_MAX)).decode()
        except UnicodeDecodeError:
            raise DecodeError("what the server shows as its checkpoint is no signed note") from None
        key = self._in_force
        if key is not None and decode_note_body(shown).origin == key.origin:
            try:
                find_signature(shown, key.origin, key.key)
            except OtherLogError:
                raise StoreUnavailableError(
                    "the head that the server shows is not signed by the log key of the certificate that it shows, as "
                    "for minutes after the key changed: look again; if it stays so, alert the operator"
                ) from None
        return shown

    async def find_nodes(self, nodes: Sequence[Node], *, size: int) -> dict[Node, bytes]:
        """Return hashes of complete nodes, from tiles; the whole tile where the partial one is gone."""
        tiles: dict[Tile, bytes] = {}
        for tile in dict.fromkeys(tile_of(node, size) for node in nodes):
            tiles[tile] = await self._tile(tile)
        return nodes_from_tiles(nodes, size, tiles)

    async def _tile(self, tile: Tile) -> bytes:
        try:
            return await self._get(tile.path, size_max=WIDTH * HASH_BYTES)
        except KeyNotFoundError:
            if tile.width == WIDTH:
                raise EvidenceError(f"the log does not show its tile {tile.path}") from None
        try:
            whole = await self._get(replace(tile, width=WIDTH).path, size_max=WIDTH * HASH_BYTES)
        except KeyNotFoundError:
            raise EvidenceError(f"the log does not show its tile {tile.path}") from None
        return whole[: tile.width * HASH_BYTES]

    async def _get(self, path: str, *, size_max: int) -> bytes:
        import httpx

        body = bytearray()
        try:
            async with self._client.stream("GET", f"{self._url}/{path}") as response:
                if response.status_code == _HTTP_NOT_FOUND:
                    raise KeyNotFoundError(f"the server has no {path}")
                if response.status_code != _HTTP_OK:
                    raise StoreUnavailableError(f"the server answered {path} with status {response.status_code}")
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > size_max:
                        raise DecodeError(f"what the server shows as {path} is longer than any")
        except httpx.HTTPError as failure:
            raise StoreUnavailableError(f"the server cannot be reached: {type(failure).__name__}") from None
        return bytes(body)


@asynccontextmanager
async def open_http_log(url: str, *, server_id: bytes | None, key: LogKey | None) -> AsyncIterator[HttpLog]:
    """
    Open what an aggregator publishes.

    Args:
        url: The address with the prefix, such as ``https://fl.example/v1``.
        server_id: The pinned one.
        key: The log's verifier key instead.

    Raises:
        ConfigError: the address cannot be used.
        MissingExtraError: httpx is not installed.
    """
    try:
        import httpx
    except ImportError:
        raise MissingExtraError(feature="watching over HTTP", extra="http", package="httpx") from None
    if not url.startswith(("https://", "http://")):
        raise ConfigError(f"the address of a log begins with https:// or http://, got {url!r}")
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
        yield HttpLog(client, url, server_id=server_id, key=key)


class KeptHead:
    """The file in which a witness keeps the last head that it accepted, as a signed note; 0600, replaced whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> NoteBody | None:
        """
        Return what is kept, None before the first time.

        Raises:
            ConfigError: the file cannot be read.
            DecodeError: it holds no signed note.
        """
        try:
            with self.path.open("rb") as file:
                return decode_note_body(file.read(NOTE_BYTES_MAX).decode())
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            raise DecodeError(f"{self.path} holds no signed note") from None
        except OSError as failure:
            raise ConfigError(f"cannot read {self.path}: {failure.strerror}") from None

    async def follow(self, source: WitnessSource, *, cosign: Callable[[str], str] | None = None) -> Seen:
        """
        Look at the log, and keep its head; errors as `look`, and what was kept stands.

        Args:
            source: The log.
            cosign: Adds a witness's line to the note, at every look: it says when the head was still the largest.
        """
        seen = await look(source, self.load())
        if cosign is not None:
            write_owned(self.path, cosign(seen.note).encode())
        elif seen.before is None or seen.checkpoint.size > seen.before.size:
            write_owned(self.path, seen.note.encode())
        return seen
