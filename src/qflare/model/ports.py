"""
Ports: what `manager`, `monitor` and `service` may ask of a store and of a keeper.

Every store method is one transaction: a state change and its audit entries commit together or not at all (DESIGN,
decision 7).  A call that is repeated, by the store after a lost connection or by its caller with the same message, keys
or call id, ends once (decision 0031).  Methods that take a `tenant_id` work inside that tenant alone (row-level
security).  All raise `StoreUnavailableError` when the store does not answer in time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

from qflare.model.bucket import SealedBucket, SealedIdentity
from qflare.model.call import NotedCall
from qflare.model.call_ports import CallStore
from qflare.model.change import Change, ChangePage
from qflare.model.device import Device, KeyState, NewDevice
from qflare.model.erasure_ports import ErasureStore
from qflare.model.event import AuditEntry, EventSeverity, LogAppend, LogHead, NewEvent, SignedCheckpoint
from qflare.model.ids import CallId, DeviceId, DeviceRef, RequestId, SessionId, TenantId, TokenId
from qflare.model.key_record import KeyRecord
from qflare.model.mark import HighWaterMark, Pulse
from qflare.model.monitor_ports import IncidentStore
from qflare.model.operator_ports import OperatorStore
from qflare.model.reply import ReplyKeyResult, SealedReplyKey
from qflare.model.response_ports import ResponseStore
from qflare.model.rotation import (
    DueKey,
    RotatableKeys,
    RotationMark,
    RotationPolicy,
    RotationProgress,
    SessionUse,
    SessionUseTotal,
    TenantPolicy,
)
from qflare.model.server_key import PendingServerKey, ServerKey
from qflare.model.session import (
    ClaimOutcome,
    RekeyClaim,
    RekeyResult,
    SealedChain,
    Session,
    SessionClaim,
    SessionState,
    StreamClaim,
)
from qflare.model.statistics import KeyStatistics, PoolStatistics
from qflare.model.token import EnrolmentClaim, EnrolmentOutcome, IssuedToken, TokenRecord
from qflare.model.turn import SealedPage, TurnedRange, TurnProgress, TurnRange, TurnStage
from qflare.secret import SecretBytes


class IdentityStore(CallStore, Protocol):
    """Where the server's identity and the bucket keys are kept."""

    async def find_identity(self) -> SealedIdentity | None:
        """Return the identity with the highest serial, or None in an empty database."""

    async def save_identity(self, identity: SealedIdentity, *, event: NewEvent) -> SealedIdentity:
        """Insert *identity* if its serial is new and return the row that stands: the first insert wins."""

    async def identity_serial(self) -> int:
        """Return the highest serial, 0 in an empty database; cheap enough for every look at the clock."""

    async def list_certificates(self) -> tuple[bytes, ...]:
        """Return every CERT that was in force, the newest first."""

    async def follow_identity(
        self,
        identity: SealedIdentity,
        *,
        after: int,
        compromised: str | None,
        event: NewEvent,
        call_id: CallId | None = None,
    ) -> int:
        """
        Bring *identity* into force after the certificate of serial *after*, with *event* in one transaction.

        Its keys become active, keys that waited for another certificate are destroyed, and with a reason in
        *compromised* the keys before it are compromised. `IllegalTransitionError` if *after* is in force no more.
        Returns the serial that came into force: that of an earlier call with the same id, if there was one.
        """

    async def save_pending_keys(
        self,
        keys: Sequence[PendingServerKey],
        *,
        after: int,
        reason: str,
        event: NewEvent,
        call_id: CallId | None = None,
    ) -> int:
        """
        Keep *keys* as pre-active after serial *after*, and destroy those that waited before.

        Returns the `print_of` the public keys that were kept, by this call or by an earlier one with the same id.
        """

    async def find_pending_keys(self) -> tuple[PendingServerKey, ...]:
        """Return the keys that wait for a certificate, announce before log; empty if none does."""

    async def deactivate_server_keys(self, *, before: int, reason: str, event: NewEvent) -> int:
        """End active announce and log keys of serials below *before*, forget their signing halves; return how many."""

    async def remove_root(self, *, event: NewEvent) -> None:
        """Forget the root's sealed signing key: it is kept offline from now on."""

    async def list_server_keys(self) -> tuple[ServerKey, ...]:
        """Return the identity's keys with their states, the newest serial first."""

    async def save_bucket(self, bucket: SealedBucket, *, event: NewEvent | None = None) -> SealedBucket:
        """Insert *bucket* if absent and return the row that stands: the first insert wins (A3)."""

    async def find_buckets(self, first: int, last: int) -> tuple[SealedBucket, ...]:
        """Return the rows of buckets *first* to *last* inclusive, in order."""

    async def sign_bucket_again(self, bucket: SealedBucket, announcement: bytes) -> SealedBucket:
        """Replace *bucket*'s announcement if it still is the one given, and return the row that stands (A3)."""

    async def bucket_mark(self) -> int:
        """Return the highest bucket that has been current, 0 if none (A2)."""

    async def raise_bucket_mark(self, bucket: int) -> int:
        """Raise the mark to *bucket* if it is higher, and return the mark that stands."""

    async def drop_buckets(self, *, before: int, event: NewEvent | None = None) -> int:
        """Delete bucket rows, handshakes, streams and chain states of buckets below *before*; return bucket rows."""

    async def forget_bucket(self, bucket: int) -> None:
        """Delete one bucket's row whose KEK is lost, so that a new pair can be made."""


