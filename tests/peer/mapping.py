"""Section K: mappings, both sides."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from .notation import (
    CT,
    SIG44,
    SUITE,
    KemKey,
    Reader,
    SigKey,
    encaps,
    expand,
    extract,
    h,
    require,
    u16,
    u32,
    u64,
    verify,
)  # fmt: skip
from .record import turn

DESC_SIZE, STEPS_MAX = 1706, 1 << 20


@dataclass
class Mapping:
    """One side of a mapping: CK of the descriptor's bucket."""

    mapping_id: bytes
    generation: int
    b: int
    width: int
    chain_key: bytes

    def key(self, b: int, purpose: str) -> bytes:
        """K2."""
        require(self.b <= b <= self.b + STEPS_MAX, "bucket")
        key = self.chain_key
        for step in range(self.b + 1, b + 1):
            key = turn(key, step, self.mapping_id)
        return expand(key, "map key", u64(b) + purpose.encode("ascii"), 64)


def chain_key_of(desc: bytes, ss: bytes) -> bytes:
    """CK_b of K1."""
    return expand(extract(h(desc), ss), "map", b"", 64)


def make_mapping(
    *, ek_d: bytes, ref: bytes, server: SigKey, b: int, width: int = 300, generation: int = 1
) -> tuple[bytes, Mapping]:
    """K1, the server's side: returns the descriptor and the mapping."""
    ct, ss = encaps(ek_d)
    mapping_id = secrets.token_bytes(16)
    desc = (
        b"QFX1-MAP" + u16(SUITE) + mapping_id + u32(generation) + u64(b) + u32(width) + ref
        + h(server.vk)[:32] + h(ek_d)[:32] + ct
    )  # fmt: skip
    mapping = Mapping(mapping_id, generation, b, width, chain_key_of(desc, ss))
    return desc + server.sign(h(desc), "QFX1 map"), mapping


def take_mapping(descriptor: bytes, *, kem: KemKey, ref: bytes, server_vk: bytes) -> Mapping:
    """K1, the device's side; *server_vk* is pinned."""
    desc, reader = descriptor[:DESC_SIZE], Reader(descriptor)
    require(reader.take(8) == b"QFX1-MAP", "magic")
    require(reader.integer(2) == SUITE, "suite")
    mapping_id, generation = reader.take(16), reader.integer(4)
    b, width = reader.integer(8), reader.integer(4)
    named_ref, named_vk, named_ek = reader.take(32), reader.take(32), reader.take(32)
    ct, signature = reader.take(CT), reader.take(SIG44)
    reader.end()
    require(width >= 1, "width")
    require(generation >= 1, "generation")
    require(named_ref == ref, "ref")
    require(named_ek == h(kem.ek)[:32], "ek_D")
    require(named_vk == h(server_vk)[:32], "vk_S")
    verify(server_vk, h(desc), signature, "QFX1 map")
    return Mapping(mapping_id, generation, b, width, chain_key_of(desc, kem.decaps(ct)))
