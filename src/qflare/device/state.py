"""What a device remembers between two starts: who it is, whom it trusts, its marks, its session, what is pending."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from qflare.device.reply_keys import REPLY_KEYS_MAX, ReplyKey, ReplyKeys
from qflare.errors import DecodeError, QflareError
from qflare.model.ids import RequestId, SessionId
from qflare.protocol.announcement import Announcement, accept_announcement
from qflare.protocol.chain import SessionChain
from qflare.protocol.device_identity import DeviceIdentity
from qflare.protocol.evidence import Evidence
from qflare.protocol.identity import ServerIdentity, decode_certificate, decode_identity, device_ref
from qflare.protocol.pending import PENDING_OFFERS_MAX, PendingConfirmation, PendingHello, State
from qflare.protocol.receipt import LogMark
from qflare.protocol.rekey import PendingRekey
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from qflare.device.state_file import Field

ENROLLED_STAGE: Final = "enrolled"
ENROLLING_STAGE: Final = "enrolling"


@dataclass(slots=True, kw_only=True)
class DeviceState:
    """One device's memory; it owns every secret in it."""

    identity: DeviceIdentity
    server: ServerIdentity
    bucket_mark: int
    """No announcement below it is accepted (A5)."""
    log_mark: LogMark | None = None
    announcement: Announcement | None = None
    """The latest that was verified; the device writes under its bucket (R5)."""
    chain: SessionChain | None = None
    form: int = 0
    policy: int = 0
    evidence: Evidence | None = None
    sealed_records: int = 0
    """Records that the device has sealed in the session, and"""
    sealed_bytes: int = 0
    """the bytes of their plaintexts (R9); of a crash, what was sealed since the state was last saved is not in them."""
    hello: PendingHello | None = None
    confirmations: list[PendingConfirmation] = field(default_factory=list)
    """At most one of the hello form and eight of the offer form (O2)."""
    rotating: DeviceIdentity | None = None
    """The device under its other keys, while a rotation is under way (E4): the newer ones, or the older on trial."""
    asked_bucket: int | None = None
    """When the device last asked whether its keys are due."""
    seen: dict[int, set[bytes]] = field(default_factory=dict)
    """Stream ids that were opened, by bucket; only buckets whose key is still held (R4)."""
    rekey: PendingRekey | None = None
    """The session's next epoch, while it is not known that the server has it (R7)."""
    reply_keys: ReplyKeys = field(default_factory=ReplyKeys)
    """Of this session and of earlier ones: a late reply does not need its session's chain (R6)."""

    def take_chain(self, chain: SessionChain) -> None:
        """Replace the session's chain; the old one is erased."""
        self.drop_session()
        self.chain = chain

    def drop_session(self) -> None:
        """Erase the session's chains; replies that are outstanding stay."""
        self.drop_rekey()
        if self.chain is not None:
            self.chain.wipe()
            self.chain = None
        self.seen = {}
        self.sealed_records = self.sealed_bytes = 0

    def drop_rekey(self) -> None:
        """Erase the chain of the next epoch: the server has not taken it, and never will (R7)."""
        if self.rekey is not None:
            self.rekey.wipe()
            self.rekey = None

    def finish_rekey(self) -> None:
        """Go over to the next epoch: a record of it has opened (R7). The old chain is erased."""
        if self.rekey is None or self.chain is None:
            return
        self.rekey.chain.advance_to(self.chain.bucket)
        self.chain.wipe()
        self.chain, self.rekey = self.rekey.chain, None

    def advance_to(self, bucket: int) -> None:
        """Move the session's chains on to *bucket*, and let go of replies whose time is over (R1, R6, R7)."""
        if self.chain is not None and not self.chain.is_ended:
            self.chain.advance_to(bucket)
        if self.rekey is not None:
            self.rekey.chain.advance_to(bucket)
        self.forget_old_streams()
        self.reply_keys.expire(bucket)

    def forget_old_streams(self) -> None:
        """Drop stream ids of buckets whose keys are erased: nothing of those buckets opens any more (R4)."""
        if self.chain is None or self.chain.is_ended:
            self.seen = {}
            return
        oldest = self.chain.oldest_bucket
        self.seen = {bucket: ids for bucket, ids in self.seen.items() if bucket >= oldest}

    def drop_pending(self, confirmation: PendingConfirmation) -> None:
        """Erase one pending confirmation."""
        confirmation.wipe()
        self.confirmations = [kept for kept in self.confirmations if kept is not confirmation]

    def drop_hello(self) -> None:
        """Erase the pending hello, if there is one."""
        if self.hello is not None:
            self.hello.wipe()
            self.hello = None

    def swap_keys(self) -> None:
        """Go on under the other keys of a rotation; what is pending was begun under these, and is erased."""
        if self.rotating is not None:
            self.identity, self.rotating = self.rotating, self.identity
            self.drop_handshakes()

    def settle_keys(self) -> None:
        """Erase the older keys: the server has shown that it knows those that the device goes by now."""
        if self.rotating is not None and self.rotating.key_version < self.identity.key_version:
            self.rotating.wipe()
            self.rotating = None

    def drop_handshakes(self) -> None:
        """Erase everything that is pending."""
        self.drop_hello()
        for confirmation in self.confirmations:
            confirmation.wipe()
        self.confirmations = []

    def wipe(self) -> None:
        """Erase every secret from memory; the file keeps its own."""
        self.identity.wipe()
        if self.rotating is not None:
            self.rotating.wipe()
        self.drop_handshakes()
        if self.chain is not None:
            self.chain.wipe()
        if self.rekey is not None:
            self.rekey.wipe()
        self.reply_keys.wipe()

    def to_fields(self) -> dict[str, Field]:
        """Return the fields for the state file; call `wipe_fields` on them after writing."""
        identity = self.identity
        return {
            "stage": ENROLLED_STAGE,
            "tenant_id": identity.tenant_id,
            "device_id": identity.device_id,
            **_key_fields(identity),
            "psk": None if identity.psk is None else SecretBytes.copy_of(identity.psk),
            "server_id": identity.server_id,
            "server": self.server.served,
            "server_before": None
            if self.server.previous is None
            else [self.server.previous_last, self.server.previous.encoded],
            "bucket_mark": self.bucket_mark,
            "log_mark": None if self.log_mark is None else [self.log_mark.size, self.log_mark.root],
            "announcement": None if self.announcement is None else self.announcement.encoded,
            "session": self._session_fields(),
            "rotating": None if self.rotating is None else _key_fields(self.rotating),
            "asked_bucket": self.asked_bucket,
            "hello": None if self.hello is None else _as_fields(self.hello.to_state()),
            "confirmations": [_as_fields(pending.to_state()) for pending in self.confirmations],
            "reply_keys": [_reply_key_fields(kept) for kept in self.reply_keys.list_all()],
        }

    def _session_fields(self) -> Field:
        if self.chain is None or self.chain.is_ended:
            return None
        return {
            "sid": self.chain.sid,
            "start": self.chain.start,
            "lifetime": self.chain.lifetime,
            "epoch": self.chain.epoch,
            "form": self.form,
            "policy": self.policy,
            "sealed_records": self.sealed_records,
            "sealed_bytes": self.sealed_bytes,
            "keys": [[bucket, key] for bucket, key in self.chain.export_keys().items()],
            "evidence": None if self.evidence is None else self.evidence.to_json(),
            "seen": [[bucket, b"".join(sorted(ids))] for bucket, ids in sorted(self.seen.items())],
            "rekey": None if self.rekey is None else _rekey_fields(self.rekey),
        }


