"""
Live sessions of one worker: their terms and chain keys, bounded in number, wiped when a bucket ends.

What is held here saves reading; it never decides.  Whether a session still lives is asked of the database each time it
matters: a record is accepted there, and `resolve(is_fresh=True)` reads the state again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Self

from qflare.manager.chains import CHAIN_KEY_BYTES, OpenedChain, open_chains, seal_chains
from qflare.manager.deadline import Deadline
from qflare.manager.forks import wipe_after_fork
from qflare.manager.held_session import ChainId, HeldSession
from qflare.manager.key_rows import KeyRows
from qflare.manager.pages import open_pages
from qflare.manager.tenancy import by_tenant
from qflare.model.refusal import Refusal
from qflare.model.session import SealedChain, Session, SessionState
from qflare.primitives.kdf import chain_advance_many
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from qflare.manager.buckets import Buckets, Ring
    from qflare.manager.offload import Offload
    from qflare.manager.settings import ManagerSettings
    from qflare.model.ids import DeviceRef, SessionId, TenantId
    from qflare.model.session_ports import SessionStore
    from qflare.model.turn import SealedPage


class Asked(NamedTuple):
    """Which chain key of a session is wanted."""

    sid: SessionId
    bucket: int | None = None
    """Inside R1's window already; None is the one the server writes under (R9): the current bucket, or a later one
    where the session, or its epoch, only begins there."""
    epoch: int | None = None
    """None is the session's present one (R7)."""


@dataclass(slots=True)
class Resolved:
    """Sessions and chain keys of one batch; owns the copies of the keys."""

    sessions: list[Session | Refusal]
    """One an item."""
    chain_keys: SecretBytes
    """``n × 64`` bytes; the row of a refused item is zero."""
    buckets: list[int]
    """Of each chain key."""
    epochs: list[int]
    """Of each chain key."""

    def __enter__(self) -> Self:
        """Lend the keys to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wipe the copies."""
        self.chain_keys.wipe()


