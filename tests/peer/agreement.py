"""H9 and H10: what both sides share once M3 or ANSWER is done, the leaf, the receipt and M4."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .notation import (
    SIG44,
    SUITE,
    VERSION,
    Reader,
    Refused,
    SigKey,
    expand,
    h,
    message,
    require,
    u8,
    u16,
    u32,
    u64,
    verify,
)  # fmt: skip

if TYPE_CHECKING:
    from .identity import Device

PATH_MAX = 48


@dataclass
class Agreement:
    """ck2, th3 and the terms; the same on both sides."""

    form: int
    server_id: bytes
    sid: bytes
    tenant_id: bytes
    ref: bytes
    key_version: int
    hdr_b: int
    start: int
    lifetime: int
    policy: int
    ck2: bytes
    th3: bytes

    @property
    def device_tag(self) -> bytes:
        """H7."""
        return expand(self.ck2, "fin d", self.th3, 32)

    @property
    def server_tag(self) -> bytes:
        """H9."""
        return expand(self.ck2, "fin s", self.th3, 32)

    @property
    def who_key(self) -> bytes:
        """The part of the evidence that names the parties (H9)."""
        return expand(self.ck2, "who", self.th3, 32)

    @property
    def chain_key(self) -> bytes:
        """CK_start (H10)."""
        return expand(self.ck2, "chain", self.th3, 64)

    @property
    def leaf_entry(self) -> bytes:
        """H9, 165 bytes."""
        who = h("who", self.tenant_id, self.ref, u32(self.key_version), self.who_key)[:32]
        return (
            b"QFX1 LEAF" + u8(1) + u8(self.form) + u16(SUITE) + self.server_id + self.sid
            + u64(self.start) + h(self.th3) + who
        )  # fmt: skip


def leaf_hash(entry: bytes) -> bytes:
    """RFC 9162, section 2.1.1."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 9162, section 2.1.1."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_hash(leaves: list[bytes]) -> bytes:
    """The root over leaf hashes (RFC 9162, section 2.1.1)."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return node_hash(root_hash(leaves[:split]), root_hash(leaves[split:]))


def inclusion_path(leaves: list[bytes], index: int) -> list[bytes]:
    """The path from the leaf's sibling upwards (RFC 9162, section 2.1.3.1)."""
    if len(leaves) == 1:
        return []
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    if index < split:
        return [*inclusion_path(leaves[:split], index), root_hash(leaves[split:])]
    return [*inclusion_path(leaves[split:], index - split), root_hash(leaves[:split])]


def root_from_path(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root that a path leads to (RFC 9162, section 2.1.3.2), or refuse."""
    require(0 <= index < size, "index")
    fn, sn, r = index, size - 1, leaf
    for p in path:
        require(sn != 0, "path too long")
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    require(sn == 0, "path too short")
    return r


def cosigned_message(origin: str, *, time: int, size: int, root: bytes) -> bytes:
    """C2SP tlog-cosignature's message for a checkpoint (H9)."""
    name = u8(len(origin.encode("utf-8"))) + origin.encode("utf-8")
    return b"subtree/v1\n\x00" + name + u64(time) + name + u64(0) + u64(size) + root


def make_receipt(leaves: list[bytes], index: int, *, time: int, log: SigKey, origin: str) -> bytes:
    """A receipt for one leaf of a log held as a list of leaf hashes."""
    path = inclusion_path(leaves, index)
    signed = cosigned_message(origin, time=time, size=len(leaves), root=root_hash(leaves))
    return (
        u64(index) + u64(len(leaves)) + u64(time) + u8(len(path)) + b"".join(path)
        + log.sign(signed, "")
    )  # fmt: skip


def check_receipt(receipt: bytes, entry: bytes, *, log_vk: bytes, origin: str) -> tuple[int, bytes]:
    """Verify a receipt for *entry*; returns the checkpoint's (size, root)."""
    reader = Reader(receipt)
    index, size, time, count = (reader.integer(n) for n in (8, 8, 8, 1))
    require(count <= PATH_MAX, "path length")
    path = [reader.take(32) for _ in range(count)]
    signature = reader.take(SIG44)
    reader.end()
    require(1 <= time < 1 << 63, "time")
    root = root_from_path(leaf_hash(entry), index, size, path)
    verify(log_vk, cosigned_message(origin, time=time, size=size, root=root), signature, "")
    return size, root


def make_m4(agreement: Agreement, receipt: bytes) -> bytes:
    """H9."""
    return u8(4) + u8(VERSION) + agreement.sid + agreement.server_tag + receipt


def take_m4(device: Device, agreement: Agreement, m4: bytes) -> None:
    """H9, the device's side: tag, inclusion, signature, then the marks move."""
    if device.cert is None:
        raise Refused("no CERT yet")
    require(len(m4) > 75, "length")
    reader = message(m4, kind=4, size=2495 + 32 * m4[74])
    require(reader.take(16) == agreement.sid, "sid")
    require(hmac.compare_digest(reader.take(32), agreement.server_tag), "server tag")
    size, root = check_receipt(
        reader.rest, agreement.leaf_entry,
        log_vk=device.cert.log_vk, origin=device.cert.log_origin,
    )  # fmt: skip
    require(size != device.largest[0] or root == device.largest[1], "two roots for one size")
    if size > device.largest[0]:
        device.largest = (size, root)
    device.mark = max(device.mark, agreement.hdr_b - 1)
    device.answers = {th1: kept for th1, kept in device.answers.items() if kept[1] != agreement}
