"""mapping.json: descriptor, chain key and communication keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.model.ids import DeviceRef
from qflare.primitives import kem
from qflare.primitives.hash import transcript
from qflare.primitives.sig import SIG44
from qflare.protocol.identity import device_ref
from qflare.protocol.mapping import Mapping, MappingSigner, NewMapping, accept_mapping, create_mappings

from .device import DEVICE_ID
from .stream import draw, drawing, seed
from .world import BUCKET, WIDTH_S

if TYPE_CHECKING:
    from .stream import Value


def mapping_cases() -> list[Value]:
    """A mapping, and its next generation."""
    first, mapping = mapping_case("mapping", held=None, bucket=BUCKET)
    second, _ = mapping_case("mapping rotated", held=mapping, bucket=BUCKET + 500)
    return [first, second]


def mapping_case(name: str, *, held: Mapping | None, bucket: int) -> tuple[Value, Mapping]:
    """Descriptor and keys, the same on both sides."""
    pair = SIG44.generate_from_seed(seed("mapping server signing", 32))
    signer = MappingSigner(verification_key=pair.verification_key, signing_key=pair.signing_key)
    device = kem.generate_from_seed(seed("mapping device kem", 64))
    ref = DeviceRef(device_ref(bytes(16), DEVICE_ID))
    with drawing(name):
        [made] = create_mappings(
            signer, [device.encapsulation_key], refs=[ref], bucket=bucket, width_s=WIDTH_S, held=[held]
        )
    assert isinstance(made, NewMapping)
    theirs = accept_mapping(
        made.descriptor,
        ref=ref,
        encapsulation_key=device.encapsulation_key,
        decapsulation_key=device.decapsulation_key,
        server_key=signer.verification_key,
        held=held,
    )
    keys: list[Value] = []
    for b, purpose in ((bucket, "model"), (bucket, "metrics"), (bucket + 1, "model"), (bucket + 1000, "model")):
        key = made.mapping.derive_key(purpose, bucket=b)
        assert theirs.derive_key(purpose, bucket=b).equals(key)
        keys.append({"b": b, "purpose": purpose, "key": key})
    case: Value = {
        "tenant_id": bytes(16),
        "device_id": DEVICE_ID,
        "server_signing_seed": draw("mapping server signing", 32),
        "device_kem_seed": draw("mapping device kem", 64),
        "mapping_id": made.mapping.mapping_id,
        "generation": made.mapping.generation,
        "b": bucket,
        "width": WIDTH_S,
        "ss": kem.decapsulate(device.decapsulation_key, made.descriptor[138:1706]),
        "H_desc": transcript(made.descriptor[:1706]),
        "descriptor": made.descriptor,
        "CK_b": made.mapping.chain_key,
        "keys": keys,
    }
    return case, made.mapping