class Sessions:
    """Finds sessions and the chain keys that a batch needs."""

    def __init__(self, *, store: SessionStore, buckets: Buckets, offload: Offload, settings: ManagerSettings) -> None:
        """Hold nothing yet."""
        self._store = store
        self._offload = offload
        self._capacity = settings.sessions_cached_max
        self._deadline = Deadline(settings.store_timeout_s)
        self._held: dict[SessionId, HeldSession] = {}
        """In the order in which they were used."""
        self._rows = KeyRows(CHAIN_KEY_BYTES)
        self._shared: dict[object, object] = {}
        """Tenants and buckets of sessions, one object of each."""
        self._floor = 0
        """Chain keys of lower buckets are erased, and none that a batch under way still brings is kept."""
        buckets.listeners.append(self.forget_before)
        wipe_after_fork(self._wipe_in_child)

    def __len__(self) -> int:
        """Return how many sessions are held."""
        return len(self._held)

    async def resolve(self, ring: Ring, asked: Sequence[Asked], *, is_fresh: bool = False) -> Resolved:
        """
        Find each one's session and the chain key that is asked for.

        Args:
            ring: The live buckets; its current bucket bounds what is looked at.
            asked: Session, bucket and epoch.
            is_fresh: Read the sessions' state and epoch again even where they are held.

        Returns:
            A session or `Refusal` each, and the keys.
        """
        found = await self._find(ring, asked, is_fresh=is_fresh)
        wanted = [
            _chain_id(found[it.sid], it, ring.current)
            if it.sid in found
            else ChainId(it.epoch or 0, ring.current if it.bucket is None else it.bucket)
            for it in asked
        ]
        await self._step([(it.sid, chain_id) for it, chain_id in zip(asked, wanted, strict=True)], found)
        # Nothing is awaited from here to the end: no key can be wiped or evicted in between.
        sessions: list[Session | Refusal] = []
        chain_keys = SecretBytes.zeros(len(wanted) * CHAIN_KEY_BYTES)
        rows = chain_keys.view()
        for position, (it, chain_id) in enumerate(zip(asked, wanted, strict=True)):
            held = found.get(it.sid)
            refusal = _refusal(held, chain_id)
            key = None if held is None or refusal is not None else held.find_key(chain_id)
            if held is None or key is None:
                sessions.append(refusal or (Refusal.UNKNOWN_SESSION if held is None else _absence(held, chain_id)))
                continue
            rows[position * CHAIN_KEY_BYTES : (position + 1) * CHAIN_KEY_BYTES] = key
            sessions.append(held.session)
        return Resolved(sessions, chain_keys, [its.bucket for its in wanted], [its.epoch for its in wanted])

    async def find(self, sids: Sequence[SessionId]) -> dict[SessionId, Session]:
        """Read sessions of any tenant, ended ones too."""
        tenants = await self._deadline.of(self._store.find_session_tenants(sids))
        sessions: dict[SessionId, Session] = {}
        for tenant_id, group in by_tenant(tenants, tenants.__getitem__).items():
            sessions.update(await self._deadline.of(self._store.find_sessions(tenant_id, group)))
        return sessions

    def tenant_of(self, sid: SessionId) -> TenantId | None:
        """Return the tenant of a session that is held, else None."""
        held = self._held.get(sid)
        return None if held is None else held.tenant_id

    def owner_of(self, sid: SessionId) -> tuple[TenantId, DeviceRef] | None:
        """Return tenant and device of a session that is held, else None."""
        held = self._held.get(sid)
        return None if held is None else (held.tenant_id, held.session.ref)

    def forget(self, sid: SessionId) -> None:
        """Erase one session from this worker's memory."""
        held = self._held.pop(sid, None)
        if held is not None:
            held.wipe()

    def renew(self, sid: SessionId) -> None:
        """Read a session anew when it is next asked for: it lives on with other keys (R7)."""
        # Dropped, not wiped, as in _keep: a record of the old epoch that is under way is still good.
        self._held.pop(sid, None)

    def renew_all(self) -> None:
        """Read every session anew when it is next asked for; batches under way go on, and the database decides."""
        self._held.clear()

    def forget_device(self, tenant_id: TenantId, ref: bytes) -> None:
        """Erase a device's sessions from this worker's memory: it was revoked or suspended here."""
        for sid in [sid for sid, held in self._held.items() if held.is_of(tenant_id, ref)]:
            self.forget(sid)

    def forget_before(self, bucket: int) -> None:
        """Erase every chain key of buckets below *bucket*: they have ended (R1)."""
        self._floor = max(self._floor, bucket)
        self._shared.clear()  # of buckets that are over too; what is in use stays
        for sid, held in list(self._held.items()):
            if not held.wipe_before(bucket):
                del self._held[sid]

    def wipe(self) -> None:
        """Erase everything."""
        for held in self._held.values():
            held.wipe()
        self._held.clear()

    def _wipe_in_child(self) -> None:
        # Those too that a batch of the parent's has in its hands: no batch goes on in the child.
        self._rows.wipe()
        self._held.clear()

    # --- finding ----------------------------------------------------------------------------------

    async def _find(self, ring: Ring, asked: Sequence[Asked], *, is_fresh: bool) -> dict[SessionId, HeldSession]:
        sids = {it.sid: None for it in asked}
        found: dict[SessionId, HeldSession] = {}
        for sid in sids:
            held = self._held.get(sid)
            if held is not None:
                self._keep(held)
                found[sid] = held
        lacking = _lacking(asked, found, ring.current)
        stale = [sid for sid in sids if is_fresh or sid in lacking]
        if not stale:
            return found
        known = await self.find(stale)
        for sid in stale:
            if sid not in known:
                # Its row is gone: what is held of it says nothing any more.
                self.forget(sid)
                found.pop(sid, None)
        for sid, session in known.items():
            held = found.get(sid)
            if held is None:
                held = found[sid] = HeldSession(session, self._rows)
            else:
                held.note(session)
            held.share(self._shared)
            if session.state is not SessionState.LIVE:
                self.forget(sid)
        # Again: what was read may name a newer epoch.
        lacking |= _lacking(asked, found, ring.current)
        alive = [held for sid, held in found.items() if sid in lacking and held.state is SessionState.LIVE]
        await self._load_chains(ring, alive, found)
        return found

    async def _load_chains(
        self, ring: Ring, sessions: Sequence[HeldSession], found: dict[SessionId, HeldSession]
    ) -> None:
        for tenant_id, group in by_tenant(sessions, lambda session: session.tenant_id).items():
            newest: dict[SessionId, int] = {}
            for chain in await self._open_chains(ring, tenant_id, group):
                held = found.get(chain.sid)
                with chain.chain_key, chain.chain_key.view() as key:
                    if held is None:
                        continue
                    if chain.bucket >= self._floor:
                        held.keep(ChainId(chain.epoch, chain.bucket), key)
                # R7: an epoch that ended is not carried on; it hashes forward from the bucket of the rekey.
                if chain.epoch == held.epoch:
                    newest[chain.sid] = max(chain.bucket, newest.get(chain.sid, 0))
                self._keep(held)
            # R8, first touch: what no turn has carried into the current bucket yet is carried now.
            late = [sid for sid, bucket in newest.items() if bucket < ring.current]
            await self._step([(sid, ChainId(found[sid].epoch, ring.current)) for sid in late], found)
            await self._save(ring, [found[sid] for sid in late])
        self._evict()

    async def _open_chains(self, ring: Ring, tenant_id: TenantId, group: Sequence[HeldSession]) -> list[OpenedChain]:
        """Read what rests of a tenant's sessions in live buckets: their own rows, and pages where those lack one."""
        sids = [session.sid for session in group]
        last = ring.current + 1
        chains = await self._deadline.of(self._store.find_chains(tenant_id, sids, first=ring.first, last=last))
        have = {(chain.sid, chain.bucket, chain.epoch) for chain in chains}
        # R7: a rekey writes the new epoch's row where a page holds the old epoch's, which is still read.
        lacking = {
            session.sid
            for session in group
            if any(
                (session.sid, bucket, epoch) not in have
                for bucket in range(max(ring.first, session.start), last)
                for epoch in range(max(0, session.epoch - 1), session.epoch + 1)
            )
        }
        pages = await self._deadline.of(self._store.find_pages(tenant_id, list(lacking), first=ring.first, last=last))
        return await self._offload.run(partial(_open_all, ring, chains, pages, lacking), wipe=_wipe_all)

    async def _step(self, wanted: Sequence[tuple[SessionId, ChainId]], found: dict[SessionId, HeldSession]) -> None:
        """Derive missing keys, all that lead to one bucket in one C call."""
        by_target: dict[int, list[tuple[HeldSession, ChainId]]] = {}
        for sid, chain_id in dict.fromkeys(wanted):
            held = found.get(sid)
            if held is None or held.has(chain_id) or held.nearest(chain_id) is None:
                continue
            if not held.start <= chain_id.bucket <= held.last_bucket:
                continue
            by_target.setdefault(chain_id.bucket, []).append((held, chain_id))
        for bucket, group in by_target.items():
            sources = [(held, its, nearest) for held, its in group if (nearest := held.nearest(its)) is not None]
            with _gather([(held, ChainId(its.epoch, nearest)) for held, its, nearest in sources]) as old:
                sids = b"".join(held.sid for held, _, _ in sources)
                fresh = await self._offload.run(
                    partial(chain_advance_many, old, sids, [nearest for _, _, nearest in sources], bucket),
                    wipe=SecretBytes.wipe,
                )
            with fresh:
                for row, (held, its, _) in enumerate(sources):
                    if bucket >= self._floor:
                        held.keep(its, fresh.row(row, CHAIN_KEY_BYTES))

    async def _save(self, ring: Ring, group: Sequence[HeldSession]) -> None:
        bucket = ring.current
        ready = [(held, its) for held in group if held.has(its := ChainId(held.epoch, bucket))]
        if not ready:
            return
        with _gather(ready) as chain_keys:
            owners = [(held.tenant_id, held.sid, its.epoch) for held, its in ready]
            sealed: list[SealedChain] = await self._offload.run(partial(seal_chains, ring, bucket, owners, chain_keys))
        await self._deadline.of(self._store.save_chains(sealed))

    def _keep(self, held: HeldSession) -> None:
        """Hold a session as the one used last."""
        self._held.pop(held.sid, None)
        self._held[held.sid] = held

    def _evict(self) -> None:
        """Let go what was used longest ago, all at once: finding the first of a dictionary skips what has left it."""
        for sid in list(islice(self._held, max(0, len(self._held) - self._capacity))):
            # Dropped, not wiped: a batch under way may still use it. Its keys are wiped when its last user lets go.
            del self._held[sid]


