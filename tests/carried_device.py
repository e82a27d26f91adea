"""A device carried by hand to any of several managers: every message may be lost on either side, or a worker may die."""

from qflare.device.device import Device
from qflare.device.flow import Pause
from qflare.device.transport import Step
from qflare.errors import QflareError, RefusedError, StoreUnavailableError
from qflare.protocol import wire
from qflare.protocol.envelope import encode_envelope, split_envelope
from qflare.protocol.record import KIND_CONTROL


class LostError(StoreUnavailableError):
    """A message that nobody saw, or an answer that did not come."""

    def __init__(self):
        super().__init__("it was lost")


class CarriedDevice:
    """A `Device` whose flows are driven against managers; pauses are not waited out."""

    def __init__(self, pair, served, clock, folder=None):
        self.pair, self.served, self.clock = pair, served, clock
        self.path = None if folder is None else folder / f"{pair.device_id}.state"
        self.device = Device.from_identity(pair.identity(), served=served, state=self.path, clock=clock)
        self.route = lambda _step: 0
        """Which manager a message goes to."""
        self.faults = []
        """Faults of the coming records: None, "sent" (the server never sees it) or "answer" (nothing comes back)."""
        self.on_record = None
        """Answers an opened record: bytes of an envelope."""
        self.sent = []
        self.reasons = []

    @classmethod
    async def provision(cls, manager, clock, folder=None, name="carried"):
        pair = await manager.generate_device_keypair(name)
        return cls(pair, await manager.identity(), clock, folder)

    def restart(self):
        """End the device as a crash does, and start it from its state file."""
        if self.device._file is not None:
            self.device._file.close()
        self.device._is_closed = True
        self.device = Device.open(self.path, clock=self.clock)

    @property
    def state(self):
        return self.device.engine.state

    async def run(self, managers, flow):
        """Drive *flow* and return its result."""
        try:
            wish = next(flow)
            while True:
                if isinstance(wish, Pause):
                    wish = flow.send(b"")
                    continue
                try:
                    answer = await self.carry(managers, wish.step, bytes(wish.message))
                except QflareError as error:
                    wish = flow.throw(error)
                else:
                    wish = flow.send(answer)
        except StopIteration as stop:
            return stop.value

    async def carry(self, managers, step, message):
        """Take one message to a manager and bring the answer."""
        self.sent.append((step, message))
        fault = self.faults.pop(0) if step is Step.RECORD and self.faults else None
        if fault == "sent":
            raise LostError
        manager = managers[self.route(step) % len(managers)]
        try:
            answer = await self._answer(manager, step, message)
        except RefusedError as refused:
            self.reasons.append(refused.reason)
            answer = wire.REFUSED
        if fault == "answer":
            raise LostError
        return answer

    async def _answer(self, manager, step, message):
        match step:
            case Step.IDENTITY:
                return await manager.identity()
            case Step.ANNOUNCEMENT:
                which = message.decode()
                return await manager.announcement(int(which) if which.isdigit() else which)
            case Step.HELLO:
                return await manager.answer_hello(message)
            case Step.CONFIRM:
                return (await manager.confirm(message)).confirmation
        return await self._answer_record(manager, message)

    async def _answer_record(self, manager, message):
        aad, record = split_envelope(message)
        with await manager.open_record(record, aad=aad) as opened:
            if opened.header.kind == KIND_CONTROL:
                return encode_envelope(b"", await manager.answer_control(opened))
            if self.on_record is not None:
                return await self.on_record(manager, opened)
            echo = bytes(opened.plaintext.view()).upper()
            return encode_envelope(b"", await manager.seal_record(opened.session.sid, echo))

    # --- what a device does, each over *managers* ---------------------------------------------------

    async def connect(self, *managers):
        return await self.run(managers, self.device.engine.connect("hello"))

    async def rekey(self, *managers):
        return await self.run(managers, self.device.engine.rekey())

    async def echo(self, *managers, text=b"echo"):
        """Send a record and check that its answer opens."""
        reply = await self.run(managers, self.device.engine.exchange(text, aad=b""))
        with reply.plaintext as plaintext:
            assert plaintext.equals(text.upper())
        return reply

    async def refresh(self, *managers):
        return (await self.run(managers, self.device.engine.refresh())).bucket

    @property
    def epoch(self):
        return self.device.session.epoch

    def records_sent(self):
        return [message for step, message in self.sent if step is Step.RECORD]