class DeviceStore(CallStore, Protocol):
    """Tenants, roster and enrolment tokens."""

    async def save_tenant(self, tenant_id: TenantId, name: str, *, event: NewEvent) -> None:
        """Insert a tenant; `AlreadyExistsError` if the id or name is taken. The default tenant always exists."""

    async def list_tenants(self) -> tuple[tuple[TenantId, str], ...]:
        """Return every tenant's id and name."""

    async def add_devices(
        self,
        tenant_id: TenantId,
        devices: Sequence[NewDevice],
        *,
        events: Sequence[NewEvent],
        calls: Sequence[NotedCall | None] | None = None,
    ) -> tuple[tuple[bool, ...], LogAppend | None]:
        """
        Register devices; True where one was added, False where the name exists. One event per added device.

        `calls[i]` is remembered if device i was added.
        """

    async def find_devices(self, tenant_id: TenantId, refs: Sequence[DeviceRef]) -> dict[DeviceRef, Device]:
        """Return the rows found among *refs*."""

    async def list_devices(
        self, tenant_id: TenantId, *, limit: int, after: DeviceId | None = None
    ) -> tuple[Device, ...]:
        """Return up to *limit* devices in order of name."""

    async def set_device_state(
        self,
        tenant_id: TenantId,
        ref: DeviceRef,
        state: KeyState,
        *,
        reason: str,
        event: NewEvent,
        call_id: CallId | None = None,
    ) -> Device:
        """
        Change a device's state, and end its sessions unless it becomes active.

        Raises `IllegalTransitionError` or `KeyNotFoundError`.
        """

    async def rotate_device_keys(
        self,
        tenant_id: TenantId,
        device: NewDevice,
        *,
        key_version: int,
        event: NewEvent,
        call_id: CallId | None = None,
    ) -> Device:
        """
        Make *device*'s keys current as *key_version*; the old become deactivated.

        Raises `ConflictError` unless *key_version* is the current one + 1, or these keys are current as it already, and
        `AlreadyExistsError` if a call with *call_id* rotated this device's keys before.
        """

    async def set_device_psk(
        self,
        tenant_id: TenantId,
        ref: DeviceRef,
        sealed_psk: bytes | None,
        *,
        psk_version: int,
        event: NewEvent,
        reason: str = "",
        call_id: CallId | None = None,
        outcome: int = 1,
    ) -> int:
        """
        Store or remove a device's sealed pre-shared key as *psk_version*.

        Returns the outcome of the call that did: *outcome*, or an earlier one's with the same id.  Raises
        `ConflictError` unless *psk_version* is the current one + 1.
        """

    async def add_token(self, token: TokenRecord, *, event: NewEvent) -> None:
        """Store a token; `AlreadyExistsError` if its id is taken."""

    async def find_tokens(self, tenant_id: TenantId, token_ids: Sequence[TokenId]) -> dict[TokenId, TokenRecord]:
        """Return the tokens found among *token_ids*."""

    async def list_tokens(
        self, tenant_id: TenantId, *, limit: int, after: TokenId | None = None
    ) -> tuple[IssuedToken, ...]:
        """Return up to *limit* tokens in order of id."""

    async def get_token(self, tenant_id: TenantId, token_id: TokenId) -> IssuedToken:
        """Return one token; `KeyNotFoundError` if there is none."""

    async def revoke_token(
        self, tenant_id: TenantId, token_id: TokenId, *, reason: str, event: NewEvent, call_id: CallId | None = None
    ) -> None:
        """Take a token back; `IllegalTransitionError` if it was used or revoked, `KeyNotFoundError` if absent."""

    async def enrol_devices(
        self, tenant_id: TenantId, claims: Sequence[EnrolmentClaim], *, events: Sequence[NewEvent], now_s: int
    ) -> tuple[tuple[EnrolmentOutcome, ...], LogAppend | None]:
        """
        Consume tokens and register devices; each claim ends by itself (E3).

        `events[i]` is written if claim i enrols.
        """


