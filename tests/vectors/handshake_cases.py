"""hello.json and offer.json: both sides of src/ from the first message to the session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.primitives import aead, kem
from qflare.primitives.hash import transcript
from qflare.primitives.kdf import expand, extract
from qflare.protocol.confirm import Confirmation, confirm_hellos, encode_confirmation
from qflare.protocol.confirm_device import accept_confirmation
from qflare.protocol.hello import answer_hellos, open_hellos
from qflare.protocol.hello_device import accept_hello, start_hello
from qflare.protocol.offer import OfferTarget, confirm_answers, make_offers, open_answers
from qflare.protocol.offer_device import accept_offer
from qflare.protocol.seen import SeenHellos

from .device import DEVICE_ID, KEY_VERSION, TENANT_ID, make_credential, make_device
from .stream import draw, drawing
from .world import BUCKET, NOW_S, make_world, receipt_for

if TYPE_CHECKING:
    from qflare.protocol.device_identity import DeviceIdentity
    from qflare.protocol.pending import PendingConfirmation
    from qflare.secret import SecretBytes

    from .stream import Value

PSK = draw("psk", 64)
LIFETIME = 12


def hello_cases() -> list[Value]:
    """Without psk under each live bucket, and with one."""
    return [hello_case(hdr_b=BUCKET + step, psk=None) for step in (-1, 0, 1)] + [hello_case(hdr_b=BUCKET, psk=PSK)]


def offer_cases() -> list[Value]:
    """Without and with a psk."""
    return [offer_case(psk=None), offer_case(psk=PSK)]


def hello_case(*, hdr_b: int, psk: bytes | None) -> Value:
    """One hello, M1 to M4."""
    world, device = make_world(), make_device(psk)
    name = f"hello {hdr_b}" + (" psk" if psk else "")
    with drawing(f"{name} M1"):
        pending = start_hello(device, world.keyring[hdr_b].announcement)
    m1 = pending.message
    seen = SeenHellos()
    with drawing(f"{name} M2"), open_hellos([m1], world.keyring, server_bucket=BUCKET, seen=seen) as opened:
        ss_b = kem.decapsulate(world.keyring[hdr_b].decapsulation_key, m1[1580:3148])
        [m2] = answer_hellos(
            opened, [make_credential(device)], world.keyring, server_bucket=BUCKET, now_s=NOW_S, lifetime=LIFETIME
        )
    assert isinstance(m2, bytes)
    waiting = accept_hello(pending, m2, device)
    m3 = waiting.message
    [confirmation] = confirm_hellos([m3], world.keyring, now_s=NOW_S + 1, server_id=world.server_id)
    assert isinstance(confirmation, Confirmation)
    ct_e, c2 = m2[18:1586], m2[1586:1616]
    ss_e = kem.decapsulate(pending.decapsulation_key, ct_e)
    th2 = transcript(pending.th1, pending.c1, ct_e, waiting.sid)
    k1, k2 = expand(pending.ck1, "m1", pending.th1, 32), expand(waiting.ck2, "m2", th2, 32)
    return {
        **parties(device, psk),
        "hdr_b": hdr_b,
        "server_bucket": BUCKET,
        "now": NOW_S,
        "lifetime": LIFETIME,
        "ephemeral_kem_seed": ephemeral_seed(name, m1),
        "ss_b": ss_b,
        "th1": pending.th1,
        "ck1": pending.ck1,
        "k1": k1,
        "c1_plaintext": opened_with(k1, pending.c1, pending.th1),
        "M1": m1,
        "ss_e": ss_e,
        "th2": th2,
        "ck2": waiting.ck2,
        "k2": k2,
        "c2_plaintext": opened_with(k2, c2, th2),
        "th3": waiting.th3,
        "ticket_plaintext": ticket_plaintext(m2[1616:]),
        "M2": m2,
        "M3": m3,
        **end(name, device, waiting, confirmation, index=4, size=11),
    }


def offer_case(*, psk: bytes | None) -> Value:
    """One offer, OFFER to M4."""
    world, device = make_world(), make_device(psk)
    name = "offer" + (" psk" if psk else "")
    target = OfferTarget(TENANT_ID, device.ref, KEY_VERSION, device.encapsulation_key)
    with drawing(f"{name} OFFER"):
        [offer] = make_offers([target], world.keyring[BUCKET], lifetime=LIFETIME)
    message = offer.message
    with drawing(f"{name} ANSWER"):
        waiting = accept_offer(message, device, world.keyring[BUCKET].announcement)
    answer = waiting.message
    with open_answers([answer], world.keyring, now_s=NOW_S + 1) as opened:
        [confirmation] = confirm_answers(opened, [device.psk], server_id=world.server_id)
    assert isinstance(confirmation, Confirmation)
    ss_d = kem.decapsulate(device.decapsulation_key, message[42:1610])
    ss_b = kem.decapsulate(world.keyring[BUCKET].decapsulation_key, answer[233:1801])
    return {
        **parties(device, psk),
        "server_bucket": BUCKET,
        "now": NOW_S,
        "lifetime": LIFETIME,
        "ss_D": ss_d,
        "th1": waiting.th1,
        "ck1": extract(waiting.th1, ss_d),
        "ticket_plaintext": ticket_plaintext(message[1610:]),
        "OFFER": message,
        "ss_b": ss_b,
        "ck2": waiting.ck2,
        "th3": waiting.th3,
        "ANSWER": answer,
        **end(name, device, waiting, confirmation, index=0, size=3),
    }


def parties(device: DeviceIdentity, psk: bytes | None) -> dict[str, Value]:
    """Who takes part; the server's keys stand in identity.json."""
    return {
        "tenant_id": TENANT_ID,
        "device_id": DEVICE_ID,
        "ref": device.ref,
        "key_version": KEY_VERSION,
        "device_signing_seed": draw("device signing", 32),
        "device_kem_seed": draw("device kem", 64),
        "psk": psk or bytes(64),
    }


