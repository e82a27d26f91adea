"""
Rotation of a device's keys inside a session (PROTOCOL E4): ROTATE in a control record, ROTATED back in another.

A device also asks here whether a policy has made its keys due (DUE?, answered by DUE).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qflare.errors import ConflictError, KeyStateError, QflareError
from qflare.manager.devices import Devices, new_device
from qflare.manager.record import OpenedRecord, PlainRecord
from qflare.manager.records import Records
from qflare.model.refusal import Refusal
from qflare.protocol.record import KIND_CONTROL
from qflare.protocol.rotation import (
    Rotation,
    Urgency,
    check_rotations,
    encode_due,
    encode_rotated,
    read_due_asked,
)

if TYPE_CHECKING:
    from qflare.manager.credentials import Credentials
    from qflare.manager.log import Log
    from qflare.manager.offload import Offload
    from qflare.manager.policies import Policies
    from qflare.manager.refusals import Refusals
    from qflare.manager.uses import Uses


class Rotations:
    """Answers control records."""

    def __init__(
        self,
        *,
        devices: Devices,
        credentials: Credentials,
        records: Records,
        policies: Policies,
        uses: Uses,
        log: Log,
        refusals: Refusals,
        offload: Offload,
        server_id: bytes,
    ) -> None:
        """Check with the roster, answer through the session's own records."""
        self._log = log
        self._policies = policies
        self._uses = uses
        self._devices = devices
        self._credentials = credentials
        self._records = records
        self._refusals = refusals
        self._offload = offload
        self._server_id = server_id

    async def answer(self, record: OpenedRecord) -> bytes:
        """
        Do what a control record asks and return the sealed answer.

        Raises:
            RefusedError: it is no rotation, or one that does not hold; the session stands.
            UncoveredError: it is done, and no head of the log could be signed; the device sends the same body again.
        """
        session = record.session
        if record.header.kind != KIND_CONTROL:
            raise self._refusals.refuse("control", Refusal.UNEXPECTED, tenant_id=session.tenant_id)
        with record.plaintext.view() as view:
            # A ROTATE holds public keys and signatures only.
            body = bytes(view)
        asked = read_due_asked(body)
        if asked is not None:
            return await self._seal(record, encode_due(asked, await self._urgency(record, asked)))
        device = (await self._credentials.find_devices([(session.tenant_id, session.ref)]))[0]
        credential = (
            await self._credentials.find_many([(session.tenant_id, session.ref, device.key_version)])
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
        mark = await self._policies.find_mark(session.tenant_id, session.ref)
        if mark is None or not mark.is_overdue:
            # Not for a rotation of before that comes again: its keys may be overdue themselves by now.
            self._uses.forget_overdue(session.tenant_id, session.ref)
        # A repetition too: the first answer may have failed here.
        await self._log.cover()
        return await self._seal(record, encode_rotated(verdict.key_version))

    async def _urgency(self, record: OpenedRecord, key_version: int) -> Urgency:
        session = record.session
        mark = await self._policies.find_mark(session.tenant_id, session.ref)
        if mark is None or mark.key_version != key_version:
            return Urgency.NONE
        return Urgency.OVERDUE if mark.is_overdue else Urgency.DUE

    async def _seal(self, record: OpenedRecord, body: bytes) -> bytes:
        session = record.session
        return await self._records.seals.submit(
            PlainRecord(session.tenant_id, session.sid, body, b"", KIND_CONTROL), tenant_id=session.tenant_id
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
            ref=session.ref,
        )