def _chain_id(held: HeldSession, asked: Asked, current: int) -> ChainId:
    """Say which chain key is meant; *current* is the server's bucket."""
    epoch = held.epoch if asked.epoch is None else asked.epoch
    if asked.bucket is not None:
        return ChainId(epoch, asked.bucket)
    bucket = max(current, held.start)
    # R7: a new chain may begin in the next bucket, which is published already.
    first = held.lowest(epoch) if held.nearest(ChainId(epoch, bucket)) is None else None
    return ChainId(epoch, bucket if first is None else first)


def _gather(keys: Sequence[tuple[HeldSession, ChainId]]) -> SecretBytes:
    """Copy chain keys into one secret, a row each, which the caller wipes."""
    block = SecretBytes.zeros(len(keys) * CHAIN_KEY_BYTES)
    for row, (held, chain_id) in enumerate(keys):
        block.row(row, CHAIN_KEY_BYTES)[:] = held.key(chain_id)
    return block


def _lacking(asked: Sequence[Asked], found: dict[SessionId, HeldSession], current: int) -> set[SessionId]:
    """Say of which sessions a chain key that is asked for can neither be taken nor derived from what is held."""
    return {
        it.sid
        for it in asked
        if it.sid not in found or found[it.sid].nearest(_chain_id(found[it.sid], it, current)) is None
    }