def end(
    name: str,
    device: DeviceIdentity,
    waiting: PendingConfirmation,
    confirmation: Confirmation,
    *,
    index: int,
    size: int,
) -> dict[str, Value]:
    """What both forms share: tags, leaf, M4, chain key."""
    receipt = receipt_for(confirmation.leaf_hash, index=index, size=size, label=name)
    m4 = encode_confirmation(confirmation.sid, confirmation.server_tag, receipt)
    session = accept_confirmation(waiting, m4, make_world().identity, device, log_mark=None)
    assert session.chain_key.equals(confirmation.chain_key)
    return {
        "sid": confirmation.sid,
        "start": confirmation.start,
        "fin_d": waiting.message[-32:],
        "fin_s": confirmation.server_tag,
        "H_th3": confirmation.th3_hash,
        "who_key": session.evidence.who_key,
        "leaf_entry": confirmation.leaf_data,
        "leaf_hash": confirmation.leaf_hash,
        "M4": m4,
        "CK_start": session.chain_key,
    }


def opened_with(key: SecretBytes, sealed: bytes, aad: bytes) -> SecretBytes:
    """The plaintext of a handshake AEAD."""
    return aead.open(key, aead.NONCE_ZERO, sealed, aad)


def ticket_plaintext(ticket: bytes) -> SecretBytes:
    """What a ticket holds."""
    return aead.open(make_world().keyring[BUCKET].ticket_key, ticket[9:21], ticket[21:], ticket[:9])


def ephemeral_seed(name: str, m1: bytes) -> bytes:
    """The seed of (ek_e, dk_e): the first bytes that M1 draws."""
    drawn = draw(f"{name} M1", 64)
    assert kem.generate_from_seed(drawn).encapsulation_key == m1[12:1580]
    return drawn