class RotationStore(CallStore, Protocol):
    """Rotation policies of device keys, the marks they make, and what sessions have carried."""

    async def find_rotation_policy(self, tenant_id: TenantId) -> RotationPolicy | None:
        """Return the tenant's policy, None if it has none: then no key becomes due."""

    async def save_rotation_policy(
        self, tenant_id: TenantId, policy: RotationPolicy, *, event: NewEvent, call_id: CallId | None = None
    ) -> None:
        """Make *policy* the tenant's, in place of any before it."""

    async def drop_rotation_policy(
        self, tenant_id: TenantId, *, event: NewEvent, call_id: CallId | None = None
    ) -> None:
        """Remove the tenant's policy; `KeyNotFoundError` if it has none. Marks that were made stand."""

    async def list_rotation_policies(self) -> tuple[TenantPolicy, ...]:
        """Return every tenant's policy."""

    async def list_rotatable_keys(self, tenant_id: TenantId, *, after: bytes, limit: int) -> RotatableKeys:
        """Return up to *limit* active devices' current keys in order of ref, from the one after *after* on."""

    async def mark_rotations(
        self, tenant_id: TenantId, due: Sequence[DueKey], *, events: Sequence[NewEvent]
    ) -> tuple[bool, ...]:
        """
        Mark keys as due, and write `events[i]` for each that was marked; True where one was.

        Over all workers no more than the policy's share of devices a minute; never without a policy, twice for one key
        version, or within `MIN_INTERVAL_S` of the version's beginning.
        """

    async def request_rotation(
        self,
        tenant_id: TenantId,
        ref: DeviceRef,
        *,
        key_version: int,
        event: NewEvent,
        call_id: CallId | None = None,
    ) -> bool:
        """
        Mark a device's keys as due because an operator asked for it, with *event* in the same transaction.

        No policy is needed, and the keys may be of any age.  False, and no event, if this version is marked already, or
        is not the current one of an active device.  What is remembered of *call_id* is the key version.
        """

    async def find_rotation_marks(
        self, tenant_id: TenantId, refs: Sequence[DeviceRef]
    ) -> dict[DeviceRef, RotationMark]:
        """Return the marks on the current keys of *refs*; a mark ends with its key version."""

    async def count_rotations(self, tenant_id: TenantId) -> RotationProgress:
        """Return how far the tenant's rotation is."""

    async def count_use(self, tenant_id: TenantId, uses: Sequence[SessionUse]) -> tuple[SessionUseTotal, ...]:
        """Add what sessions have carried, and return their sums; sessions that are not the tenant's are left out."""


