"""`AsyncDevice`: the edge side for asyncio; the same flows as `Device`, awaited."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Self, TypeAlias, TypeVar

from qflare.clock import Clock, SystemClock
from qflare.device.device import Device
from qflare.device.engine import ATTEMPTS_DEFAULT
from qflare.device.enrolling import enrol
from qflare.device.flow import Flow, Pause, Send
from qflare.device.records import Form, Reply, SessionTerms
from qflare.device.state_file import StateFile
from qflare.device.transport import AsyncHttpTransport, AsyncTransport
from qflare.errors import QflareError
from qflare.model.ids import RequestId
from qflare.protocol import wire
from qflare.protocol.token import decode_token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qflare.protocol.evidence import Evidence
    from qflare.protocol.rotation import Urgency
    from qflare.secret import SecretBytes

T = TypeVar("T")


class AsyncDevice:
    """
    An edge device for asyncio: what `Device` does, without blocking the loop.

    Cryptography and the durable writes run in a worker thread; one call at a time works on the state.
    """

    def __init__(self, device: Device, transport: AsyncTransport) -> None:
        """Use `enrol` or `open` instead."""
        self._device = device
        self._transport = transport
        self._lock = asyncio.Lock()

    @classmethod
    async def enrol(
        cls, server: str | AsyncTransport, token: str, *, device_id: str, state: Path | str, clock: Clock | None = None
    ) -> Self:
        """Enrol with the server and keep the state in a new file; see `Device.enrol`."""
        transport = _as_transport(server)
        try:
            try:
                decoded = decode_token(token)
            finally:
                # WHY: error reporters show a frame's locals, and a refused enrolment's token may still be good.
                del token
            with decoded:
                file = await asyncio.to_thread(StateFile, Path(state))
                try:
                    fresh = await _run_flow(enrol(decoded, device_id, file), transport)
                except BaseException:
                    file.close()
                    raise
        except BaseException:
            await transport.close()
            raise
        return cls(Device(fresh, file=file, transport=None, clock=clock or SystemClock()), transport)

    @classmethod
    async def open(cls, state: Path | str, server: str | AsyncTransport, *, clock: Clock | None = None) -> Self:
        """Open an enrolled device's state file; see `Device.open`."""
        device = await asyncio.to_thread(Device.open, state, None, clock=clock)
        return cls(device, _as_transport(server))

    @property
    def device(self) -> Device:
        """Return the device underneath, for what needs no transport; its calls block for some tens of microseconds."""
        return self._device

    @property
    def device_id(self) -> str:
        """Return the device's name."""
        return self._device.device_id

    @property
    def session(self) -> SessionTerms | None:
        """Return the terms of the live session, None if there is none."""
        return self._device.session

    async def connect(self, form: Form = "hello", *, attempts: int = ATTEMPTS_DEFAULT) -> SessionTerms:
        """Make a session with the server; see `Device.connect`."""
        return await self._run(lambda: self._device.engine.connect(form, attempts=attempts))

    async def refresh(self) -> int:
        """Fetch and verify the current announcement, turn the session to it, and return its bucket."""
        return (await self._run(self._device.engine.refresh)).bucket

    async def exchange(self, plaintext: bytes | bytearray | memoryview, *, aad: bytes = b"") -> Reply | None:
        """Send one record and return the server's reply, or None; see `Device.exchange`."""
        return await self._run(lambda: self._device.engine.exchange(plaintext, aad=aad))

    async def rotation_urgency(self) -> Urgency:
        """Ask the server whether the device's keys are to be rotated; see `Device.rotation_urgency`."""
        return await self._run(self._device.engine.rotation.ask)

    async def rotate_keys(self) -> int:
        """Rotate the device's keys inside the session and return their new version; see `Device.rotate_keys`."""
        return await self._run(self._device.engine.rotation.rotate)

    async def request(
        self, plaintext: bytes | bytearray | memoryview, *, aad: bytes = b"", lifetime: int = wire.LIFETIME_MAX
    ) -> tuple[RequestId, Reply | None]:
        """Send a request whose reply may come late; see `Device.request`."""
        return await self._run(lambda: self._device.engine.request(plaintext, aad=aad, lifetime=lifetime))

    async def reply(
        self, request_id: bytes, plaintext: bytes | bytearray | memoryview, *, aad: bytes = b""
    ) -> Reply | None:
        """Send the reply to a request of the server's; see `Device.reply`."""
        return await self._run(lambda: self._device.engine.reply(RequestId(request_id), plaintext, aad=aad))

    async def open_reply(self, record: bytes | bytearray | memoryview, *, aad: bytes = b"") -> Reply:
        """Open the late reply to a request of ours, once; see `Device.open_reply`."""
        async with self._lock:
            return await _in_thread(lambda: self._device.open_reply(record, aad=aad))

    async def rekey(self) -> SessionTerms:
        """Heal the session; see `Device.rekey`."""
        return await self._run(self._device.engine.rekey)

    async def derive_session_key(self, purpose: str, *, bucket: int | None = None) -> SecretBytes:
        """Return the session's key for *purpose*, 64 bytes; see `Device.derive_session_key`."""
        async with self._lock:
            return self._device.derive_session_key(purpose, bucket=bucket)

    def evidence(self) -> Evidence:
        """Return what the device can show to third parties about its session (H9)."""
        return self._device.evidence()

    async def close(self) -> None:
        """Wipe the secrets from memory and let go of state file and transport. Safe to call twice."""
        self._device.close()
        await self._transport.close()

    async def __aenter__(self) -> Self:
        """Lend the device to a block."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close at the end of the block, however it ends."""
        await self.close()

    async def _run(self, begin: Callable[[], Flow[T]]) -> T:
        async with self._lock:
            return await _run_flow(begin(), self._transport, self._pause)

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _as_transport(server: str | AsyncTransport) -> AsyncTransport:
    return AsyncHttpTransport(server) if isinstance(server, str) else server


