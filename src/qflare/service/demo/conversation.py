"""
What devices and aggregation say to each other inside their records.

    request  aad "qflare-demo/1 model"             message: round u64           answered by the global model
    update   aad the update's header (QFLU …)      message: the update          answered by a receipt of its bytes

The header states round, names, dtypes and shapes; both sides make it themselves and compare, and since it is the
record's associated data, an update of another round or shape does not come through.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

from qflare.errors import DecodeError
from qflare.protocol.update_codec import DecodedUpdate, UpdateSpec, decode_update, encode_update
from qflare.service.demo.extras import demo_package
from qflare.service.demo.learning import SHAPES, Parameters, Update

with demo_package("numpy"):
    import numpy as np

REQUEST_AAD: Final = b"qflare-demo/1 model"
TAKEN_AAD: Final = b"qflare-demo/1 taken"
_SAMPLES: Final = "samples"
"""Name of the array beside the model's that holds the weight, one int64."""
_Arrays = dict[str, Any]
"""Arrays by name; Any, because numpy's types declare the buffer protocol from Python 3.12 on only."""
_MODEL: Final[_Arrays] = {name: np.zeros(shape, dtype=np.float32) for name, shape in SHAPES.items()}
_MODEL_SPEC: Final = UpdateSpec.of(_MODEL)
_UPDATE_SPEC: Final = UpdateSpec.of(_MODEL | {_SAMPLES: np.zeros(1, dtype=np.int64)})


@dataclass(frozen=True, slots=True)
class Plain:
    """A message before it is sealed, and its associated data."""

    message: bytes | bytearray
    aad: bytes


def model_request(round_index: int) -> Plain:
    """Return a device's request for the global model of a round."""
    return Plain(round_index.to_bytes(8), REQUEST_AAD)


def model_answer(parameters: Parameters, round_index: int) -> Plain:
    """Return the global model of a round."""
    arrays: _Arrays = {**parameters}
    encoded = encode_update(arrays, round_number=round_index)
    return Plain(encoded.payload, encoded.aad)


def read_model(message: memoryview, aad: bytes, *, round_index: int) -> Parameters:
    """
    Return the model in an answer.

    Raises:
        DecodeError: it is of another round or form.
    """
    if aad != _MODEL_SPEC.header(round_number=round_index):
        raise DecodeError(f"the model came with other associated data than that of round {round_index}")
    return _parameters(_decode(message, round_index=round_index, spec=_MODEL_SPEC))


def update_message(update: Update, round_index: int) -> Plain:
    """Return a device's update of a round."""
    arrays: _Arrays = {
        **update.parameters,
        _SAMPLES: np.array([update.samples], dtype=np.int64),
    }
    encoded = encode_update(arrays, round_number=round_index)
    return Plain(encoded.payload, encoded.aad)


def read_update(message: bytes, aad: bytes, *, round_index: int) -> Update:
    """
    Return the update in a record.

    Raises:
        DecodeError: it is of another round or form, or its weight is no count of samples.
    """
    if aad != _UPDATE_SPEC.header(round_number=round_index):
        raise DecodeError(f"the update came with other associated data than that of round {round_index}")
    update = _decode(memoryview(message), round_index=round_index, spec=_UPDATE_SPEC)
    samples = int(np.asarray(update.arrays[_SAMPLES])[0])
    if samples < 1:
        raise DecodeError(f"the update claims {samples} samples")
    return Update(parameters=_parameters(update), samples=samples)


def taken_answer(message: bytes | bytearray) -> Plain:
    """Return the receipt for an update: its SHA-256."""
    return Plain(hashlib.sha256(message).digest(), TAKEN_AAD)


def _decode(message: memoryview, *, round_index: int, spec: UpdateSpec) -> DecodedUpdate:
    update = decode_update(message, round_number=round_index)
    if update.spec != spec:
        raise DecodeError("the arrays are not those of the demo's model")
    return update


def _parameters(update: DecodedUpdate) -> Parameters:
    # Copies: the message is wiped by whoever opened it.
    return {name: np.array(np.asarray(update.arrays[name]), dtype=np.float32, order="C") for name in SHAPES}