class SessionStore(Protocol):
    """Sessions, their sealed chain keys, and what was accepted already."""

    async def confirm_sessions(
        self, tenant_id: TenantId, claims: Sequence[SessionClaim], *, now_s: int, live_bucket: int
    ) -> tuple[tuple[ClaimOutcome, ...], LogAppend | None]:
        """
        Run H8 for each claim: device row locked, handshake row, session, sealed state, audit entry; at most 4 live.

        A bucket lives while its row of `save_bucket` stands.  *live_bucket* is the lowest live one: claims of buckets
        below it, or of buckets without a row, are `ClaimResult.EXPIRED`, and sessions that end below it are over.
        """

    async def find_session_tenants(self, sids: Sequence[SessionId]) -> dict[SessionId, TenantId]:
        """Return which tenant each known session belongs to."""

    async def find_sessions(self, tenant_id: TenantId, sids: Sequence[SessionId]) -> dict[SessionId, Session]:
        """Return the sessions found among *sids*, ended ones too."""

    async def find_chains(
        self, tenant_id: TenantId, sids: Sequence[SessionId], *, first: int, last: int
    ) -> tuple[SealedChain, ...]:
        """Return the sealed chain keys of *sids* for buckets *first* to *last*, of two epochs where one ends (R7)."""

    async def save_chains(self, chains: Sequence[SealedChain]) -> int:
        """Insert chain keys where absent (a turn, or first touch by any worker); return how many were new."""

    async def find_pages(
        self, tenant_id: TenantId, sids: Sequence[SessionId], *, first: int, last: int
    ) -> tuple[SealedPage, ...]:
        """Return the pages that hold chain keys of *sids* for buckets *first* to *last* inclusive."""

    async def step_turn(
        self,
        bucket: int,
        *,
        is_late: bool,
        range_size: int,
        work: Callable[[TurnRange], Awaitable[TurnedRange]],
    ) -> TurnStage:
        """
        Lead one step of the turn into *bucket* (R8), unless another worker leads.

        Reads chain keys of the bucket before, about *range_size* of them, has *work* step them, writes what it returns
        where absent, and counts the step, in one transaction. The late sweep reads what the first one did not see.
        """

    async def await_writers(self, bucket: int) -> None:
        """Wait until whoever was writing into *bucket* has committed; `StoreUnavailableError` if it takes long."""

    async def find_turn(self) -> TurnProgress | None:
        """Return how far the newest turn is, or None before the first one."""

    async def accept_streams(
        self, tenant_id: TenantId, claims: Sequence[StreamClaim], *, now_s: int
    ) -> tuple[bool, ...]:
        """Insert streams; True where new, False where accepted before, or session or epoch do not live (R4, R7)."""

    async def rekey_session(self, tenant_id: TenantId, claim: RekeyClaim, *, event: NewEvent) -> RekeyResult:
        """Make the claim's epoch the session's by compare-and-swap, with chain keys and event (R7)."""

    async def list_sessions(
        self, tenant_id: TenantId, *, limit: int, after: SessionId | None = None, ref: DeviceRef | None = None
    ) -> tuple[Session, ...]:
        """Return up to *limit* sessions in order of id; with *ref* that device's live ones."""

    async def end_sessions(
        self,
        tenant_id: TenantId,
        sids: Sequence[SessionId],
        state: SessionState,
        *,
        events: Sequence[NewEvent],
        reason: str = "",
        call_id: CallId | None = None,
    ) -> int:
        """End live sessions, and keep why; return how many were live."""

    async def expire_sessions(self, *, before_bucket: int) -> int:
        """Mark sessions whose last bucket is below *before_bucket* as expired, of every tenant; return how many."""

    async def count_keys(self, tenant_id: TenantId, *, bucket: int) -> KeyStatistics:
        """Return the figures of `get_key_statistics` for one tenant."""

    async def count_sessions(self, tenant_id: TenantId, *, first: int, last: int) -> dict[int, int]:
        """Return how many sessions, over or not, end with each of the buckets *first* to *last*; none, no key."""


