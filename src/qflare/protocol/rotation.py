"""
Rotation of a device's keys (E4): the bodies of the control records by which it is asked for and done.

    ROTATE  = 3 ‖ key_version+1 ‖ vk' ‖ ek' ‖ SIG(old) ‖ SIG(new)      7725 bytes
    ROTATED = 4 ‖ key_version+1                                           5 bytes
    DUE?    = 5 ‖ key_version                                             5 bytes
    DUE     = 6 ‖ key_version ‖ urgency                                   6 bytes
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, BatchError, UsageError
from qflare.model.refusal import Refusal
from qflare.primitives import kem
from qflare.primitives.hash import transcript, transcript_var_many
from qflare.primitives.sig import SIG44
from qflare.protocol.labels import CONTEXT_ROTATION
from qflare.protocol.wire import HASH_BYTES, U32_MAX, u32

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.ids import DeviceRef
    from qflare.protocol.credential import DeviceCredential
    from qflare.protocol.device_identity import DeviceIdentity
    from qflare.protocol.device_keys import DeviceKeys

BODY_ROTATE: Final = 3
BODY_ROTATED: Final = 4
BODY_DUE_ASKED: Final = 5
BODY_DUE: Final = 6
_VK_AT: Final = 1 + 4
_EK_AT: Final = _VK_AT + SIG44.PK_BYTES
_OLD_SIGNATURE_AT: Final = _EK_AT + kem.EK_BYTES
_NEW_SIGNATURE_AT: Final = _OLD_SIGNATURE_AT + SIG44.SIG_BYTES
ROTATE_BYTES: Final = _NEW_SIGNATURE_AT + SIG44.SIG_BYTES
ROTATED_BYTES: Final = 1 + 4
DUE_ASKED_BYTES: Final = 1 + 4
DUE_BYTES: Final = 1 + 4 + 1


class Urgency(IntEnum):
    """Whether a device's keys are to be rotated (E4)."""

    NONE = 0
    DUE = 1
    OVERDUE = 2
    """The server takes no data of the device until it has rotated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """A rotation whose signatures hold."""

    key_version: int
    """The new version."""
    verification_key: bytes
    encapsulation_key: bytes
    is_repeated: bool
    """True if these keys are current already: ROTATED is answered again, nothing changes."""


def make_rotation(device: DeviceIdentity, keys: DeviceKeys) -> bytes:
    """
    Make the body of ROTATE, 7725 bytes; the device keeps old and new keys durably until ROTATED has opened.

    Args:
        device: The device with its current keys.
        keys: Its fresh ones.

    Raises:
        UsageError: the key_version cannot grow any more.
        EntropyError: the random source failed.

    Source: docs/protocol.md, step E4.
    """
    if device.key_version >= U32_MAX:
        message = f"key_version {device.key_version} is the last there is; enrol the device anew"
        raise UsageError(message)
    version = u32(device.key_version + 1)
    digest = transcript(device.server_id, device.ref, version, keys.verification_key, keys.encapsulation_key)
    return b"".join(
        (
            bytes((BODY_ROTATE,)),
            version,
            keys.verification_key,
            keys.encapsulation_key,
            SIG44.sign(device.signing_key, digest, context=CONTEXT_ROTATION),
            SIG44.sign(keys.signing_key, digest, context=CONTEXT_ROTATION),
        )
    )


def check_rotations(
    bodies: Sequence[bytes], *, server_id: bytes, refs: Sequence[DeviceRef], devices: Sequence[DeviceCredential | None]
) -> list[Rotation | Refusal]:
    """
    Check the bodies of ROTATE.

    Args:
        bodies: One a device, of any length and content.
        server_id: The server's, 32 bytes.
        refs: Whose session each body came in.
        devices: Their current keys, or None where there is no such device.

    Returns:
        One rotation or `Refusal` a body.  For a repetition the old key is gone: the new key's signature is checked.

    Raises:
        BatchError: the arguments disagree about the number of devices.

    Source: docs/protocol.md, step E4.
    """
    count = len(bodies)
    if len(refs) != count or len(devices) != count:
        message = f"a batch of {count} bodies has {len(refs)} refs and {len(devices)} devices"
        raise BatchError(message)
    results = [_read_rotation(body, device) for body, device in zip(bodies, devices, strict=True)]
    rows = [
        (place, result, device)
        for place, (result, device) in enumerate(zip(results, devices, strict=True))
        if isinstance(result, Rotation) and device is not None
    ]
    if not rows:
        return results
    digests = transcript_var_many(
        [
            (server_id, refs[place], u32(its.key_version), its.verification_key, its.encapsulation_key)
            for place, its, _ in rows
        ]
    )
    messages = [digests[at : at + HASH_BYTES] for at in range(0, len(digests), HASH_BYTES)]
    # A repetition shows the new signature twice over: the old key is no longer known.
    old_statuses = SIG44.verify_many(
        [device.verification_key for _, _, device in rows],
        messages,
        [
            bodies[place][_NEW_SIGNATURE_AT:] if its.is_repeated else bodies[place][_OLD_SIGNATURE_AT:_NEW_SIGNATURE_AT]
            for place, its, _ in rows
        ],
        context=CONTEXT_ROTATION,
    )
    new_statuses = SIG44.verify_many(
        [its.verification_key for _, its, _ in rows],
        messages,
        [bodies[place][_NEW_SIGNATURE_AT:] for place, _, _ in rows],
        context=CONTEXT_ROTATION,
    )
    key_statuses = kem.check_encapsulation_keys_many([its.encapsulation_key for _, its, _ in rows])
    for (place, _, _), key_status, old, new in zip(rows, key_statuses, old_statuses, new_statuses, strict=True):
        if key_status != 0:
            results[place] = Refusal.ENCAPSULATION_KEY
        elif old != 0 or new != 0:
            results[place] = Refusal.SIGNATURE
    return results


def encode_rotated(key_version: int) -> bytes:
    """Return the body of ROTATED, 5 bytes; *key_version* is the new one."""
    return bytes((BODY_ROTATED,)) + u32(key_version)


def accept_rotated(body: bytes, *, key_version: int) -> None:
    """
    Check the body of ROTATED; then the device erases its old private keys.

    Args:
        body: From a control record of the session that has opened.
        key_version: The new version that the device asked for.

    Raises:
        AuthenticationError: it is no ROTATED for that version.
    """
    if body != encode_rotated(key_version):
        raise AuthenticationError


def encode_due_asked(key_version: int) -> bytes:
    """Return the body of DUE?, 5 bytes: a device asks whether its keys of *key_version* are to be rotated."""
    return bytes((BODY_DUE_ASKED,)) + u32(key_version)


def read_due_asked(body: bytes) -> int | None:
    """Return the key_version that a DUE? asks about, None if *body* is none."""
    if len(body) != DUE_ASKED_BYTES or body[0] != BODY_DUE_ASKED:
        return None
    return int.from_bytes(body[1:])


def encode_due(key_version: int, urgency: Urgency) -> bytes:
    """Return the body of DUE, 6 bytes: how urgent the rotation of the keys of *key_version* is."""
    return b"".join((bytes((BODY_DUE,)), u32(key_version), bytes((urgency,))))


def accept_due(body: bytes, *, key_version: int) -> Urgency:
    """
    Check the body of DUE.

    Args:
        body: From a control record of the session that has opened.
        key_version: The version that the device asked about.

    Returns:
        How urgent a rotation is; a value that is not known counts as due.

    Raises:
        AuthenticationError: it is no DUE for that version.
    """
    if len(body) != DUE_BYTES or body[:-1] != bytes((BODY_DUE,)) + u32(key_version):
        raise AuthenticationError
    return Urgency(body[-1]) if body[-1] in tuple(Urgency) else Urgency.DUE


def _read_rotation(body: bytes, device: DeviceCredential | None) -> Rotation | Refusal:
    if len(body) != ROTATE_BYTES:
        return Refusal.LENGTH
    if body[0] != BODY_ROTATE:
        return Refusal.TYPE
    if device is None:
        return Refusal.UNKNOWN_DEVICE
    version = int.from_bytes(body[1:_VK_AT], "big")
    verification_key, encapsulation_key = body[_VK_AT:_EK_AT], body[_EK_AT:_OLD_SIGNATURE_AT]
    has_current_keys = verification_key == device.verification_key and encapsulation_key == device.encapsulation_key
    is_repeated = version == device.key_version and has_current_keys
    # Another body for a version that is taken is refused, and so is one that leaves a version out.
    if not is_repeated and version != device.key_version + 1:
        return Refusal.KEY_VERSION
    verdict = device.verdict(device.key_version)
    if verdict is not None:
        return verdict
    return Rotation(
        key_version=version,
        verification_key=bytes(verification_key),
        encapsulation_key=bytes(encapsulation_key),
        is_repeated=is_repeated,
    )
