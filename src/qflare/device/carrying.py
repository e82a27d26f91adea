"""The calls of a device whose messages the application carries itself: each takes or returns bytes, none sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.model.ids import RequestId
from qflare.protocol import wire
from qflare.protocol.record import KIND_DATA, KIND_REPLY, KIND_REQUEST

if TYPE_CHECKING:
    import threading

    from qflare.device.engine import DeviceEngine
    from qflare.device.records import Reply, SessionTerms
    from qflare.protocol.evidence import Evidence
    from qflare.secret import SecretBytes


class Carrying:
    """Mixed into `Device`, which owns the engine and the lock."""

    _engine: DeviceEngine
    _lock: threading.RLock

    def take_announcement(self, encoded: bytes) -> int:
        """Verify an announcement that came some other way, turn the session to it, and return its bucket (A5)."""
        with self._lock:
            return self._engine.take_announcement(encoded).bucket

    def take_identity(self, served: bytes) -> bool:
        """
        Follow the server to the CERT it serves now, ``root vk ‖ CERT``; return whether it is a new one (A1).

        Over a transport the device does so by itself, when a signature does not verify.

        Raises:
            ServerIdentityError: it is another server's.
            AuthenticationError: it is altered.
            RefusedError: its serial fell, or other bytes came under the serial that is held.
        """
        with self._lock:
            return self._engine.take_identity(served)

    def begin_hello(self) -> bytes:
        """Return M1; the same bytes until it is answered or given up (H1, H7)."""
        with self._lock:
            return self._engine.begin_hello()

    def answer_hello(self, m2: bytes) -> bytes:
        """Take M2 and return M3 (H6, H7)."""
        with self._lock:
            return self._engine.answer_hello(m2)

    def answer_offer(self, offer: bytes) -> bytes:
        """Take an OFFER and return the ANSWER (O2)."""
        with self._lock:
            return self._engine.answer_offer(offer)

    def finish(self, m4: bytes) -> SessionTerms:
        """Take M4, verify it and the receipt in it, and begin the session (H9, H10)."""
        with self._lock:
            return self._engine.finish(m4)

    def seal(self, plaintext: bytes | bytearray | memoryview, *, aad: bytes = b"", kind: int = KIND_DATA) -> bytes:
        """Seal one record to the server (R3)."""
        with self._lock:
            return self._engine.seal(plaintext, aad=aad, kind=kind)

    def open_record(self, record: bytes | bytearray | memoryview, *, aad: bytes = b"") -> SecretBytes:
        """
        Open one record from the server; the caller wipes it.

        Raises:
            AuthenticationError: the record is not authentic.
            ReplayError: it was opened before.
        """
        with self._lock:
            return self._engine.open(record, aad=aad).plaintext

    def open_request(self, record: bytes | bytearray | memoryview, *, aad: bytes = b"") -> Reply:
        """Open a request of the server's, whose id `seal_reply` and `reply` take (R6); errors as `open_record`."""
        with self._lock:
            return self._engine.open(record, aad=aad, kind=KIND_REQUEST)

    def open_reply(self, record: bytes | bytearray | memoryview, *, aad: bytes = b"") -> Reply:
        """
        Open the late reply to a request of ours, once (R6); its session need not be the present one.

        Raises:
            AuthenticationError: the reply is not authentic; it is still awaited.
            KeyNotFoundError: it was taken before, its time is over, or nobody asked.
        """
        with self._lock:
            return self._engine.open(record, aad=aad, kind=KIND_REPLY)

    def seal_request(
        self, plaintext: bytes | bytearray | memoryview, *, aad: bytes = b"", lifetime: int = wire.LIFETIME_MAX
    ) -> tuple[RequestId, bytes]:
        """Seal a request whose reply may come late; return its id and the record (R6). See `request`."""
        with self._lock:
            return self._engine.seal_request(plaintext, aad=aad, lifetime=lifetime)

    def seal_reply(self, request_id: bytes, plaintext: bytes | bytearray | memoryview, *, aad: bytes = b"") -> bytes:
        """Seal the reply to a request of the server's; the record may be sent as often as needed (R6). See `reply`."""
        with self._lock:
            return self._engine.seal_reply(RequestId(request_id), plaintext, aad=aad)

    def begin_rekey(self) -> bytes:
        """Return REKEY in a new record; the same body while one is pending (R7). `open_record` takes its answer."""
        with self._lock:
            return self._engine.begin_rekey()

    def begin_rotation(self) -> bytes:
        """Return ROTATE as a record to send; new keys are made once and kept beside the old ones (E4)."""
        with self._lock:
            return self._engine.rotation.begin()

    def finish_rotation(self, record: bytes) -> int:
        """Take the record that answers ROTATE, erase the old keys, and return the new version (E4)."""
        with self._lock:
            return self._engine.rotation.finish(record)

    def derive_session_key(
        self, purpose: str, *, bucket: int | None = None, direction: int = wire.DIRECTION_TO_SERVER
    ) -> SecretBytes:
        """Return the session's key for *purpose*, 64 bytes, the same as the server's (R2); the caller wipes it."""
        with self._lock:
            return self._engine.derive_session_key(purpose, bucket=bucket, direction=direction)

    def evidence(self) -> Evidence:
        """Return what the device can show to third parties about its session (H9)."""
        with self._lock:
            return self._engine.evidence()