class ReplyStore(Protocol):
    """Keys of replies that may come late (PROTOCOL R6)."""

    async def accept_requests(
        self,
        tenant_id: TenantId,
        keys: Sequence[SealedReplyKey],
        *,
        outstanding_max: int,
        now_s: int,
    ) -> tuple[ReplyKeyResult, ...]:
        """Insert a device's requests' streams (R4) together with the keys of our replies; all or none of each."""

    async def save_reply_keys(
        self, tenant_id: TenantId, keys: Sequence[SealedReplyKey], *, outstanding_max: int
    ) -> tuple[ReplyKeyResult, ...]:
        """Insert the keys of replies to our own requests, of live sessions in their present epoch."""

    async def find_reply_keys(
        self, tenant_id: TenantId, requests: Sequence[tuple[SessionId, RequestId]]
    ) -> tuple[SealedReplyKey, ...]:
        """Return the keys found of outstanding replies."""

    async def take_reply_keys(
        self,
        tenant_id: TenantId,
        requests: Sequence[tuple[SessionId, RequestId]],
        *,
        direction: int,
        bucket: int,
        now_s: int,
    ) -> tuple[bool, ...]:
        """Delete keys whose replies are taken; True where it stood, in time, and its session lives."""

    async def list_reply_keys(
        self, bucket: int, *, limit: int, after: RequestId | None = None
    ) -> tuple[SealedReplyKey, ...]:
        """Return keys sealed in *bucket*, of every tenant's live sessions, in order of request: what a turn seals."""

    async def reseal_reply_keys(self, keys: Sequence[SealedReplyKey]) -> int:
        """Put keys sealed for a later bucket in the place of the earlier ones; those taken meanwhile stay away."""

    async def drop_reply_keys(self, *, before: int, bucket: int, limit: int) -> int:
        """Delete keys sealed below *before* and those whose time ended before *bucket*; return how many."""


