"""enrol.json: token, ENROL, ENROLLED, ROTATE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.model.ids import DeviceId, DeviceRef, TenantId, TokenId
from qflare.primitives import kem
from qflare.primitives.kdf import expand, extract
from qflare.primitives.sig import SIG44
from qflare.protocol.device_keys import DeviceKeys
from qflare.protocol.enrolment import answer_enrolments, check_enrolments, open_enrolments
from qflare.protocol.enrolment_device import accept_enrolled, start_enrolment
from qflare.protocol.rotation import Rotation, check_rotations, encode_rotated, make_rotation
from qflare.protocol.token import EnrolmentToken, decode_token

from .device import DEVICE_ID, TENANT_ID, make_credential
from .handshake_cases import opened_with
from .stream import draw, drawing, seed
from .world import BUCKET, make_world

if TYPE_CHECKING:
    from .stream import Value


def enrol_cases() -> list[Value]:
    """One enrolment under the server's bucket, one under the next."""
    return [enrol_case(BUCKET, key_version=1), enrol_case(BUCKET + 1, key_version=1)]


def device_keys(name: str) -> DeviceKeys:
    """Keys of a device, from the seeds that the case states."""
    signing = SIG44.generate_from_seed(seed(f"{name} signing", 32))
    pair = kem.generate_from_seed(seed(f"{name} kem", 64))
    return DeviceKeys(
        verification_key=signing.verification_key,
        signing_key=signing.signing_key,
        encapsulation_key=pair.encapsulation_key,
        decapsulation_key=pair.decapsulation_key,
    )


def rotate(keys: DeviceKeys, new: DeviceKeys, name: str, *, key_version: int) -> bytes:
    """The body of ROTATE from *keys* to *new*."""
    server_id, tenant_id = make_world().server_id, TenantId(TENANT_ID)
    device = keys.identity(
        server_id=server_id, tenant_id=tenant_id, device_id=DeviceId(DEVICE_ID), key_version=key_version, psk=None
    )
    with drawing(f"{name} ROTATE"):
        body = make_rotation(device, new)
    [checked] = check_rotations(
        [body], server_id=server_id, refs=[DeviceRef(device.ref)], devices=[make_credential(device)]
    )
    assert isinstance(checked, Rotation)
    return body


def enrol_case(hdr_b: int, *, key_version: int) -> Value:
    """Token to ENROLLED, and the rotation of the keys that were enrolled."""
    world, name = make_world(), f"enrol {hdr_b}"
    keys = device_keys(name)
    text = EnrolmentToken(
        tenant_id=TenantId(TENANT_ID),
        token_id=TokenId(draw(f"{name} token id", 16)),
        secret=seed(f"{name} secret", 32),
        server_id=world.server_id,
    ).encode()
    token = decode_token(text)
    with drawing(f"{name} ENROL"):
        pending = start_enrolment(token, DeviceId(DEVICE_ID), world.keyring[hdr_b].announcement, keys)
    with open_enrolments([pending.message], world.keyring, server_bucket=BUCKET) as opened:
        assert check_enrolments(opened, [DEVICE_ID]) == [None]
        with drawing(f"{name} ENROLLED"):
            [enrolled] = answer_enrolments(opened, [key_version], bucket_mark=BUCKET)
    assert isinstance(enrolled, bytes)
    accept_enrolled(pending, enrolled, keys)
    enr = expand(pending.ck1, "enr", pending.th1, 32)
    ss_d = kem.decapsulate(keys.decapsulation_key, enrolled[2:1570])
    return {
        "tenant_id": TENANT_ID,
        "device_id": DEVICE_ID,
        "device_signing_seed": draw(f"{name} signing", 32),
        "device_kem_seed": draw(f"{name} kem", 64),
        "token_id": token.token_id,
        "secret": token.secret,
        "H_secret": token.secret_hash,
        "token": text,
        "hdr_b": hdr_b,
        "th1": pending.th1,
        "ck1": pending.ck1,
        "enr_key": enr,
        "c1_plaintext": opened_with(enr, pending.message[1580:], pending.th1),
        "ENROL": pending.message,
        "ss_D": ss_d,
        "enr_d_key": expand(extract(pending.ck1, ss_d), "enr d", pending.th1, 32),
        "key_version": key_version,
        "mark": BUCKET,
        "ENROLLED": enrolled,
        "new_signing_seed": draw(f"{name} new signing", 32),
        "new_kem_seed": draw(f"{name} new kem", 64),
        "ROTATE": rotate(keys, device_keys(f"{name} new"), name, key_version=key_version),
        "ROTATED": encode_rotated(key_version + 1),
    }
