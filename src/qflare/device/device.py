"""`Device`: the edge side, blocking. `AsyncDevice` beside it is the same for asyncio."""

from __future__ import annotations

import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from qflare.clock import Clock, SystemClock
from qflare.device.carrying import Carrying
from qflare.device.engine import ATTEMPTS_DEFAULT, DeviceEngine
from qflare.device.enrolling import enrol, load_state, new_state_file, save_state
from qflare.device.flow import Flow, Pause
from qflare.device.records import Form, Reply, SessionTerms
from qflare.device.state import DeviceState
from qflare.device.state_file import StateFile
from qflare.device.transport import HttpTransport, Transport
from qflare.errors import ConfigError, QflareError
from qflare.model.ids import RequestId
from qflare.protocol import wire
from qflare.protocol.identity import decode_identity
from qflare.protocol.token import decode_token

if TYPE_CHECKING:
    from collections.abc import Callable

    from qflare.protocol.device_identity import DeviceIdentity
    from qflare.protocol.rotation import Urgency

T = TypeVar("T")
Server = str | Transport
"""Where the server is: an ``http(s)://`` address, or a transport of one's own."""


class Device(Carrying):
    """
    An edge device: enrols once, makes sessions, seals and opens records. Safe to share between threads.

    Close it, or use it as a context manager: closing wipes its secrets from memory and lets go of the state file.
    """

    def __init__(
        self, state: DeviceState, *, file: StateFile | None, transport: Transport | None, clock: Clock
    ) -> None:
        """Use `enrol`, `open` or `from_identity` instead."""
        self._file = file
        self._transport = transport
        self._lock = threading.RLock()
        self._engine = DeviceEngine(
            state,
            save=lambda changed: save_state(file, changed),
            clock=clock,
            # New keys that live in memory alone would lock out the device whose old ones are kept elsewhere.
            follows_policy=file is not None,
        )
        self._is_closed = False

    # --- how a device comes to be -----------------------------------------------------------------------------------

    @classmethod
    def enrol(
        cls, server: Server, token: str, *, device_id: str, state: Path | str, clock: Clock | None = None
    ) -> Self:
        """
        Enrol with the server and keep the state in a new file (PROTOCOL E).

        Args:
            server: Its address, or a transport.
            token: The enrolment token, as the operator gave it (E1).
            device_id: The name the token was issued for, 1 to 255 bytes of UTF-8.
            state: Where the device's state is kept, a file that must not exist; 0600.
            clock: What tells elapsed time; the system's if not given.

        Raises:
            RefusedError: the token is unknown, expired, used, or for another name.
            AlreadyExistsError: the state file holds a device.
            DecodeError: the token is mistyped.
            StoreUnavailableError: the server cannot be reached.
        """
        transport = as_transport(server)
        try:
            decoded = decode_token(token)
        finally:
            # WHY: error reporters show a frame's locals, and a refused enrolment's token may still be good.
            del token
        with decoded:
            file = StateFile(Path(state))
            try:
                fresh = run_flow(enrol(decoded, device_id, file), transport)
            except BaseException:
                file.close()
                transport.close()
                raise
        return cls(fresh, file=file, transport=transport, clock=clock or SystemClock())

    @classmethod
    def open(cls, state: Path | str, server: Server | None = None, *, clock: Clock | None = None) -> Self:
        """
        Open an enrolled device's state file.

        Args:
            state: The file `enrol` made.
            server: Address or transport; None for a caller that carries the messages itself.
            clock: What tells elapsed time; the system's if not given.

        Raises:
            ConfigError: no such file, open to others, or in use by another process.
            DecodeError: the file is cut or altered.
        """
        file = StateFile(Path(state))
        try:
            loaded = load_state(file)
            transport = None if server is None else as_transport(server)
        except BaseException:
            file.close()
            raise
        return cls(loaded, file=file, transport=transport, clock=clock or SystemClock())

    @classmethod
    def from_identity(
        cls,
        identity: DeviceIdentity,
        *,
        served: bytes,
        server: Server | None = None,
        state: Path | str | None = None,
        bucket_mark: int = 0,
        clock: Clock | None = None,
    ) -> Self:
        """
        Make a device from keys that were made for it (PROTOCOL E5: provisioning and simulation); it owns them then.

        Args:
            identity: What `generate_device_keypair` returned, through its `identity()`.
            served: The server's ``root vk ‖ CERT``, checked against the identity's server_id.
            server: Address or transport, or None.
            state: A new state file, or None to keep the state in memory alone, where it ends with the process.
            bucket_mark: No announcement below this bucket is accepted (A5).
            clock: What tells elapsed time; the system's if not given.
        """
        fresh = DeviceState(
            identity=identity, server=decode_identity(served, server_id=identity.server_id), bucket_mark=bucket_mark
        )
        file = None if state is None else new_state_file(Path(state))
        try:
            save_state(file, fresh)
            transport = None if server is None else as_transport(server)
        except BaseException:
            if file is not None:
                file.close()
            raise
        return cls(fresh, file=file, transport=transport, clock=clock or SystemClock())

    @property
    def engine(self) -> DeviceEngine:
        """Return the device's logic, which carries nothing itself; for drivers such as `AsyncDevice`."""
        return self._engine

    # --- what it is -------------------------------------------------------------------------------------------------

    @property
    def device_id(self) -> str:
        """Return the device's name."""
        return self._engine.state.identity.device_id

    @property
    def ref(self) -> bytes:
        """Return what the server knows the device by, 32 bytes (H2)."""
        return self._engine.state.identity.ref

    @property
    def key_version(self) -> int:
        """Return the version of the keys that the device goes by."""
        return self._engine.state.identity.key_version

    @property
    def server_id(self) -> bytes:
        """Return the server the device is pinned to, 32 bytes (A1)."""
        return self._engine.state.identity.server_id

    @property
    def bucket(self) -> int | None:
        """Return the bucket of the latest verified announcement, None before the first."""
        latest = self._engine.state.announcement
        return None if latest is None else latest.bucket

    @property
    def session(self) -> SessionTerms | None:
        """Return the terms of the live session, None if there is none."""
        chain = self._engine.state.chain
        return None if chain is None or chain.is_ended else self._engine.terms()

    # --- over a transport -------------------------------------------------------------------------------------------

    def connect(self, form: Form = "hello", *, attempts: int = ATTEMPTS_DEFAULT) -> SessionTerms:
        """
        Make a session with the server: "hello", which the device starts, or "offer", which the server starts.

        A device with a state file then asks, once an hour at most, whether a policy of the server has made its keys due
        and rotates them if so; what goes wrong there waits for the next session.

        Raises:
            RefusedError: refused every time; between two attempts it waits 1 to 300 s, growing (N5).
            AuthenticationError: what came is not the server's.
            LogForkError: the audit log shows two roots for one size (H9).
            StoreUnavailableError: the server cannot be reached.
        """
        return self._run(lambda engine: engine.connect(form, attempts=attempts))

    def refresh(self) -> int:
        """Fetch and verify the current announcement, turn the session to it, and return its bucket."""
        return self._run(lambda engine: engine.refresh()).bucket

    def exchange(self, plaintext: bytes | bytearray | memoryview, *, aad: bytes = b"") -> Reply | None:
        """
        Send one record and return the server's reply, or None if it has none; the caller wipes it.

        Raises:
            RefusedError: the server refused the record.
            StoreUnavailableError: no answer came; the record may have been taken, so it was not sent twice.
        """
        return self._run(lambda engine: engine.exchange(plaintext, aad=aad))

    def rotation_urgency(self) -> Urgency:
        """
        Ask the server whether the device's keys are to be rotated (E4).

        Raises:
            RefusedError: the server refused; one that knows no rotation policies does.
            StoreUnavailableError: no answer came.
        """
        return self._run(lambda engine: engine.rotation.ask())

    @property
    def rotation_failure(self) -> QflareError | None:
        """Return why the last `connect` could not ask or rotate, None if it could; the next one tries again."""
        return self._engine.rotation.failure

    def rotate_keys(self) -> int:
        """
        Rotate the device's keys inside the session and return their new version (E4); the old ones are erased then.

        Raises:
            RefusedError: the server refused; old and new keys are kept, and the next call goes on with them.
            SessionExpiredError: the device has no session.
            StoreUnavailableError: no answer came; likewise.
        """
        return self._run(lambda engine: engine.rotation.rotate())

    def request(
        self, plaintext: bytes | bytearray | memoryview, *, aad: bytes = b"", lifetime: int = wire.LIFETIME_MAX
    ) -> tuple[RequestId, Reply | None]:
        """
        Send a request whose reply may come late (R6).

        Args:
            plaintext: The message.
            aad: The application's associated data.
            lifetime: In how many buckets, from this one on, its reply is taken, 1 to 288; not beyond the session's end.

        Returns:
            The request id, and what the server answered at once, None if it has nothing to say yet.  The late reply
            comes whenever and however the application brings it: `open_reply`, or as the answer of a later `exchange`.

        Raises:
            OverloadedError: 64 replies are outstanding.
            RefusedError: the server refused the record.
            StoreUnavailableError: no answer came; the request may have been taken, and its reply is still awaited.
        """
        return self._run(lambda engine: engine.request(plaintext, aad=aad, lifetime=lifetime))

    def reply(self, request_id: bytes, plaintext: bytes | bytearray | memoryview, *, aad: bytes = b"") -> Reply | None:
        """
        Send the reply to a request of the server's, hours later if need be (R6), and return what it answers to that.

        A request is answered once: its key is gone when this is called.

        Raises:
            KeyNotFoundError: no such request is outstanding.
            RefusedError: the server refused the reply: its time is over, or its session has ended.
        """
        return self._run(lambda engine: engine.reply(RequestId(request_id), plaintext, aad=aad))

    def rekey(self) -> SessionTerms:
        """
        Heal the session (R7): whoever has stolen its keys, and did nothing with them for one bucket, is out again.

        A rekey that could not be finished goes on here, or with the next `exchange`.  Refused, the device makes a new
        handshake instead, which gives more: authentication too.

        Raises:
            StoreUnavailableError: no answer came; call it again.
        """
        return self._run(lambda engine: engine.rekey())

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Wipe the secrets from memory and let go of state file and transport. Safe to call twice."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._engine.state.wipe()
            if self._file is not None:
                self._file.close()
            if self._transport is not None:
                self._transport.close()

    def __enter__(self) -> Self:
        """Lend the device to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close at the end of the block, however it ends."""
        self.close()

    def __del__(self) -> None:
        """Say that a device was forgotten; its secrets are wiped with their owners."""
        if not getattr(self, "_is_closed", True):
            warnings.warn(f"{self!r} was not closed", ResourceWarning, stacklevel=1, source=self)
            self.close()

    def __repr__(self) -> str:
        """Name the device, no secret."""
        return f"<Device {self.device_id!r}>"

    def _run(self, begin: Callable[[DeviceEngine], Flow[T]]) -> T:
        if self._transport is None:
            message = "this device has no transport; give it a server, or carry the messages yourself"
            raise ConfigError(message)
        with self._lock:
            return run_flow(begin(self._engine), self._transport)


def as_transport(server: Server) -> Transport:
    """Return *server* as a transport: an address becomes an `HttpTransport`."""
    return HttpTransport(server) if isinstance(server, str) else server


def run_flow(flow: Flow[T], transport: Transport) -> T:
    """Drive *flow* over *transport*, blocking, and return its result."""
    try:
        wish = next(flow)
        while True:
            if isinstance(wish, Pause):
                time.sleep(wish.seconds)
                wish = flow.send(b"")
                continue
            try:
                answer = transport.exchange(wish.step, wish.message)
            except QflareError as error:
                # The flow decides whether what went wrong is worth another try.
                wish = flow.throw(error)
            else:
                wish = flow.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result
