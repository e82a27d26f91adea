"""
Rotation of the device's own keys (PROTOCOL E4): asked for by the server's policy, done inside a session.

Old and new keys are both kept, durably, until the server has shown that it knows the new ones: by ROTATED, or by a
session that stands under them.  Whatever is lost in between, one of the two opens a session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.device.flow import Flow, Send, refused
from qflare.device.transport import Step
from qflare.errors import (
    AuthenticationError,
    ProtocolError,
    QflareError,
    StoreUnavailableError,
    UnexpectedMessageError,
)
from qflare.model.ids import DeviceId, TenantId
from qflare.protocol import wire
from qflare.protocol.device_keys import DeviceKeys
from qflare.protocol.envelope import encode_envelope, split_envelope
from qflare.protocol.record import KIND_CONTROL, RecordHeader, read_header
from qflare.protocol.rotation import Urgency, accept_due, accept_rotated, encode_due_asked, make_rotation

if TYPE_CHECKING:
    from qflare.device.engine import DeviceEngine

ASK_EVERY_S: Final = 3600
"""A device asks at most once in so many seconds of buckets; no policy makes keys due oftener."""


class KeyRotation:
    """What one device does about its rotation; the keys are in the engine's state."""

    def __init__(self, engine: DeviceEngine) -> None:
        """Work on *engine*, whose session carries the control records."""
        self._engine = engine
        self.failure: QflareError | None = None
        """Why the last attempt of `follow` did not come to its end, None if it did."""

    def follow(self) -> Flow[None]:
        """
        Ask whether the keys are due, not too often, and rotate them if so; go on with a rotation that was cut off.

        Nothing that goes wrong here ends the session, which stands: the next one asks again.
        """
        state = self._engine.state
        self.failure = None
        try:
            if state.rotating is None:
                if not self._is_time_to_ask():
                    return
                if (yield from self.ask()) is Urgency.NONE:
                    return
            yield from self.rotate()
        except (ProtocolError, AuthenticationError, StoreUnavailableError) as failure:
            self.failure = failure.with_traceback(None)

    def ask(self) -> Flow[Urgency]:
        """
        Ask the server whether the keys are to be rotated (DUE?).

        Raises:
            AuthenticationError: the answer is not the server's.
            RefusedError: the server refused; one that knows no policies does.
            StoreUnavailableError: no answer came.
        """
        engine = self._engine
        version = engine.state.identity.key_version
        engine.state.asked_bucket = engine.terms().bucket
        body = yield from self._exchange(engine.seal(encode_due_asked(version), aad=b"", kind=KIND_CONTROL))
        return accept_due(body, key_version=version)

    def rotate(self) -> Flow[int]:
        """
        Make new keys, have the server take them, and return their version; the old ones are erased then.

        Raises:
            AuthenticationError: the answer is not the server's.
            RefusedError: the server refused, or somebody says so; old and new keys are kept.
            StoreUnavailableError: no answer came; old and new keys are kept, and the next call goes on.
        """
        body = yield from self._exchange(self.begin())
        return self._settle(body)

    def begin(self) -> bytes:
        """
        Return ROTATE as a sealed control record; its new keys are made once, and durable before they leave.

        Raises:
            SessionExpiredError: the device has no session.
            UsageError: the key_version cannot grow any more.
        """
        engine, state = self._engine, self._engine.state
        engine.chain()
        self._go_by_older()
        if state.rotating is None:
            identity = state.identity
            with DeviceKeys.generate() as keys:
                state.rotating = keys.identity(
                    server_id=identity.server_id,
                    tenant_id=TenantId(identity.tenant_id),
                    device_id=DeviceId(identity.device_id),
                    key_version=identity.key_version + 1,
                    psk=identity.psk,
                )
            engine.save()
        fresh = state.rotating
        # The keys are lent, not copied: the identity in the state goes on owning them.
        body = make_rotation(
            state.identity,
            DeviceKeys(
                verification_key=fresh.verification_key,
                signing_key=fresh.signing_key,
                encapsulation_key=fresh.encapsulation_key,
                decapsulation_key=fresh.decapsulation_key,
            ),
        )
        return engine.seal(body, aad=b"", kind=KIND_CONTROL)

    def finish(self, record: bytes) -> int:
        """
        Take the record that answers ROTATE, erase the old keys, and return the new version.

        Raises:
            AuthenticationError: it is no ROTATED of the server's.
            UnexpectedMessageError: no rotation is under way.
        """
        if self._engine.state.rotating is None:
            message = "a ROTATED came, but no rotation is under way"
            raise UnexpectedMessageError(message)
        return self._settle(self._open(record))

    def _settle(self, body: bytes) -> int:
        state = self._engine.state
        self._go_by_older()
        fresh = state.rotating
        if fresh is None:  # pragma: no cover - begin made them
            raise AssertionError
        accept_rotated(body, key_version=fresh.key_version)
        state.swap_keys()
        state.settle_keys()
        self._engine.save()
        return state.identity.key_version

    def _go_by_older(self) -> None:
        """Leave a trial of the newer keys that did not lead to a session: the rotation begins at the older ones."""
        state = self._engine.state
        if state.rotating is not None and state.rotating.key_version < state.identity.key_version:
            state.swap_keys()

    def _is_time_to_ask(self) -> bool:
        state = self._engine.state
        latest, asked = state.announcement, state.asked_bucket
        if latest is None or asked is None:
            return True
        # In buckets, which the server signs: the device's own clock may say anything.
        return abs(latest.bucket - asked) * latest.width_s >= ASK_EVERY_S

    def _exchange(self, record: bytes) -> Flow[bytes]:
        """Send a control record once, and return the body of the control record that answers it."""
        answer = yield Send(Step.RECORD, encode_envelope(b"", record))
        if answer == wire.REFUSED:
            raise refused(answer, "control record")
        if not answer:
            raise AuthenticationError
        _, sealed = split_envelope(answer)
        return self._open(sealed)

    def _open(self, record: bytes | memoryview) -> bytes:
        header = read_header(record)
        # What the application says is no answer to a control record, whatever it looks like.
        if not isinstance(header, RecordHeader) or header.kind != KIND_CONTROL:
            raise AuthenticationError
        with self._engine.open(record, aad=b"").plaintext as plaintext, plaintext.view() as view:
            # DUE and ROTATED hold nothing secret.
            return bytes(view)