def _rekey_fields(rekey: PendingRekey) -> Field:
    keys: list[Field] = [[bucket, key] for bucket, key in rekey.chain.export_keys().items()]
    return {"body": rekey.body, "bucket": rekey.bucket, "epoch": rekey.epoch, "keys": keys}


def _reply_key_fields(kept: ReplyKey) -> Field:
    return {
        "sid": kept.sid,
        "request_id": kept.request_id,
        "direction": kept.direction,
        "request_bucket": kept.request_bucket,
        "request_epoch": kept.request_epoch,
        "expires_bucket": kept.expires_bucket,
        "key": SecretBytes.copy_of(kept.key),
    }


def state_from_fields(fields: dict[str, Field]) -> DeviceState:
    """
    Rebuild a device's memory; the server's identity and announcement are verified again.

    Raises:
        DecodeError: a field is missing or malformed.
        AuthenticationError: the stored identity or announcement does not verify.
    """
    reader = _Reader(fields)
    server = decode_identity(reader.octets("server"), server_id=reader.octets("server_id"))
    if (before := reader.optional_list("server_before")) is not None:
        last, encoded = _pair(before)
        previous = decode_certificate(_octets(encoded), root_key=server.root_key)
        server = replace(server, previous=previous, previous_last=_number(last))
    psk = reader.optional_secret("psk")
    identity = _read_identity(reader, reader, psk)
    state = DeviceState(identity=identity, server=server, bucket_mark=reader.number("bucket_mark"))
    if (rotating := reader.optional_group("rotating")) is not None:
        state.rotating = _read_identity(reader, _Reader(rotating), None if psk is None else SecretBytes.copy_of(psk))
    if reader.has("asked_bucket"):
        state.asked_bucket = reader.number("asked_bucket")
    if (log_mark := reader.optional_list("log_mark")) is not None:
        size, root = log_mark
        state.log_mark = LogMark(size=_number(size), root=_octets(root))
    if fields.get("announcement") is not None:
        state.announcement = accept_announcement(reader.octets("announcement"), server)
    if (hello := reader.optional_group("hello")) is not None:
        state.hello = PendingHello.from_state(_as_state(hello))
    confirmations = reader.optional_list("confirmations") or []
    if len(confirmations) > PENDING_OFFERS_MAX + 1:
        raise _malformed("confirmations")
    state.confirmations = [PendingConfirmation.from_state(_as_state(_group(item))) for item in confirmations]
    if (session := reader.optional_group("session")) is not None:
        _read_session(state, _Reader(session))
    for key in _read_reply_keys(reader):
        state.reply_keys.put(key)
    return state


