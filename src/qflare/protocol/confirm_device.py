"""The device's side of the end of both forms: M4 in, the session out (H9, H10)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, DecodeError, UnexpectedMessageError
from qflare.model.ids import DeviceRef, SessionId, TenantId
from qflare.primitives.hash import transcript
from qflare.primitives.kdf import expand
from qflare.protocol import labels, wire
from qflare.protocol.established import EstablishedSession
from qflare.protocol.evidence import Evidence
from qflare.protocol.leaf import WHO_KEY_BYTES
from qflare.protocol.log import hash_leaf
from qflare.protocol.receipt import LogMark, Receipt, advance_log_mark, decode_receipt, verify_receipt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.protocol.device_identity import DeviceIdentity
    from qflare.protocol.identity import Certificate, ServerIdentity
    from qflare.protocol.pending import PendingConfirmation

_M4_HEAD: Final = bytes((wire.TYPE_M4, wire.VERSION))


def accept_confirmation(
    pending: PendingConfirmation,
    m4: bytes,
    identity: ServerIdentity,
    device: DeviceIdentity,
    *,
    log_mark: LogMark | None,
) -> EstablishedSession:
    """
    Take M4: the session holds only if tag, inclusion and signature all do.

    Args:
        pending: From `accept_hello` or `accept_offer`; stays the caller's, who wipes it once the session is stored.
        m4: What came.
        identity: The server's root and certificate, checked against the pinned id.
        device: The device's names and keys; stays the caller's.
        log_mark: The largest (size, root) seen of this log, or None.

    Returns:
        The session; the caller stores it, its log mark and its bucket mark, and wipes the chain key.

    Raises:
        AuthenticationError: *m4* is not the server's confirmation of this handshake; nothing has changed.
        UnexpectedMessageError: *pending* was wiped.
        LogForkError: it is, but the log has shown another root for the same size: an alarm.

    Source: docs/protocol.md, steps H9 and H10.
    """
    # Zeros are known to everybody: a handshake that was wiped is over, and nobody may confirm it.
    if pending.ck2.equals(bytes(wire.SECRET_BYTES)):
        message = "this handshake is over and its secrets are wiped; begin a new one"
        raise UnexpectedMessageError(message)
    # Length, type, version, sid
    if not wire.M4_BYTES_MIN <= len(m4) <= wire.M4_BYTES_MAX or m4[: len(_M4_HEAD)] != _M4_HEAD:
        raise AuthenticationError
    if m4[len(_M4_HEAD) : wire.M4_TAG_AT] != pending.sid or device.server_id != identity.server_id:
        raise AuthenticationError
    # H9: the tag proves the server's knowledge of ck2.
    with expand(pending.ck2, labels.EXPAND_FINISHED_SERVER, pending.th3, wire.FINISHED_BYTES) as tag:
        # CT: equals() compares in constant time.
        if not tag.equals(m4[wire.M4_TAG_AT : wire.M4_RECEIPT_AT]):
            raise AuthenticationError
    receipt = _decode(m4[wire.M4_RECEIPT_AT :])
    with expand(pending.ck2, labels.EXPAND_WHO, pending.th3, WHO_KEY_BYTES) as who_key, who_key.view() as who_view:
        evidence = Evidence(
            m4=bytes(m4),
            th3_hash=transcript(pending.th3),
            who_key=bytes(who_view),
            form=pending.form,
            suite=wire.SUITE,
            server_id=identity.server_id,
            sid=SessionId(pending.sid),
            start=pending.start,
            tenant_id=TenantId(device.tenant_id),
            ref=DeviceRef(device.ref),
            key_version=device.key_version,
        )
    root = _verify(receipt, hash_leaf(evidence.leaf_data()), identity.certificates(pending.start))
    new_mark = advance_log_mark(log_mark, size=receipt.size, root=root)
    # H10
    chain_key = expand(pending.ck2, labels.EXPAND_CHAIN, pending.th3, wire.SECRET_BYTES)
    return EstablishedSession(
        sid=SessionId(pending.sid),
        form=pending.form,
        start=pending.start,
        lifetime=pending.lifetime,
        policy=pending.policy,
        chain_key=chain_key,
        evidence=evidence,
        log_mark=new_mark,
        hdr_bucket=pending.bucket,
    )


def _verify(receipt: Receipt, leaf_hash: bytes, certificates: Sequence[Certificate]) -> bytes:
    """Verify a receipt under the CERT in force, or under the one before while that is good (A1); return its root."""
    for certificate in certificates[:-1]:
        try:
            return verify_receipt(receipt, leaf_hash, log_key=certificate.log_key, origin=certificate.log_origin)
        except AuthenticationError:
            continue
    last = certificates[-1]
    return verify_receipt(receipt, leaf_hash, log_key=last.log_key, origin=last.log_origin)


def _decode(encoded: bytes) -> Receipt:
    # A damaged receipt is an altered M4, and every altered M4 is one error.
    try:
        receipt = decode_receipt(encoded)
    except DecodeError:
        receipt = None
    if receipt is None:
        raise AuthenticationError
    return receipt
