"""Rotation of a device's keys inside a session (PROTOCOL E4): ROTATE in a control record, ROTATED back in another."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qflare.errors import ConflictError, KeyStateError, QflareError
from qflare.manager.devices import Devices, new_device
from qflare.manager.records import OpenedRecord, PlainRecord, Records
from qflare.model.refusal import Refusal
from qflare.protocol.record import KIND_CONTROL
from qflare.protocol.rotation import Rotation, check_rotations, encode_rotated

if TYPE_CHECKING:
    from qflare.manager.offload import Offload
    from qflare.manager.refusals import Refusals


class Rotations:
    """Answers control records."""

    def __init__(
        self, *, devices: Devices, records: Records, refusals: Refusals, offload: Offload, server_id: bytes
    ) -> None:
        """Check with the roster, answer through the session's own records."""
        self._devices = devices
        self._records = records
        self._refusals = refusals
        self._offload = offload
        self._server_id = server_id

    async def answer(self, record: OpenedRecord) -> bytes:
        """
        Do what a control record asks and return the sealed answer.

        Raises:
            RefusedError: it is no rotation, or one that does not hold; the session stands.
        """
        session = record.session
        if record.header.kind != KIND_CONTROL:
            raise self._refusals.refuse("control", Refusal.UNEXPECTED, tenant_id=session.tenant_id)
        with record.plaintext.view() as view:
            # A ROTATE holds public keys and signatures only.
            body = bytes(view)
        device = (await self._devices.find_many([(session.tenant_id, session.ref)]))[0]
        credential = (
            await self._devices.credentials([(session.tenant_id, session.ref, device.key_version)])
            if device is not None
            else [None]
        )
        try:
            verdict = (
                await self._offload.run(
                    partial(check_rotations, [body], server_id=self._server_id, refs=[session.ref], devices=credential)
                )
            )[0]
        finally:
            if credential[0] is not None and credential[0].psk is not None:
                credential[0].psk.wipe()
        if isinstance(verdict, Refusal) or device is None:
            reason = verdict if isinstance(verdict, Refusal) else Refusal.UNKNOWN_DEVICE
            raise self._refuse(record, reason)
        if not verdict.is_repeated:
            await self._rotate(record, verdict)
        return await self._records.seals.submit(
            PlainRecord(session.tenant_id, session.sid, encode_rotated(verdict.key_version), b"", KIND_CONTROL)
        )

    async def _rotate(self, record: OpenedRecord, rotation: Rotation) -> None:
        session = record.session
        keys = new_device(
            session.tenant_id,
            session.device_id,
            verification_key=rotation.verification_key,
            encapsulation_key=rotation.encapsulation_key,
        )
        try:
            await self._devices.rotate(session.tenant_id, keys, key_version=rotation.key_version, by="device")
        except (ConflictError, KeyStateError):
            failed = True
        else:
            failed = False
        if failed:
            raise self._refuse(record, Refusal.KEY_VERSION)

    def _refuse(self, record: OpenedRecord, reason: Refusal) -> QflareError:
        session = record.session
        return self._refusals.refuse(
            "control",
            reason,
            tenant_id=session.tenant_id,
            evidence={"sid": session.sid.hex(), "ref": session.ref.hex()},
        )
