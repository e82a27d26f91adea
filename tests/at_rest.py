"""
What an adversary reads out of stolen media: backups, dumps, write-ahead log and raw files of PostgreSQL.

It needs no associated data: AES-GCM without its tag is AES-CTR, so every value that looks sealed is decrypted under
every key at hand, and what comes out is tried on the traffic.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from adversary import Loot
from peer.notation import Refused, h, u64, unseal
from peer.record import PURPOSE, REPLY
from peer.ticket import HELLO, OFFER, open_ticket
from qflare.primitives import kdf
from qflare.primitives.kem import generate_from_seed
from qflare.secret import SecretBytes
from qflare.stores.embedded import binaries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from adversary import Traffic

OVERHEAD = 29
"""Format, nonce and tag of a sealed value (docs/architecture.md)."""
_WAL_PAGE, _SHORT_HEAD, _LONG_HEAD = 8192, 24, 40
_SHORT_VARLENA_MAX = 126
_CHUNK, _INLINE_MAX = 1996, 2000
"""Of values that PostgreSQL stores outside their rows (TOAST, pages of 8 KiB)."""


def program(name):
    """Return the path of one of PostgreSQL's programs in the wheel."""
    return str(binaries.installed_binaries()[0].folder / name)


def run(name, *arguments):
    """Run one of PostgreSQL's programs."""
    done = subprocess.run([program(name), *map(str, arguments)], capture_output=True, timeout=120, check=False)
    assert 0 == done.returncode, done.stderr.decode()
    return done.stdout


def looks_sealed(value: bytes) -> bool:
    """Whether a value may be ``1 ‖ nonce ‖ ciphertext ‖ tag``."""
    return value[:1] == b"\x01" and len(value) > OVERHEAD


async def sealed_values(dsn: str) -> set[bytes]:
    """Every value of every bytea column that looks sealed, found by the catalogue."""
    connection = await asyncpg.connect(dsn, timeout=30)
    try:
        # The catalogue itself writes the statements, so that names are quoted by the one who knows how.
        statements = await connection.fetch(
            "SELECT format('SELECT %I FROM %I.%I WHERE %I IS NOT NULL',"
            "              c.column_name, c.table_schema, c.table_name, c.column_name)"
            " FROM information_schema.columns AS c"
            " JOIN information_schema.tables AS t USING (table_schema, table_name)"
            " WHERE c.udt_name = 'bytea' AND t.table_type = 'BASE TABLE' AND c.table_schema = 'qflare'"
        )
        assert statements
        found = set()
        for (statement,) in statements:
            found |= {value for (value,) in await connection.fetch(statement) if looks_sealed(value)}
    finally:
        await connection.close()
    return found


def values_of_dump(dump: bytes) -> set[bytes]:
    """Every bytea of a plain-text dump that looks sealed."""
    return {bytes.fromhex(found.decode()) for found in re.findall(rb"\\\\x(01(?:[0-9a-f]{2}){29,})", dump)}


def wal_records(segment: bytes) -> bytes:
    """The records of a segment without the heads of its pages, which cut through values."""
    pages = (segment[at : at + _WAL_PAGE] for at in range(0, len(segment), _WAL_PAGE))
    return b"".join(page[_LONG_HEAD if not number else _SHORT_HEAD :] for number, page in enumerate(pages))


def raw_values(folders: Iterable[Path], sizes: Iterable[int]) -> set[bytes]:
    """Every value of these *sizes* in any file below *folders*, by PostgreSQL's length in front: old row versions too."""
    heads = {}
    for size in sizes:
        head = bytes([(size + 1) << 1 | 1]) if size < _SHORT_VARLENA_MAX else ((size + 4) << 2).to_bytes(4, "little")
        heads[size] = head + b"\x01"
    found: set[bytes] = set()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if not path.is_file():
                continue
            content = path.read_bytes()
            if re.fullmatch(r"[0-9A-F]{24}(\.partial)?", path.name):
                content = wal_records(content)
            for size, head in heads.items():
                for at in positions(content, head):
                    start = at + len(head) - 1
                    found.add(content[start : start + size])
            found |= chunked_values(content, [size for size in heads if size > _INLINE_MAX])
    return {value for value in found if looks_sealed(value)}


def positions(content: bytes, pattern: bytes) -> Iterator[int]:
    """Where *pattern* begins."""
    at = content.find(pattern)
    while at >= 0:
        yield at
        at = content.find(pattern, at + 1)


def chunked_values(content: bytes, sizes: Iterable[int]) -> set[bytes]:
    """Values that were moved out of their rows in chunks, each behind its value's id, its number and its length."""
    chunks: dict[int, dict[int, bytes]] = {}
    for length in {_CHUNK, *(size % _CHUNK for size in sizes)} if sizes else ():
        head = (
            bytes([(length + 1) << 1 | 1]) if length < _SHORT_VARLENA_MAX else ((length + 4) << 2).to_bytes(4, "little")
        )
        for at in positions(content, head):
            start = at + len(head)
            owner, number = (int.from_bytes(content[at - back : at - back + 4], "little") for back in (8, 4))
            if at >= 8 and number < 1 << 12:
                chunks.setdefault(owner, {}).setdefault(number, content[start : start + length])
    found = set()
    for parts in chunks.values():
        value = b"".join(parts[number] for number in range(len(parts)) if number in parts)
        if 0 in parts and looks_sealed(value):
            found.add(value)
    return found