_Wait: TypeAlias = "Callable[[float], Awaitable[None]]"


async def _run_flow(flow: Flow[T], transport: AsyncTransport, wait: _Wait = asyncio.sleep) -> T:
    """Drive *flow* over *transport* and return its result; each step of it runs in a worker thread."""
    wish: _Step[T] = await _in_thread(lambda: _step(flow, lambda: next(flow)))
    while not isinstance(wish, _Ended):
        wish = await _in_thread(await _answer(flow, wish, transport, wait))
    return wish.value


async def _answer(flow: Flow[T], wish: Send | Pause, transport: AsyncTransport, wait: _Wait) -> Callable[[], _Step[T]]:
    """Do what the flow wished for, and return its next step with the answer in it."""
    if isinstance(wish, Pause):
        await wait(wish.seconds)
        return lambda: _step(flow, lambda: flow.send(b""))
    try:
        answer = await transport.exchange(wish.step, wish.message)
    except QflareError as error:
        failure = error
        return lambda: _step(flow, lambda: flow.throw(failure))
    return lambda: _step(flow, lambda: flow.send(answer))


class _Ended(Generic[T]):
    """The flow returned; a StopIteration cannot cross a thread's future."""

    def __init__(self, value: T) -> None:
        self.value = value


_Step: TypeAlias = Send | Pause | _Ended[T]


def _step(_flow: Flow[T], advance: Callable[[], Send | Pause]) -> _Step[T]:
    try:
        return advance()
    except StopIteration as stop:
        value: T = stop.value
        return _Ended(value)


async def _in_thread(step: Callable[[], T]) -> T:
    # A thread cannot be cancelled: a cancelled caller waits for the step at hand, so the state is never half changed.
    task = asyncio.ensure_future(asyncio.to_thread(step))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
