"""One session in a worker's memory, packed: terms in one row of bytes, chain keys in rows of `KeyRows`."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from qflare.errors import KeyNotFoundError
from qflare.model.ids import DeviceId, DeviceRef
from qflare.model.session import Session

if TYPE_CHECKING:
    from qflare.manager.key_rows import KeyRows
    from qflare.model.ids import TenantId

_TERMS: Final = struct.Struct(">32sIBIqQ")
"""ref, key version, form, policy, created at in microseconds since the Unix epoch, log index; the name follows."""
_KEY: Final = struct.Struct(">IQI")
"""Epoch, bucket and row of a chain key."""
_KEY_NAME: Final = struct.Struct(">IQ")
_ROW: Final = struct.Struct(">I")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class ChainId(NamedTuple):
    """Names one chain key of a session: those of different epochs have nothing in common (R7)."""

    epoch: int
    bucket: int


class HeldSession:
    """
    A session's terms and its chain keys; these are wiped when it is told, or when the last that uses it lets go.

    Of what it packs it makes objects when they are asked for: a worker holds many thousands of these.
    """

    __slots__ = ("_keys", "_rows", "_terms", "epoch", "last_bucket", "sid", "start", "state", "tenant_id")

    def __init__(self, session: Session, rows: KeyRows) -> None:
        """Hold *session*'s terms and no key; *rows* will have its keys."""
        self._rows = rows
        self._keys = b""
        self.sid = session.sid
        self.note(session)

    def __del__(self) -> None:
        """Wipe what nobody uses any more."""
        self.wipe()

    @property
    def session(self) -> Session:
        """The session's terms, as they were when they were noted last."""
        ref, key_version, form, policy, created_us, log_index = _TERMS.unpack_from(self._terms)
        return Session(
            sid=self.sid,
            tenant_id=self.tenant_id,
            device_id=DeviceId(self._terms[_TERMS.size :].decode()),
            ref=DeviceRef(ref),
            key_version=key_version,
            form=form,
            start=self.start,
            lifetime=self.last_bucket - self.start + 1,
            policy=policy,
            state=self.state,
            epoch=self.epoch,
            created_at=_EPOCH + timedelta(0, 0, created_us),
            log_index=log_index,
        )

    def note(self, session: Session) -> None:
        """Take the terms as the database has them now; the keys stay."""
        self.tenant_id = session.tenant_id
        self.start = session.start
        self.last_bucket = session.last_bucket
        self.state = session.state
        self.epoch = session.epoch
        self._terms = (
            _TERMS.pack(
                session.ref,
                session.key_version,
                session.form,
                session.policy,
                (session.created_at - _EPOCH) // _MICROSECOND,
                session.log_index,
            )
            + session.device_id.encode()
        )

    def share(self, values: dict[object, object]) -> None:
        """Use the objects in *values* for equal ones: sessions have few tenants and buckets between them."""
        self.tenant_id = values.setdefault(self.tenant_id, self.tenant_id)  # type: ignore[assignment]  # equal to it
        self.start = values.setdefault(self.start, self.start)  # type: ignore[assignment]
        self.last_bucket = values.setdefault(self.last_bucket, self.last_bucket)  # type: ignore[assignment]

    def is_of(self, tenant_id: TenantId, ref: bytes) -> bool:
        """Say whether it is a session of that device."""
        return self.tenant_id == tenant_id and self._terms.startswith(ref)

    # --- chain keys -------------------------------------------------------------------------------

    @property
    def chain_ids(self) -> list[ChainId]:
        """The chain keys that are held."""
        return [ChainId(epoch, bucket) for epoch, bucket, _ in _KEY.iter_unpack(self._keys)]

    def has(self, chain_id: ChainId) -> bool:
        """Say whether that chain key is held."""
        return self._row_of(chain_id) is not None

    def find_key(self, chain_id: ChainId) -> memoryview | None:
        """Return a view of a chain key, which is the caller's until he awaits something; None if it is not held."""
        row = self._row_of(chain_id)
        return None if row is None else self._rows.view(row)

    def key(self, chain_id: ChainId) -> memoryview:
        """
        Return a view of a chain key, as `find_key` does.

        Raises:
            KeyNotFoundError: it is not held.
        """
        key = self.find_key(chain_id)
        if key is None:
            raise KeyNotFoundError(f"the chain key of bucket {chain_id.bucket} is not held")
        return key

    def keep(self, chain_id: ChainId, key: memoryview) -> None:
        """Copy a chain key that is not held yet; the caller still owns and wipes what it gave."""
        if not self.has(chain_id):
            self._keys += _KEY.pack(*chain_id, self._rows.take(key))

    def nearest(self, wanted: ChainId) -> int | None:
        """Return the highest bucket up to the wanted one whose key of that epoch is held."""
        if self.has(wanted):
            return wanted.bucket
        return max(
            (its for epoch, its in self.chain_ids if epoch == wanted.epoch and its <= wanted.bucket), default=None
        )

    def lowest(self, epoch: int) -> int | None:
        """Return the lowest bucket whose key of *epoch* is held."""
        return min((its for its_epoch, its in self.chain_ids if its_epoch == epoch), default=None)

    def wipe_before(self, bucket: int) -> bool:
        """Erase the keys of buckets below *bucket*; False if none is left."""
        kept = b""
        for key in _KEY.iter_unpack(self._keys):
            if key[1] < bucket:
                self._rows.give_back(key[2])
            else:
                kept += _KEY.pack(*key)
        self._keys = kept
        return bool(kept)

    def wipe(self) -> None:
        """Erase every key."""
        keys, self._keys = self._keys, b""
        for _, _, row in _KEY.iter_unpack(keys):
            self._rows.give_back(row)

    def _row_of(self, chain_id: ChainId) -> int | None:
        # Asked several times a record: searching bytes costs a fourth of unpacking them.
        keys, name = self._keys, _KEY_NAME.pack(*chain_id)
        at = keys.find(name)
        while at % _KEY.size and at >= 0:  # the same bytes across two entries
            at = keys.find(name, at + 1)
        if at < 0:
            return None
        row: int = _ROW.unpack_from(keys, at + _KEY_NAME.size)[0]
        return row
