"""The device's side of a hello: M1 out, M2 in, M3 out (H1, H2, H6, H7)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, RefusedError
from qflare.primitives import kem
from qflare.primitives.aead import NONCE_ZERO, open_into, seal
from qflare.primitives.hash import transcript
from qflare.primitives.kdf import expand, extract
from qflare.primitives.sig import SIG44
from qflare.protocol import labels, wire
from qflare.protocol.pending import PendingConfirmation, PendingHello

if TYPE_CHECKING:
    from qflare.protocol.announcement import Announcement
    from qflare.protocol.device_identity import DeviceIdentity
    from qflare.secret import SecretBytes

_M1_HEAD: Final = bytes((wire.TYPE_M1, wire.VERSION)) + wire.SUITE_FIELD
_M2_HEAD: Final = bytes((wire.TYPE_M2, wire.VERSION))
_M3_HEAD: Final = bytes((wire.TYPE_M3, wire.VERSION))
_TERMS: Final = struct.Struct(">QHI")


def start_hello(device: DeviceIdentity, announcement: Announcement) -> PendingHello:
    """
    Make M1.

    Args:
        device: The device's names and keys; stays the caller's.
        announcement: Of the current or the next bucket, checked (A5).

    Returns:
        What is pending until M2; the caller keeps it durably and wipes it.

    Raises:
        EntropyError: the random source failed.
        RefusedError: *announcement* is another server's than the device is pinned to.

    Source: docs/protocol.md, steps H1 and H2.
    """
    require_own_server(device, announcement)
    # H1
    ephemeral = kem.generate()
    try:
        encapsulated = kem.encapsulate(announcement.encapsulation_key)
        header = b"".join(
            (_M1_HEAD, wire.u64(announcement.bucket), ephemeral.encapsulation_key, encapsulated.ciphertext)
        )
        th1 = transcript(labels.HASH_HELLO, wire.SUITE_FIELD, announcement.body_hash, header)
        # H2
        with encapsulated.shared_secret as ss_b:
            ck1 = extract(th1, ss_b)
        try:
            c1 = _seal_name(device, ck1, th1)
        except BaseException:
            ck1.wipe()
            raise
    except BaseException:
        ephemeral.decapsulation_key.wipe()
        raise
    return PendingHello(
        message=header + c1,
        bucket=announcement.bucket,
        th1=th1,
        ck1=ck1,
        decapsulation_key=ephemeral.decapsulation_key,
    )


def accept_hello(pending: PendingHello, m2: bytes, device: DeviceIdentity) -> PendingConfirmation:
    """
    Take M2 and make M3.

    Args:
        pending: From `start_hello`; stays the caller's, who wipes it once this has returned: the first M2 that opens
            is taken, once.
        m2: What came.
        device: The device's names and keys; stays the caller's.

    Returns:
        What is pending until M4, with M3 in it; the caller keeps it durably and wipes it.

    Raises:
        AuthenticationError: *m2* does not open; nothing has changed and the wait goes on.
        RefusedError: *m2* opened, so it is the server's, but its terms cannot be accepted: the handshake is over.

    Source: docs/protocol.md, steps H6 and H7.
    """
    # H6: length, type and version are no secrets; the rest is proven by c2's tag alone.
    if len(m2) != wire.M2_BYTES or m2[: len(_M2_HEAD)] != _M2_HEAD:
        raise AuthenticationError
    sid = bytes(m2[wire.M2_CT_AT - wire.SID_BYTES : wire.M2_CT_AT])
    ct_e = m2[wire.M2_CT_AT : wire.M2_C2_AT]
    c2 = m2[wire.M2_C2_AT : wire.M2_TICKET_AT]
    with (
        kem.decapsulate(pending.decapsulation_key, ct_e) as ss_e,
        extract(pending.ck1, device.psk_view()) as with_psk,
    ):
        ck2 = extract(with_psk, ss_e)
    try:
        th2 = transcript(pending.th1, pending.c1, ct_e, sid)
        terms = bytearray(wire.TERMS_BYTES)
        with expand(ck2, labels.EXPAND_M2, th2, wire.AEAD_KEY_BYTES) as k2:
            open_into(k2, NONCE_ZERO, c2, th2, terms)
        start, lifetime, policy = _check_terms(terms, pending.bucket)
        th3 = transcript(th2, c2)
        # H7
        tag = finished_tag(ck2, th3)
    except BaseException:
        ck2.wipe()
        raise
    return PendingConfirmation(
        form=wire.FORM_HELLO,
        message=b"".join((_M3_HEAD, m2[wire.M2_TICKET_AT :], tag)),
        sid=sid,
        bucket=pending.bucket,
        start=start,
        lifetime=lifetime,
        policy=policy,
        th1=pending.th1,
        th3=th3,
        ck2=ck2,
    )


def finished_tag(ck2: SecretBytes, th3: bytes) -> bytes:
    """Return ``Expand(ck2, "fin d", th3, 32)``, which is sent (H7, O2)."""
    with expand(ck2, labels.EXPAND_FINISHED_DEVICE, th3, wire.FINISHED_BYTES) as tag, tag.view() as view:
        return bytes(view)


def are_terms_known(lifetime: int, policy: int) -> bool:
    """Return whether a device accepts *lifetime* and *policy* (H6, O2): an unknown flag is refused."""
    return 1 <= lifetime <= wire.LIFETIME_MAX and not policy & ~wire.POLICY_KNOWN


def require_own_server(device: DeviceIdentity, announcement: Announcement) -> None:
    """
    Check that *announcement* is of the server that *device* is pinned to.

    Raises:
        RefusedError: it is another's.
    """
    if announcement.server_id != device.server_id:
        message = "the announcement is another server's than this device is enrolled with"
        raise RefusedError(message)


def _seal_name(device: DeviceIdentity, ck1: SecretBytes, th1: bytes) -> bytes:
    key_version = wire.u32(device.key_version)
    digest = transcript(th1, device.tenant_id, device.ref, key_version)
    signature = SIG44.sign(device.signing_key, digest, context=labels.CONTEXT_DEVICE)
    name = b"".join((device.tenant_id, device.ref, key_version, signature))
    with expand(ck1, labels.EXPAND_M1, th1, wire.AEAD_KEY_BYTES) as k1:
        return seal(k1, NONCE_ZERO, name, th1)


def _check_terms(terms: bytearray, hdr_bucket: int) -> tuple[int, int, int]:
    start, lifetime, policy = _TERMS.unpack(terms)
    if start - hdr_bucket not in {0, 1} or not are_terms_known(lifetime, policy):
        message = "the server gave this session a start, lifetime or policy that this version does not accept"
        raise RefusedError(message)
    return start, lifetime, policy
