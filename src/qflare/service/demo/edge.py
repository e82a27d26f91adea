"""
One device of the demo at the edge: its keys, its session, its shard, and what it does in a round.

Everything a device does with keys happens here, in its own process; the parent only says when.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qflare.device import Device
from qflare.device.transport import Step
from qflare.errors import ProtocolError, RefusedError
from qflare.protocol import wire
from qflare.protocol.envelope import encode_envelope, split_envelope
from qflare.protocol.rotation import Urgency
from qflare.service.demo.conversation import model_request, read_model, taken_answer, update_message
from qflare.service.demo.data import read_shard
from qflare.service.demo.learning import train_local

if TYPE_CHECKING:
    from pathlib import Path

    from qflare.service.demo.conversation import Plain
    from qflare.service.demo.recording import RecordingTransport


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgePaths:
    """Where a device's files are."""

    state: Path
    shard: Path
    evidence: Path
    """Folder for what the device keeps for third parties."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """A session that a device made."""

    sid: bytes
    start: int
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A sealed update that waits to be sent."""

    envelope: bytes
    receipt: Plain
    """What the server answers if it took exactly these bytes."""
    record_bytes: int
    bucket: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """An update that the server took."""

    record_bytes: int
    bucket: int
    elapsed_s: float
    """From sending to the verified receipt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """What became of a rotation and of the rekey after it."""

    old_version: int
    new_version: int
    sid: bytes
    epoch: int


class Edge:
    """A device and its work."""

    def __init__(
        self,
        device_id: str,
        *,
        form: Literal["hello", "offer"],
        paths: EdgePaths,
        transport: RecordingTransport,
        seed: int,
    ) -> None:
        """Read the shard; enrol later."""
        self.transport = transport
        self._device_id = device_id
        self._form: Literal["hello", "offer"] = form
        self._paths = paths
        self._shard = read_shard(paths.shard)
        self._seed = seed
        self._device: Device | None = None
        self._held: Held | None = None
        self._handshakes = 0

    def enrol(self, token: str) -> float:
        """Make keys and trade *token* for a place on the roster (E2); return the seconds it took."""
        began = time.perf_counter()
        self._device = Device.enrol(self.transport, token, device_id=self._device_id, state=self._paths.state)
        return time.perf_counter() - began

    def connect(self, *, attempts: int) -> Connected:
        """Make a session in the device's form and write the evidence of it to a file."""
        device = self._enrolled()
        began = time.perf_counter()
        terms = device.connect(self._form, attempts=attempts)
        elapsed_s = time.perf_counter() - began
        self._handshakes += 1
        path = self._paths.evidence / f"{self._device_id}-{self._handshakes}.json"
        path.write_text(device.evidence().to_json() + "\n", encoding="utf-8")
        return Connected(sid=terms.sid, start=terms.start, elapsed_s=elapsed_s)

    def prepare(self, round_index: int) -> Held:
        """Ask for the round's model, train it on the shard, and seal the update."""
        device = self._enrolled()
        request = model_request(round_index)
        reply = device.exchange(request.message, aad=request.aad)
        if reply is None:
            raise ProtocolError("the server answered the request for a model with nothing")
        with reply.plaintext, reply.plaintext.view() as message:
            parameters = read_model(message, reply.aad, round_index=round_index)
        update = train_local(
            parameters, self._shard, device_id=self._device_id, round_index=round_index, seed=self._seed
        )
        plain = update_message(update, round_index)
        record = device.seal(plain.message, aad=plain.aad)
        session = device.session
        self._held = Held(
            envelope=encode_envelope(plain.aad, record),
            receipt=taken_answer(plain.message),
            record_bytes=len(record),
            bucket=0 if session is None else session.bucket,
        )
        return self._held

    def deliver(self) -> Delivered:
        """
        Send the update that waits, and verify the receipt.

        Raises:
            RefusedError: the server refused it.
            ProtocolError: the receipt is for other bytes.
        """
        device, held, self._held = self._enrolled(), self._held, None
        if held is None:
            raise ProtocolError("no update waits to be sent")
        began = time.perf_counter()
        answer = self.transport.exchange(Step.RECORD, held.envelope)
        if answer == wire.REFUSED:
            raise RefusedError("the server refused the update")
        aad, record = split_envelope(answer)
        with device.open_record(record, aad=aad) as opened, opened.view() as message:
            is_receipt = aad == held.receipt.aad and bytes(message) == held.receipt.message
        if not is_receipt:
            raise ProtocolError("the server's receipt is for another update")
        return Delivered(record_bytes=held.record_bytes, bucket=held.bucket, elapsed_s=time.perf_counter() - began)

    def rotate(self) -> Rotated:
        """
        Ask whether the keys are due, rotate them in the session (E4), and rekey the session (R7).

        Raises:
            ProtocolError: the server says that they are not due.
        """
        device = self._enrolled()
        old_version = device.key_version
        if device.rotation_urgency() is Urgency.NONE:
            raise ProtocolError("the server says that no rotation is due although its operator asked for one")
        new_version = device.rotate_keys()
        terms = device.rekey()
        return Rotated(old_version=old_version, new_version=new_version, sid=terms.sid, epoch=terms.epoch)

    @property
    def samples(self) -> int:
        """Return how many training samples the device holds."""
        return self._shard.count

    def close(self) -> None:
        """Wipe the device's secrets from memory."""
        if self._device is not None:
            self._device.close()

    def _enrolled(self) -> Device:
        if self._device is None:
            raise ProtocolError(f"{self._device_id} has not enrolled")
        return self._device