def _refusal(held: HeldSession | None, chain_id: ChainId) -> Refusal | None:
    """Say why a session is refused, whatever keys are held of it."""
    if held is None:
        return Refusal.UNKNOWN_SESSION
    if held.state is SessionState.REVOKED:
        return Refusal.DEVICE_STATE
    if held.state is not SessionState.LIVE:
        return Refusal.SESSION_ENDED
    if not held.start <= chain_id.bucket <= held.last_bucket:
        return Refusal.BUCKET
    return None


def _absence(held: HeldSession, chain_id: ChainId) -> Refusal:
    """Say why a live session has not the chain key that is asked for."""
    first = held.lowest(chain_id.epoch)
    if first is not None and first > chain_id.bucket:
        # The epoch only begins there (R7), or the key of that bucket is erased.
        return Refusal.BUCKET
    if first is None and chain_id.epoch != held.epoch:
        return Refusal.EPOCH
    # Its state did not outlive a bucket (R8).
    return Refusal.SESSION_ENDED


def _open_all(
    ring: Ring, chains: Sequence[SealedChain], pages: Sequence[SealedPage], wanted: Collection[SessionId]
) -> list[OpenedChain]:
    return open_chains(ring, chains) + open_pages(ring, pages, wanted)


def _wipe_all(chains: Sequence[OpenedChain]) -> None:
    for chain in chains:
        chain.chain_key.wipe()