class LogStore(Protocol):
    """The audit log: append-only entries, their tree and its signed heads."""

    async def append_events(
        self, tenant_id: TenantId, events: Sequence[NewEvent], *, call_ids: Sequence[CallId | None] | None = None
    ) -> LogAppend:
        """
        Append *events* in order, in one transaction; those whose change was carried out before stand already.

        `indexes` says where each stands; only the new ones have leaf hashes.
        """

    async def log_head(self) -> LogHead:
        """Return size and frontier as committed."""

    async def list_entries(self, tenant_id: TenantId | None, *, first: int, limit: int) -> tuple[AuditEntry, ...]:
        """Return entries from index *first* on; None reads all tenants and needs the auditor's role."""

    async def find_entry(self, tenant_id: TenantId, index: int) -> AuditEntry | None:
        """Return one entry of the tenant, or None."""

    async def find_nodes(self, nodes: Sequence[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """Return hashes of complete subtrees by (level, index); level 0 are the leaves."""

    async def save_checkpoint(self, checkpoint: SignedCheckpoint) -> None:
        """Store a signed head; the same size again keeps the first."""

    async def latest_checkpoint(self) -> SignedCheckpoint | None:
        """Return the signed head of the largest size, or None."""

    async def list_checkpoints(self, *, first: int, limit: int) -> tuple[SignedCheckpoint, ...]:
        """Return signed heads of *first* entries and more, the smallest first."""

    async def count_events(self, tenant_id: TenantId, *, since_s: int) -> dict[tuple[str, str], int]:
        """Return counts by (event type, severity) since a time."""

    async def latest_events(
        self, tenant_id: TenantId, *, severities: Collection[EventSeverity], limit: int, among: int
    ) -> tuple[int, ...]:
        """Return where the newest entries that are no sessions' stand, newest first, *among* the last so many."""


class KeyRecordStore(Protocol):
    """Lives of keys: states, times and reasons."""

    async def list_device_records(
        self, tenant_id: TenantId, ref: DeviceRef, *, limit: int, before: int | None = None
    ) -> tuple[KeyRecord, ...]:
        """Return a device's keys and psks of versions below *before*, newest first."""

    async def list_bucket_records(self, *, limit: int, before: int | None = None) -> tuple[KeyRecord, ...]:
        """Return keys of buckets below *before*, newest first."""

    async def list_server_records(self, *, limit: int) -> tuple[KeyRecord, ...]:
        """Return the keys of the server's identity, newest first."""


class ChangeListener(Protocol):
    """Hears of changes as they are committed."""

    async def listen(self, hear: Callable[[Change | None], None]) -> None:
        """
        Call *hear* for each change until cancelled, and with None when it is proven that messages arrive.

        Raises `StoreUnavailableError` when it hears no more: whatever came meanwhile is to be looked for.
        """


class ChangeStore(Protocol):
    """Devices and sessions that changed, for workers that remember them."""

    async def list_changes(self, since: int | None, *, limit: int) -> ChangePage:
        """Return what changed since the mark of the last page, some perhaps again; None reads only the mark."""

    async def drop_changes(self) -> int:
        """Delete changes older than a day; return how many."""

    def listener(self) -> ChangeListener | None:
        """Return what hears of changes, None where polling alone must do."""


class Store(
    IdentityStore,
    DeviceStore,
    RotationStore,
    SessionStore,
    ReplyStore,
    LogStore,
    KeyRecordStore,
    ChangeStore,
    IncidentStore,
    OperatorStore,
    ErasureStore,
    ResponseStore,
    Protocol,
):
    """All of it; `stores.postgres` does it."""

    async def pulse(self) -> int:
        """Return how often `raise_pulse` was called in this store's life: less in a restored copy."""

    async def raise_pulse(self) -> Pulse:
        """Count on, and return the new count with the life of the database in which it is."""

    async def begin_anew(self, *, bucket: int) -> int:
        """
        End what a restored copy must not bring back, and return how many sessions were live.

        Sessions end, tokens that were not used expire, every live bucket goes with what lies in it, the bucket mark
        rises to *bucket*, and the database begins another life.
        """

    def pool_statistics(self) -> PoolStatistics | None:
        """Return how many connections are in use, None where there are none."""

    async def check(self) -> None:
        """Raise `StoreUnavailableError` or `SchemaMismatchError` if the store cannot be used."""

    async def close(self) -> None:
        """Release what the store opened itself."""


class Keeper(Protocol):
    """
    Keeps the sealing keys outside the database (PROTOCOL R8): KEK_L, and one random KEK_b a bucket.

    Synchronous and quick (a small file, or an HSM call); callers run it off the event loop.
    """

    def long_term_key(self) -> SecretBytes:
        """Return KEK_L (32 bytes), made at first use; the caller wipes the copy."""

    def make_bucket_key(self, bucket: int) -> SecretBytes:
        """Return KEK_b (32 bytes), made if it is absent and was never destroyed; all workers get the same."""

    def bucket_key(self, bucket: int) -> SecretBytes:
        """Return KEK_b; `KeeperError` if there is none."""

    def destroy_bucket_keys(self, *, before: int) -> int:
        """Destroy every KEK_b of buckets below *before*, for good; return how many."""

    def destroyed_before(self) -> int:
        """Return the lowest bucket whose key was not destroyed for good, 0 where none was yet."""

    def high_water(self) -> HighWaterMark:
        """Return how far a database has come, known outside of it."""

    def raise_high_water(self, mark: HighWaterMark) -> HighWaterMark:
        """Raise the marks, durably, and return those that stand."""

    def replace_high_water(self, mark: HighWaterMark) -> HighWaterMark:
        """Take over the log and database that an operator has accepted, durably; return the marks that stand."""

    def promise(self) -> str | None:
        """Return None if destroyed keys are gone from the medium, else a sentence saying why the promise is void."""
