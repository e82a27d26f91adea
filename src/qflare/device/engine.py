"""
The device's own logic: handshakes, sessions and records over a state that is saved before anything is answered.

Everything here is synchronous, carries nothing itself, and is driven through `device.flow`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.device.flow import DELIVERIES_MAX, Flow, Send, deliver, pause_before, refused
from qflare.device.records import DeviceRecords, Form, Reply, SessionTerms
from qflare.device.rotation import KeyRotation
from qflare.device.transport import Step
from qflare.errors import (
    AuthenticationError,
    RefusedError,
    StoreUnavailableError,
    UnexpectedMessageError,
    UsageError,
)
from qflare.protocol import wire
from qflare.protocol.announcement import Announcement, accept_announcement
from qflare.protocol.chain import SessionChain
from qflare.protocol.confirm_device import accept_confirmation
from qflare.protocol.envelope import encode_envelope, split_envelope
from qflare.protocol.hello_device import accept_hello, start_hello
from qflare.protocol.offer_device import accept_offer, offer_bucket

if TYPE_CHECKING:
    from collections.abc import Callable

    from qflare.clock import Clock
    from qflare.device.state import DeviceState
    from qflare.model.ids import RequestId
    from qflare.protocol.established import EstablishedSession
    from qflare.protocol.pending import PendingConfirmation

FORMS: Final[dict[Form, int]] = {"hello": wire.FORM_HELLO, "offer": wire.FORM_OFFER}
ATTEMPTS_DEFAULT: Final = 3
_CURRENT: Final = b"current"


class DeviceEngine(DeviceRecords):
    """One device's state and what it can do with it; not for several threads at once."""

    def __init__(
        self, state: DeviceState, *, save: Callable[[DeviceState], None], clock: Clock, follows_policy: bool = False
    ) -> None:
        """
        Work on *state*; *save* makes it durable and is called before any answer leaves.

        *follows_policy* lets `connect` rotate the keys when they are due; only where the state outlives the process.
        """
        super().__init__(state, save=save)
        self.rotation = KeyRotation(self)
        self._follows_policy = follows_policy
        self._clock = clock
        self._fetched: tuple[int, int] | None = None
        """When the latest announcement came: monotonic nanoseconds and wall-clock seconds."""

    # --- the server's announcements ---------------------------------------------------------------------------------

    def refresh(self) -> Flow[Announcement]:
        """Fetch the current announcement, verify it, and turn the session to its bucket."""
        encoded = yield from deliver(Step.ANNOUNCEMENT, _CURRENT)
        announcement = yield from self._verified(encoded)
        self._fetched = self._clock.monotonic_ns(), self._clock.now_s()
        self._turn(announcement)
        return announcement

    def take_announcement(self, encoded: bytes) -> Announcement:
        """Verify an announcement that came some other way, and turn the session to its bucket (A5)."""
        announcement = self._check(encoded)
        self._fetched = self._clock.monotonic_ns(), self._clock.now_s()
        self._turn(announcement)
        return announcement

    def _verified(self, encoded: bytes) -> Flow[Announcement]:
        """Verify an announcement; where its key is unknown, see once whether the server's CERT has changed (A1)."""
        try:
            return self._check(encoded)
        except AuthenticationError:
            yield from self._follow()
            return self._check(encoded)

    def _follow(self) -> Flow[bool]:
        """Fetch the server's CERT and follow to it; return whether it is a new one."""
        served = yield from deliver(Step.IDENTITY, b"")
        return self.take_identity(served)

    def _check(self, encoded: bytes) -> Announcement:
        state, latest = self.state, self.state.announcement
        return accept_announcement(
            encoded,
            state.server,
            minimum_bucket=state.bucket_mark,
            width_s=None if latest is None else latest.width_s,
            held=latest,
        )

    def take_identity(self, served: bytes) -> bool:
        """
        Follow the server to the CERT that it serves now (A1), durably; return whether it is a new one.

        Raises:
            ServerIdentityError: it is another server's.
            AuthenticationError: it is altered.
            RefusedError: its serial fell, or other bytes came under the serial that is held.
        """
        state = self.state
        latest = -1 if state.announcement is None else state.announcement.bucket
        followed = state.server.follow(served, bucket=max(state.bucket_mark, latest))
        if followed is state.server:
            return False
        state.server = followed
        if state.announcement is not None:
            try:
                accept_announcement(state.announcement.encoded, followed)
            except AuthenticationError:
                # Under a key that is good for nothing any more; what is fetched next takes its place.
                state.announcement = None
        self._save(state)
        return True

    def _turn(self, announcement: Announcement) -> None:
        state = self.state
        if state.announcement is None or announcement.bucket >= state.announcement.bucket:
            state.announcement = announcement
        state.advance_to(announcement.bucket)
        self._save(state)

    def _current(self) -> Flow[Announcement]:
        """Return the latest announcement, fetched anew where half a bucket has gone by since."""
        latest, fetched = self.state.announcement, self._fetched
        if latest is None or fetched is None:
            return (yield from self.refresh())
        # The monotonic clock may stand still while the device sleeps, the wall clock may be set: either one is enough.
        # Nothing rests on them but to have the right bucket before a record is sealed.
        elapsed_s = max((self._clock.monotonic_ns() - fetched[0]) // 10**9, abs(self._clock.now_s() - fetched[1]))
        if 2 * elapsed_s > latest.width_s:
            return (yield from self.refresh())
        return latest

    # --- handshakes -------------------------------------------------------------------------------------------------

    def connect(self, form: Form, *, attempts: int = ATTEMPTS_DEFAULT) -> Flow[SessionTerms]:
        """
        Make a session, in the *form* asked for; starts over up to *attempts* times when refused (N5).

        Raises:
            RefusedError: the server refused every time.
            AuthenticationError: what came is not the server's.
            StoreUnavailableError: the server cannot be reached.
        """
        if form not in FORMS:
            message = f"a handshake has the form 'hello' or 'offer', not {form!r}"
            raise UsageError(message)
        if attempts < 1:
            message = f"attempts must be at least 1, got {attempts}"
            raise UsageError(message)
        for attempt in range(1, attempts + 1):
            try:
                yield from self._handshake(form)
                break
            except RefusedError:
                if attempt == attempts:
                    raise
                yield pause_before(attempt)
        if self._follows_policy:
            yield from self.rotation.follow()
        return self.terms()

    def _handshake(self, form: Form) -> Flow[SessionTerms]:
        for _ in range(2 if self.state.rotating is not None else 1):
            try:
                return (yield from self._hello() if form == "hello" else self._offer())
            except RefusedError as refusal:
                failure = refusal
                self._forget_handshakes(FORMS[form])
                # E4: while a rotation is under way the server knows either key version, and does not say which.
                self.state.swap_keys()
                self.save()
        raise failure

    def _hello(self) -> Flow[SessionTerms]:
        # H7: what was pending when the device stopped goes on with the same bytes.
        pending = next((kept for kept in self.state.confirmations if kept.form == wire.FORM_HELLO), None)
        if pending is None:
            if self.state.hello is None:
                yield from self.refresh()
                self.begin_hello()
            hello = self.state.hello
            if hello is None:  # pragma: no cover - begin_hello made it
                raise AssertionError
            answer = yield from deliver(Step.HELLO, hello.message)
            self.answer_hello(answer)
            pending = self.state.confirmations[-1]
        answer = yield from deliver(Step.CONFIRM, pending.message)
        return (yield from self._finish(answer))

    def _offer(self) -> Flow[SessionTerms]:
        yield from self.refresh()
        identity = self.state.identity
        offer = yield from deliver(Step.OFFER, identity.ref + identity.tenant_id)
        yield from self.learn_bucket_of(offer)
        answer = self.answer_offer(offer)
        confirmation = yield from deliver(Step.CONFIRM, answer)
        return (yield from self._finish(confirmation))

    def _finish(self, m4: bytes) -> Flow[SessionTerms]:
        """Take M4; where the receipt's key is unknown, see once whether the server's CERT has changed (A1)."""
        try:
            return self.finish(m4)
        except AuthenticationError:
            if not (yield from self._follow()):
                raise
            return self.finish(m4)

    def learn_bucket_of(self, offer: bytes) -> Flow[None]:
        """Fetch the announcement of the bucket an OFFER names, where it is not the latest."""
        bucket = offer_bucket(offer)
        latest = self.state.announcement
        if latest is None or bucket > latest.bucket:
            encoded = yield from deliver(Step.ANNOUNCEMENT, str(bucket).encode())
            self._turn((yield from self._verified(encoded)))

    def begin_hello(self) -> bytes:
        """Make M1 (H1, H2) under the latest announcement; the same bytes while one is pending."""
        state = self.state
        if state.announcement is None:
            message = "fetch an announcement first (refresh)"
            raise UsageError(message)
        if state.hello is None:
            state.hello = start_hello(state.identity, state.announcement)
            self._save(state)
        return state.hello.message

    def answer_hello(self, m2: bytes) -> bytes:
        """Take M2 and make M3 (H6, H7)."""
        state = self.state
        if state.hello is None:
            message = "an M2 came, but no hello is pending; begin a new handshake"
            raise UnexpectedMessageError(message)
        pending = accept_hello(state.hello, m2, state.identity)
        state.drop_hello()
        for stale in [kept for kept in state.confirmations if kept.form == wire.FORM_HELLO]:
            state.drop_pending(stale)
        state.confirmations.append(pending)
        self._save(state)
        return pending.message

    def answer_offer(self, offer: bytes) -> bytes:
        """Take an OFFER and make the ANSWER (O2); the same ANSWER, with the ticket at hand, for the same OFFER."""
        state = self.state
        if state.announcement is None:
            message = "fetch an announcement first (refresh)"
            raise UsageError(message)
        offers = {kept.th1: kept for kept in state.confirmations if kept.form == wire.FORM_OFFER}
        for kept in list(offers.values()):
            # The server cannot finish an offer whose ticket key is gone (A4): it makes room for the next one.
            if kept.bucket + 1 < state.announcement.bucket:
                state.drop_pending(offers.pop(kept.th1))
        pending = accept_offer(offer, state.identity, state.announcement, pending=offers)
        if pending.th1 not in offers:
            state.confirmations.append(pending)
        self._save(state)
        return pending.message

    def finish(self, m4: bytes) -> SessionTerms:
        """Take M4, check tag, inclusion and signature, and begin the session (H9, H10)."""
        state = self.state
        sid = m4[2 : 2 + wire.SID_BYTES]
        candidates = [kept for kept in state.confirmations if kept.sid == sid]
        if not candidates:
            message = "an M4 came for a handshake that is not pending; begin a new one"
            raise UnexpectedMessageError(message)
        pending, established = self._confirmed(candidates, m4)
        state.log_mark = established.log_mark
        state.bucket_mark = max(state.bucket_mark, established.bucket_mark)
        state.take_chain(
            SessionChain.begin(
                established.chain_key, sid=established.sid, start=established.start, lifetime=established.lifetime
            )
        )
        state.form, state.policy, state.evidence = established.form, established.policy, established.evidence
        state.drop_pending(pending)
        state.drop_hello()
        # H8: the server took the keys of this handshake for the current ones.
        state.settle_keys()
        self._save(state)
        return self.terms()

    def _confirmed(
        self, candidates: list[PendingConfirmation], m4: bytes
    ) -> tuple[PendingConfirmation, EstablishedSession]:
        """Find the handshake that M4 confirms: whoever knows `ek_D` can make an OFFER with another one's sid (O2)."""
        state = self.state
        for pending in candidates[:-1]:
            try:
                return pending, accept_confirmation(pending, m4, state.server, state.identity, log_mark=state.log_mark)
            except AuthenticationError:
                continue
        return candidates[-1], accept_confirmation(
            candidates[-1], m4, state.server, state.identity, log_mark=state.log_mark
        )

    def _forget_handshakes(self, form: int) -> None:
        for pending in [kept for kept in self.state.confirmations if kept.form == form]:
            self.state.drop_pending(pending)
        if form == wire.FORM_HELLO:
            self.state.drop_hello()
        self._save(self.state)

    def save(self) -> None:
        """Make the state durable."""
        self._save(self.state)

    # --- over a transport -----------------------------------------------------------------------------------------

    def exchange(self, plaintext: bytes | bytearray | memoryview, *, aad: bytes) -> Flow[Reply | None]:
        """
        Send one record and open the server's reply; None where the server has nothing to say.

        The record is sent once, whatever is answered: a refusal is not authenticated (N5), so one that somebody made up
        after the server had taken the record must not make the device send the same message again.

        Raises:
            RefusedError: the server refused the record, or somebody says so; it may have been taken.
            StoreUnavailableError: no answer came; the record may have been taken.
        """
        yield from self._current()
        yield from self._settle_rekey()
        return (yield from self._send_record(aad, self.seal(plaintext, aad=aad)))

    def request(
        self, plaintext: bytes | bytearray | memoryview, *, aad: bytes, lifetime: int
    ) -> Flow[tuple[RequestId, Reply | None]]:
        """
        Send a request whose reply may come late (R6); its key is durable before it leaves.

        Returns:
            The request id, and what the server answered at once, None where it had nothing to say yet.
        """
        yield from self._current()
        yield from self._settle_rekey()
        request_id, record = self.seal_request(plaintext, aad=aad, lifetime=lifetime)
        answer = yield from self._send_record(aad, record)
        return request_id, answer

    def reply(
        self, request_id: RequestId, plaintext: bytes | bytearray | memoryview, *, aad: bytes
    ) -> Flow[Reply | None]:
        """Send the reply to a request of the server's, however late, and return what it answers to that (R6)."""
        # A reply is of no epoch: that it is refused says nothing of a rekey.
        return (yield from self._send_record(aad, self.seal_reply(request_id, plaintext, aad=aad), is_reply=True))

    def rekey(self) -> Flow[SessionTerms]:
        """
        Go over to the next epoch (R7): the same body in new records until an answer comes, a few times at most.

        Refused, it makes a new handshake: the server has left the old epoch, or will not leave it this way.

        Raises:
            StoreUnavailableError: no answer came; what is pending is kept and goes on with the next call.
        """
        yield from self.refresh()
        for attempt in range(1, DELIVERIES_MAX + 1):
            record = self.begin_rekey()
            pending = self.state.rekey
            if pending is None:  # pragma: no cover - begin_rekey made it
                raise AssertionError
            try:
                answer = yield Send(Step.RECORD, encode_envelope(b"", record))
            except StoreUnavailableError:
                if attempt == DELIVERIES_MAX:
                    raise
                yield pause_before(attempt)
                continue
            if answer == wire.REFUSED:
                self.give_up_session()
                return (yield from self.connect("hello"))
            self.finish_rekey(answer, bucket=pending.bucket, epoch=pending.epoch)
            return self.terms()
        raise AssertionError  # pragma: no cover - the loop returns or raises

    def _settle_rekey(self) -> Flow[None]:
        """Repeat a rekey that is pending while the server can still take it, before anything else is sent."""
        pending, latest = self.state.rekey, self.state.announcement
        if pending is not None and latest is not None and not pending.is_voided_by(latest.bucket):
            yield from self.rekey()

    def _send_record(self, aad: bytes, record: bytes, *, is_reply: bool = False) -> Flow[Reply | None]:
        answer = yield Send(Step.RECORD, encode_envelope(aad, record))
        if answer == wire.REFUSED:
            # The reason may be that the keys are overdue: the next session asks, however short ago the last one did.
            self.state.asked_bucket = None
            if self.state.rekey is not None and not is_reply:
                # R7: the server may have left the old epoch for good.
                self.give_up_session()
                message = "the server refused the record while a rekey was pending; connect() again"
                raise RefusedError(message)
            raise refused(answer, "record")
        if not answer:
            return None
        reply_aad, sealed = split_envelope(answer)
        return self.open(sealed, aad=reply_aad)
