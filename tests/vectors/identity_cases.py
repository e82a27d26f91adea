"""notation.json and identity.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.primitives.hash import transcript
from qflare.primitives.kdf import expand, extract
from qflare.protocol.identity import device_ref

from .stream import draw
from .world import BUCKETS, LOG_ORIGIN, WIDTH_S, bucket_kem_seed, make_world

if TYPE_CHECKING:
    from .stream import Value


def notation_cases() -> list[Value]:
    """H, Extract, Expand."""
    part_lists = [
        [],
        [b""],
        [b"abc"],
        [b"ab", b"c"],
        [b"QFX/1 hello", b"\x00\x01", draw("part", 64), draw("long part", 3148)],
    ]
    cases: list[Value] = [{"function": "H", "parts": list(parts), "result": transcript(*parts)} for parts in part_lists]
    for salt_size, ikm_size in ((64, 32), (64, 64), (64, 0)):
        salt, ikm = draw(f"salt {salt_size}", salt_size), draw(f"ikm {ikm_size}", ikm_size)
        cases.append({"function": "Extract", "salt": salt, "ikm": ikm, "result": extract(salt, ikm)})
    for label, ctx_size, n in (
        ("m1", 64, 32),
        ("bucket", 24, 64),
        ("pre", 64, 16),
        ("map", 0, 64),
        ("key", 9 + 64, 64),
    ):
        key, ctx = draw("expand key", 64), draw(f"ctx {ctx_size}", ctx_size)
        cases.append(
            {"function": "Expand", "key": key, "label": label, "ctx": ctx, "n": n, "result": expand(key, label, ctx, n)}
        )
    return cases


def identity_cases() -> list[Value]:
    """server_id, CERT, announcements, ref."""
    world = make_world()
    certificate = world.certificate
    server: Value = {
        "root_signing_seed": draw("root", 32),
        "announce_signing_seed": draw("announce", 32),
        "log_signing_seed": draw("log", 32),
        "server_id": world.server_id,
        "serial": certificate.serial,
        "first_b": certificate.first_bucket,
        "last_b": certificate.last_bucket,
        "log_origin": LOG_ORIGIN,
        "served": world.identity.served,
        "announcements": [
            {
                "b": bucket,
                "width": WIDTH_S,
                "bucket_kem_seed": draw(bucket_kem_seed(bucket), 64),
                "ticket_key": draw(f"ticket key {bucket}", 32),
                "body_hash": world.keyring[bucket].announcement.body_hash,
                "announcement": world.keyring[bucket].announcement.encoded,
            }
            for bucket in BUCKETS
        ],
        "refs": [
            {
                "tenant_id": draw("tenant", 16),
                "device_id": name,
                "ref": device_ref(draw("tenant", 16), name),
            }
            for name in ("a", "pump-7 ü", "装置" * 42)
        ],
    }
    return [server]
