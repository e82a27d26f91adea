"""Enrolment seen from the device (PROTOCOL E): keys made here, a token used once, the server pinned for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.device.flow import Flow, deliver
from qflare.device.state import ENROLLED_STAGE, ENROLLING_STAGE, DeviceState, state_from_fields, wipe_fields
from qflare.device.state_file import StateFile
from qflare.device.transport import Step
from qflare.errors import AlreadyExistsError, ConfigError, DecodeError
from qflare.model.ids import DeviceId
from qflare.protocol.announcement import verify_announcement
from qflare.protocol.device_keys import DeviceKeys
from qflare.protocol.enrolment_device import accept_enrolled, start_enrolment
from qflare.protocol.identity import decode_identity, device_ref
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from pathlib import Path

    from qflare.device.state_file import Field
    from qflare.protocol.token import EnrolmentToken


def enrol(token: EnrolmentToken, device_id: str, file: StateFile | None) -> Flow[DeviceState]:
    """
    Enrol as *device_id* with *token*; the keys are durable before the server hears of them.

    A device that stopped in between goes on with the same keys: the server answers the same keys afresh (E3).

    Raises:
        AlreadyExistsError: the state file holds an enrolled device.
        RefusedError: the server refused; a token is good once and until it expires.
    """
    # A name that cannot be is refused before keys are made and a file is written.
    device_ref(token.tenant_id, device_id)
    with _keys(token, device_id, file) as keys:
        # A1: root and CERT come over the network and are checked against the server_id in the token.
        served = yield from deliver(Step.IDENTITY, b"")
        server = decode_identity(served, server_id=token.server_id)
        encoded = yield from deliver(Step.ANNOUNCEMENT, b"current")
        announcement = verify_announcement(encoded, server.certificate)
        with start_enrolment(token, DeviceId(device_id), announcement, keys) as pending:
            answer = yield from deliver(Step.ENROL, pending.message)
            enrolled = accept_enrolled(pending, answer, keys)
        identity = keys.identity(
            server_id=token.server_id,
            tenant_id=token.tenant_id,
            device_id=DeviceId(device_id),
            key_version=enrolled.key_version,
            psk=None,
        )
    state = DeviceState(identity=identity, server=server, bucket_mark=enrolled.bucket_mark)
    # E3: the mark may already be ahead of the announcement that was fetched a moment ago.
    if announcement.bucket >= state.bucket_mark:
        state.announcement = announcement
    save_state(file, state)
    return state


def load_state(file: StateFile) -> DeviceState:
    """Return the enrolled device in *file*; `ConfigError` where the enrolment did not finish."""
    fields = file.read()
    if fields.get("stage") == ENROLLING_STAGE:
        wipe_fields(fields)
        message = f"the enrolment in {file.path} did not finish; enrol again with the same token and state"
        raise ConfigError(message)
    if fields.get("stage") != ENROLLED_STAGE:
        wipe_fields(fields)
        message = f"{file.path} holds no device; enrol with a new token"
        raise DecodeError(message)
    return state_from_fields(fields)


def new_state_file(path: Path) -> StateFile:
    """Lock *path* for a new device; `AlreadyExistsError` where it holds one."""
    file = StateFile(path)
    if file.exists():
        file.close()
        message = f"{path} holds a device already; use another state file"
        raise AlreadyExistsError(message)
    return file


def save_state(file: StateFile | None, state: DeviceState) -> None:
    """Make *state* durable; without a file it lives in memory alone."""
    if file is None:
        return
    fields = state.to_fields()
    try:
        file.write(fields)
    finally:
        wipe_fields(fields)


def _keys(token: EnrolmentToken, device_id: str, file: StateFile | None) -> DeviceKeys:
    """Return the device's keys: those of an enrolment that did not finish, or new ones, durable before use."""
    if file is not None and file.exists():
        fields = file.read()
        if fields.get("stage") != ENROLLING_STAGE:
            wipe_fields(fields)
            message = f"{file.path} holds an enrolled device; use another state file, or remove this one to give it up"
            raise AlreadyExistsError(message)
        if fields.get("token_id") == token.token_id and fields.get("device_id") == device_id:
            return _keys_from_fields(fields)
        wipe_fields(fields)
    keys = DeviceKeys.generate()
    if file is not None:
        fields = {
            "stage": ENROLLING_STAGE,
            "token_id": token.token_id,
            "device_id": device_id,
            "verification_key": keys.verification_key,
            "signing_key": SecretBytes.copy_of(keys.signing_key),
            "encapsulation_key": keys.encapsulation_key,
            "decapsulation_key": SecretBytes.copy_of(keys.decapsulation_key),
        }
        try:
            file.write(fields)
        finally:
            wipe_fields(fields)
    return keys


def _keys_from_fields(fields: dict[str, Field]) -> DeviceKeys:
    match fields:
        case {
            "verification_key": bytes(verification_key),
            "signing_key": SecretBytes() as signing_key,
            "encapsulation_key": bytes(encapsulation_key),
            "decapsulation_key": SecretBytes() as decapsulation_key,
        }:
            return DeviceKeys(
                verification_key=verification_key,
                signing_key=signing_key,
                encapsulation_key=encapsulation_key,
                decapsulation_key=decapsulation_key,
            )
        case _:
            message = "the device state file is malformed; remove it and enrol with a new token"
            raise DecodeError(message)