def _key_fields(identity: DeviceIdentity) -> dict[str, Field]:
    return {
        "key_version": identity.key_version,
        "signing_key": SecretBytes.copy_of(identity.signing_key),
        "decapsulation_key": SecretBytes.copy_of(identity.decapsulation_key),
        "verification_key": identity.verification_key,
        "encapsulation_key": identity.encapsulation_key,
    }


def _read_identity(names: _Reader, keys: _Reader, psk: SecretBytes | None) -> DeviceIdentity:
    device_id, tenant_id = names.text("device_id"), names.octets("tenant_id")
    return DeviceIdentity(
        server_id=names.octets("server_id"),
        tenant_id=tenant_id,
        device_id=device_id,
        ref=device_ref(tenant_id, device_id),
        key_version=keys.number("key_version"),
        signing_key=keys.secret("signing_key"),
        decapsulation_key=keys.secret("decapsulation_key"),
        verification_key=keys.octets("verification_key"),
        encapsulation_key=keys.octets("encapsulation_key"),
        psk=psk,
    )


def _read_session(state: DeviceState, reader: _Reader) -> None:
    state.chain = _read_chain(reader, reader)
    if (rekey := reader.optional_group("rekey")) is not None:
        pending = _Reader(rekey)
        state.rekey = PendingRekey(
            body=pending.octets("body"), bucket=pending.number("bucket"), chain=_read_chain(reader, pending)
        )
    state.form, state.policy = reader.number("form"), reader.number("policy")
    if reader.has("sealed_records"):
        state.sealed_records, state.sealed_bytes = reader.number("sealed_records"), reader.number("sealed_bytes")
    if reader.has("evidence"):
        state.evidence = Evidence.from_json(reader.text("evidence"))
    for pair in reader.optional_list("seen") or []:
        bucket, joined = _pair(pair)
        ids = _octets(joined)
        state.seen[_number(bucket)] = {ids[at : at + 16] for at in range(0, len(ids), 16)}


