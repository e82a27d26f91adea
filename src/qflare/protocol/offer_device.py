"""The device's side of an offer: OFFER in, ANSWER out (O2)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, RefusedError
from qflare.primitives import kem
from qflare.primitives.hash import transcript
from qflare.primitives.kdf import expand, extract
from qflare.protocol import labels, wire
from qflare.protocol.hello_device import are_terms_known, finished_tag, require_own_server
from qflare.protocol.pending import PENDING_OFFERS_MAX, PendingConfirmation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qflare.protocol.announcement import Announcement
    from qflare.protocol.device_identity import DeviceIdentity
    from qflare.secret import SecretBytes

_HEAD: Final = struct.Struct(">BBHQQHI")
_ANSWER_HEAD: Final = bytes((wire.TYPE_ANSWER, wire.VERSION))
_NOTHING_PENDING: Final[Mapping[bytes, PendingConfirmation]] = {}


def offer_bucket(message: bytes) -> int:
    """
    Return the bucket whose announcement an OFFER needs; it is proven by nothing yet.

    Raises:
        AuthenticationError: it is no OFFER of this version and suite.
    """
    if len(message) != wire.OFFER_BYTES:
        raise AuthenticationError
    kind, version, suite, bucket, *_ = _HEAD.unpack_from(message)
    if (kind, version, suite) != (wire.TYPE_OFFER, wire.VERSION, wire.SUITE):
        raise AuthenticationError
    return int(bucket)


def accept_offer(
    message: bytes,
    device: DeviceIdentity,
    announcement: Announcement,
    *,
    pending: Mapping[bytes, PendingConfirmation] = _NOTHING_PENDING,
) -> PendingConfirmation:
    """
    Take an OFFER and make the ANSWER.

    An OFFER is proven by nothing: anyone who knows `ek_D` can make one, and a wrong `ct_D` is no error (implicit
    rejection).  Whether it was the server's shows at M4.

    Args:
        message: What came.
        device: The device's names and keys; stays the caller's.
        announcement: Of the OFFER's bucket (`offer_bucket`), checked (A5).
        pending: Answers that wait for their M4, by `th1`, at most 8.

    Returns:
        What is pending until M4, with ANSWER in it; the caller keeps it durably by its `th1`, and wipes it.  An OFFER
        that was answered before gives the same object as in *pending*, its ANSWER now with the ticket at hand.

    Raises:
        AuthenticationError: *message* is no OFFER that a device answers.
        EntropyError: the random source failed.
        RefusedError: 8 answers are pending already, or *announcement* is another server's.

    Source: docs/protocol.md, step O2.
    """
    require_own_server(device, announcement)
    bucket = offer_bucket(message)
    _, _, _, _, start, lifetime, policy = _HEAD.unpack_from(message)
    if bucket != announcement.bucket or start != bucket or not are_terms_known(lifetime, policy):
        raise AuthenticationError
    th1 = transcript(
        labels.HASH_OFFER,
        wire.SUITE_FIELD,
        announcement.body_hash,
        transcript(device.encapsulation_key),
        device.tenant_id,
        device.ref,
        wire.u32(device.key_version),
        message[: wire.OFFER_TICKET_AT],
    )
    ticket = message[wire.OFFER_TICKET_AT :]
    answered = pending.get(th1)
    if answered is not None:
        answered.replace_ticket(ticket)
        return answered
    if len(pending) >= PENDING_OFFERS_MAX:
        text = f"{PENDING_OFFERS_MAX} offers are pending; a new one is dropped until one of them ends"
        raise RefusedError(text)
    encapsulated = kem.encapsulate(announcement.encapsulation_key)
    th3 = transcript(th1, encapsulated.ciphertext)
    with encapsulated.shared_secret as ss_b:
        with kem.decapsulate(device.decapsulation_key, message[wire.OFFER_CT_AT : wire.OFFER_TICKET_AT]) as ss_d:
            ck1 = extract(th1, ss_d)
        with ck1, extract(ck1, device.psk_view()) as with_psk:
            pre = _pre_tag(ck1, th3)
            ck2 = extract(with_psk, ss_b)
    try:
        tag = finished_tag(ck2, th3)
    except BaseException:
        ck2.wipe()
        raise
    return PendingConfirmation(
        form=wire.FORM_OFFER,
        message=b"".join((_ANSWER_HEAD, ticket, encapsulated.ciphertext, pre, tag)),
        sid=bytes(message[wire.OFFER_SID_AT : wire.OFFER_CT_AT]),
        bucket=bucket,
        start=start,
        lifetime=lifetime,
        policy=policy,
        th1=th1,
        th3=th3,
        ck2=ck2,
    )


def _pre_tag(ck1: SecretBytes, th3: bytes) -> bytes:
    with expand(ck1, labels.EXPAND_PRE, th3, wire.PRE_BYTES) as tag, tag.view() as view:
        return bytes(view)
