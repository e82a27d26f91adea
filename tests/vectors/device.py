"""The one device that all vectors are about."""

from __future__ import annotations

from qflare.primitives import kem
from qflare.primitives.sig import SIG44
from qflare.protocol.credential import DeviceCredential
from qflare.protocol.device_identity import DeviceIdentity
from qflare.protocol.identity import device_ref
from qflare.secret import SecretBytes

from .stream import draw, seed
from .world import make_world

TENANT_ID = draw("tenant", 16)
DEVICE_ID = "pump-7 ü"
KEY_VERSION = 3


def make_device(psk: bytes | None = None) -> DeviceIdentity:
    """The device with its keys; seeds are drawn by label."""
    signing = SIG44.generate_from_seed(seed("device signing", 32))
    encapsulation = kem.generate_from_seed(seed("device kem", 64))
    return DeviceIdentity(
        server_id=make_world().server_id,
        tenant_id=TENANT_ID,
        device_id=DEVICE_ID,
        ref=device_ref(TENANT_ID, DEVICE_ID),
        key_version=KEY_VERSION,
        signing_key=signing.signing_key,
        decapsulation_key=encapsulation.decapsulation_key,
        verification_key=signing.verification_key,
        encapsulation_key=encapsulation.encapsulation_key,
        psk=None if psk is None else SecretBytes.copy_of(psk),
    )


def make_credential(device: DeviceIdentity) -> DeviceCredential:
    """What the server's row says of the device."""
    return DeviceCredential(
        key_version=device.key_version,
        is_accepted=True,
        verification_key=device.verification_key,
        encapsulation_key=device.encapsulation_key,
        psk=device.psk,
    )