def _read_chain(session: _Reader, epoch: _Reader) -> SessionChain:
    """Read the chain of one epoch; the terms are the session's."""
    keys: dict[int, SecretBytes] = {}
    for pair in epoch.optional_list("keys") or []:
        bucket, key = _pair(pair)
        if not isinstance(key, SecretBytes):
            raise _malformed("keys")
        keys[_number(bucket)] = key
    try:
        return SessionChain(
            keys,
            sid=SessionId(session.octets("sid")),
            start=session.number("start"),
            lifetime=session.number("lifetime"),
            epoch=epoch.number("epoch"),
        )
    except QflareError:
        raise _malformed("session") from None


def _read_reply_keys(reader: _Reader) -> list[ReplyKey]:
    items = reader.optional_list("reply_keys") or []
    if len(items) > REPLY_KEYS_MAX:
        raise _malformed("reply_keys")
    return [_read_reply_key(_Reader(_group(item))) for item in items]


def _read_reply_key(reader: _Reader) -> ReplyKey:
    return ReplyKey(
        sid=SessionId(reader.octets("sid")),
        request_id=RequestId(reader.octets("request_id")),
        direction=reader.number("direction"),
        request_bucket=reader.number("request_bucket"),
        request_epoch=reader.number("request_epoch"),
        expires_bucket=reader.number("expires_bucket"),
        key=reader.secret("key"),
    )


def wipe_fields(item: Field) -> None:
    """Wipe every secret in a tree of fields."""
    match item:
        case SecretBytes():
            item.wipe()
        case list():
            for entry in item:
                wipe_fields(entry)
        case dict():
            for entry in item.values():
                wipe_fields(entry)
        case _:
            pass


class _Reader:
    """Takes typed fields out of a state file's tree, or says which one is wrong."""

    def __init__(self, fields: dict[str, Field]) -> None:
        self._fields = fields

    def has(self, name: str) -> bool:
        return self._fields.get(name) is not None

    def octets(self, name: str) -> bytes:
        value = self._fields.get(name)
        if not isinstance(value, bytes):
            raise _malformed(name)
        return value

    def text(self, name: str) -> str:
        value = self._fields.get(name)
        if not isinstance(value, str):
            raise _malformed(name)
        return value

    def number(self, name: str) -> int:
        value = self._fields.get(name)
        if type(value) is not int:
            raise _malformed(name)
        return value

    def secret(self, name: str) -> SecretBytes:
        value = self._fields.get(name)
        if not isinstance(value, SecretBytes):
            raise _malformed(name)
        return value

    def optional_secret(self, name: str) -> SecretBytes | None:
        return self.secret(name) if self.has(name) else None

    def optional_list(self, name: str) -> list[Field] | None:
        value = self._fields.get(name)
        if value is not None and not isinstance(value, list):
            raise _malformed(name)
        return value

    def optional_group(self, name: str) -> dict[str, Field] | None:
        value = self._fields.get(name)
        return None if value is None else _group(value)


def _as_fields(state: State) -> dict[str, Field]:
    return dict(state)


def _as_state(fields: dict[str, Field]) -> State:
    state: State = {}
    for name, value in fields.items():
        if not isinstance(value, bytes | int | SecretBytes):
            raise _malformed(name)
        state[name] = value
    return state


def _group(value: Field) -> dict[str, Field]:
    if not isinstance(value, dict):
        raise _malformed("group")
    return value


def _pair(value: Field) -> tuple[Field, Field]:
    if not isinstance(value, list) or len(value) != 2:  # noqa: PLR2004 - a pair
        raise _malformed("pair")
    return value[0], value[1]


def _number(value: Field) -> int:
    if type(value) is not int:
        raise _malformed("number")
    return value


def _octets(value: Field) -> bytes:
    if not isinstance(value, bytes):
        raise _malformed("bytes")
    return value


def _malformed(name: str) -> DecodeError:
    return DecodeError(f"the device state's field {name!r} is malformed; enrol the device again with a new token")