def decrypt(key: bytes, sealed: bytes) -> bytes:
    """Decrypt without looking at the tag."""
    counter = sealed[1:13] + b"\x00\x00\x00\x02"
    return Cipher(algorithms.AES(key), modes.CTR(counter)).decryptor().update(sealed[13:-16])


def keks_of(volatile: Path) -> dict[int, bytes]:
    """The bucket keys in a copy of the file keeper's folder."""
    prefix = "kek-b-"
    return {int(path.name.removeprefix(prefix)): path.read_bytes() for path in volatile.glob(f"{prefix}*")}


def loot_of(traffic: Traffic, values: set[bytes], keks: dict[int, bytes], **held) -> Loot:
    """Try every value under every key, and keep what the traffic shows to be right."""
    loot = Loot(**held)
    first = {}
    replies = [sealed for sealed in traffic.records if sealed[2] == REPLY]
    for sealed in traffic.records:
        if sealed[2] != REPLY:
            epoch, b = int.from_bytes(sealed[27:31], "big"), int.from_bytes(sealed[19:27], "big")
            first.setdefault((sealed[3:19], epoch, b), (sealed, h(sealed[:48], b"")))
    for bucket, kek in keks.items():
        for value in values:
            plaintext = decrypt(kek, value)
            if len(plaintext) == 32 and bucket not in loot.tks:
                _try_ticket_key(traffic, loot, bucket, plaintext)
            if len(plaintext) % 64 == 0:
                for at in range(0, len(plaintext), 64):
                    _try_secret(traffic, loot, bucket, plaintext[at : at + 64], first)
                    _try_reply_key(loot, plaintext[at : at + 64], replies)
    return loot


def _try_ticket_key(traffic: Traffic, loot: Loot, bucket: int, key: bytes) -> None:
    tickets = [(HELLO, m2[1616:]) for *_, m2, _ in traffic.hellos]
    tickets += [(OFFER, message[1610:]) for _, message, _ in traffic.offers]
    for form, ticket in tickets:
        try:
            open_ticket(ticket, {bucket: key}, form=form, now=0)
        except Refused:
            continue
        loot.tks[bucket] = key
        return


def _try_secret(traffic: Traffic, loot: Loot, bucket: int, secret: bytes, first: dict) -> None:
    if bucket not in loot.dks and bucket in traffic.bodies:
        pair = generate_from_seed(secret)
        if pair.encapsulation_key in traffic.bodies[bucket]:
            loot.dks[bucket] = bytes(pair.decapsulation_key.view())
            return
    for (sid, epoch, b), (sealed, bound) in _records_at(first, bucket):
        if (sid, bucket) in loot.chain_keys if not epoch else (sid, epoch, bucket) in loot.epochs:
            continue
        # By the C core, since hundreds of thousands are tried; what opens is computed again by the second implementation.
        key = kdf.chain_advance(secret, sid, bucket, b)
        message_key = kdf.message_key(key, b, sealed[31], PURPOSE[sealed[2]].encode())
        try:
            unseal(kdf_bytes(message_key, sealed), sealed[48:], bound, u64(0) + bytes(3) + b"\x01")
        except Refused:
            continue
        if epoch:
            loot.epochs[sid, epoch, bucket] = secret
        else:
            loot.chain_keys[sid, bucket] = secret
        return


def _try_reply_key(loot: Loot, secret: bytes, replies: list[bytes]) -> None:
    for sealed in replies:
        if (sealed[3:19], sealed[48:64]) in loot.reply_keys:
            continue
        with SecretBytes.copy_of(secret) as rk:
            key = kdf_bytes(rk, sealed)
        try:
            unseal(key, sealed[64:], h(sealed[:64], b""), u64(0) + bytes(3) + b"\x01")
        except Refused:
            continue
        loot.reply_keys[sealed[3:19], sealed[48:64]] = secret
        return


def kdf_bytes(message_key, sealed: bytes) -> bytes:
    """The stream key of a record (R3)."""
    return bytes(kdf.expand(message_key, "stream", sealed[32:48], 32).view())


def _records_at(first: dict, bucket: int) -> Iterator[tuple[tuple[bytes, int, int], tuple[bytes, bytes]]]:
    """Each session's and epoch's first record from *bucket* on."""
    nearest: dict[tuple[bytes, int], int] = {}
    for sid, epoch, b in first:
        if b >= bucket and b < nearest.get((sid, epoch), b + 1):
            nearest[sid, epoch] = b
    for (sid, epoch), b in nearest.items():
        yield (sid, epoch, b), first[sid, epoch, b]
