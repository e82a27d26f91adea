"""
Where the wings meet: opens store, keeper and threads, puts the manager's parts together, and closes all in reverse.

`Foundation` is what the key manager and the security monitor have in common; `Engine` is the manager's rest.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from qflare.clock import Clock, SystemClock
from qflare.errors import MissingExtraError, UsageError
from qflare.manager.background import Background
from qflare.manager.buckets import Buckets
from qflare.manager.certificates import Certificates
from qflare.manager.changes import Changes
from qflare.manager.claims import Claims
from qflare.manager.controls import Controls
from qflare.manager.credentials import Credentials
from qflare.manager.deadline import Deadline
from qflare.manager.devices import Devices
from qflare.manager.encapsulations import Encapsulations
from qflare.manager.enrolments import Enrolments
from qflare.manager.entry_keys import EntryKeys
from qflare.manager.handshakes import Handshakes
from qflare.manager.hellos import Hellos
from qflare.manager.identity import Identity, open_identity
from qflare.manager.limits import Limits
from qflare.manager.log import Log
from qflare.manager.lookups import Lookups
from qflare.manager.maintenance import Maintenance
from qflare.manager.marks import Marks
from qflare.manager.offers import Offers
from qflare.manager.offload import Offload
from qflare.manager.policies import Policies
from qflare.manager.records import Records
from qflare.manager.refusals import Refusals
from qflare.manager.registrations import Registrations
from qflare.manager.rekeys import Rekeys
from qflare.manager.replies import Replies
from qflare.manager.reserve import Reserve
from qflare.manager.responses import Responses
from qflare.manager.rotations import Rotations
from qflare.manager.sessions import Sessions
from qflare.manager.turns import Turns
from qflare.manager.uses import Uses
from qflare.primitives.engine import choose_engine
from qflare.secret import SecretBytes
from qflare.service.config import make_data_dir
from qflare.service.detection import Detection
from qflare.service.keepers import open_keeper
from qflare.service.responding.playbook import read_playbook
from qflare.service.responding.responder import Responder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from qflare.manager.batcher import Batcher
    from qflare.manager.settings import ManagerSettings
    from qflare.model.keeper_ports import Keeper
    from qflare.model.ports import Store
    from qflare.model.signer_ports import Signer

KEEPER_NAME: Final = "keeper"
"""Folder of the keeper in the data folder; with a database's name behind it in the default one."""
_DETECTION_CLOSE_S: Final = 2.0
"""Longest wait for what the detector has still to report and save: devices and callers come first."""
LONG_STATEMENT_S: Final = 900.0
"""For an operator's statements over whole tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a manager's data are: a database of the user's, or a data folder with an embedded one."""

    database: str | asyncpg.Pool | None
    """A dsn or a pool; None runs the embedded PostgreSQL in the data folder."""
    data_dir: Path | None
    keeper: Keeper | None = None
    """A keeper of the caller's, who closes it; None opens the one that the settings name."""
    store: Store | None = None
    """A store of the caller's in place of a database, beside a keeper; `qflare.testing` has one (docs/testing.md)."""
    is_restored: bool = False
    """Whether the database may be a restored copy that the caller is about to accept, with statements that are long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Foundation:
    """Store, keeper, threads, identity, log and the keys of its entries, of one worker."""

    store: Store
    keeper: Keeper
    marks: Marks
    """Tell when the database under this worker was restored."""
    offload: Offload
    identity: Identity
    entry_keys: EntryKeys
    signer: Signer | None
    """The signer of the log's heads that is a process of its own, if there is one."""
    log: Log
    refusals: Refusals
    background: Background
    deadline: Deadline
    """Bounds the waits of callers that ask the store themselves."""
    clock: Clock
    settings: ManagerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Every part of the manager of one worker."""

    foundation: Foundation
    buckets: Buckets
    certificates: Certificates
    sessions: Sessions
    lookups: Lookups
    credentials: Credentials
    devices: Devices
    registrations: Registrations
    hellos: Hellos
    handshakes: Handshakes
    offers: Offers
    enrolments: Enrolments
    records: Records
    policies: Policies
    replies: Replies
    controls: Controls
    reserve: Reserve
    encapsulations: Encapsulations
    turns: Turns
    maintenance: Maintenance
    changes: Changes
    limits: Limits
    responses: Responses
    responder: Responder
    detection: Detection | None
    """None where the settings turn it off."""

    @property
    def queues(self) -> tuple[Batcher[Any, Any], ...]:  # each has its own items and results
        """Where calls are gathered into batches."""
        return (
            self.hellos.queue,
            self.handshakes.finishes,
            self.offers.queue,
            self.enrolments.queue,
            self.registrations.queue,
            self.lookups.queue,
            self.records.opens,
            self.records.seals,
            self.records.keys,
            self.replies.seals,
        )


@asynccontextmanager
async def open_foundation(
    place: Place, *, settings: ManagerSettings, clock: Clock | None = None
) -> AsyncIterator[Foundation]:
    """
    Open what manager and monitor share.

    Raises:
        ConfigError: a folder or address cannot be used.
        KeeperError: the keeper does not belong to this database.
        MissingExtraError: the server extra is not installed.
        RestoredError: the database is an older copy than the one that was in use.
        SchemaMismatchError: the database has no schema, or another version's.
        SelfTestError: the lanes engine and liboqs disagree.
        StoreUnavailableError: the database does not answer.
    """
    its_clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        offload = Offload(threads=settings.threads, jobs_max=settings.jobs_max)
        # Closed in a thread: it waits for the batch that runs.
        stack.push_async_callback(asyncio.to_thread, offload.close)
        await offload.run(partial(choose_engine, settings.engine))
        store, folder = await _open_store(place, settings, stack)
        keeper = place.keeper if place.keeper is not None else await offload.run(partial(open_keeper, folder, settings))
        signer = await _open_signer(settings, stack)
        identity = await open_identity(
            store=store, keeper=keeper, signer=signer, offload=offload, clock=its_clock, settings=settings
        )
        stack.callback(identity.wipe)
        entry_keys = await offload.run(partial(EntryKeys.of, keeper), wipe=EntryKeys.wipe)
        stack.callback(entry_keys.wipe)
        background = Background()
        refusals = Refusals(clock=its_clock, per_minute=settings.refusal_events_per_minute)
        marks = Marks(store=store, keeper=keeper, offload=offload, server_id=identity.server_id, settings=settings)
        if not place.is_restored:
            await marks.check()
        log = Log(
            store=store,
            identity=identity,
            vault=entry_keys,
            signer=signer,
            marks=marks,
            offload=offload,
            clock=its_clock,
            settings=settings,
        )
        stack.push_async_callback(log.close, settings.close_timeout_s)
        stack.push_async_callback(background.close, settings.close_timeout_s)
        background.start(log.save_heads(background), name="heads")
        background.start(identity.watch(background), name="identity")
        background.start(refusals.write(log.append, background), name="refusals")
        if not place.is_restored:
            background.start(marks.watch(background), name="marks")
        yield Foundation(
            store=store,
            keeper=keeper,
            marks=marks,
            offload=offload,
            identity=identity,
            entry_keys=entry_keys,
            signer=signer,
            log=log,
            refusals=refusals,
            background=background,
            deadline=Deadline(settings.store_timeout_s),
            clock=its_clock,
            settings=settings,
        )


@asynccontextmanager
async def open_engine(foundation: Foundation) -> AsyncIterator[Engine]:  # noqa: PLR0915 - a part, a statement
    """Put the manager together on *foundation*, make or load the live buckets, and start the maintenance loop."""
    store, keeper, offload = foundation.store, foundation.keeper, foundation.offload
    clock, settings, refusals = foundation.clock, foundation.settings, foundation.refusals
    server_id = foundation.identity.server_id
    async with AsyncExitStack() as stack:
        kek: SecretBytes = await offload.run(keeper.long_term_key, wipe=SecretBytes.wipe)
        stack.callback(kek.wipe)
        buckets = Buckets(
            store=store,
            keeper=keeper,
            identity=foundation.identity,
            offload=offload,
            clock=clock,
            settings=settings,
        )
        stack.callback(buckets.wipe)
        await buckets.open()
        sessions = Sessions(store=store, buckets=buckets, offload=offload, settings=settings)
        stack.callback(sessions.wipe)
        credentials = Credentials(store=store, kek=kek, clock=clock, settings=settings)
        devices = Devices(
            store=store,
            credentials=credentials,
            kek=kek,
            vault=foundation.entry_keys,
            offload=offload,
            clock=clock,
            settings=settings,
        )
        changes = Changes(
            store=store, sessions=sessions, credentials=credentials, buckets=buckets, clock=clock, settings=settings
        )
        await changes.open()
        lookups = Lookups(store=store, settings=settings)
        registrations = Registrations(devices=devices, settings=settings)
        limits = await Limits(store=store, clock=clock, settings=settings).open()
        hellos = Hellos(
            buckets=buckets,
            credentials=credentials,
            refusals=refusals,
            limits=limits,
            offload=offload,
            settings=settings,
        )
        claims = Claims(
            store=store,
            buckets=buckets,
            credentials=credentials,
            log=foundation.log,
            offload=offload,
            settings=settings,
        )
        handshakes = Handshakes(
            buckets=buckets,
            credentials=credentials,
            claims=claims,
            refusals=refusals,
            limits=limits,
            offload=offload,
            server_id=server_id,
            settings=settings,
        )
        reserve = Reserve(offload=offload, clock=clock, settings=settings)
        stack.callback(reserve.close)
        encapsulations = Encapsulations(offload=offload, clock=clock, settings=settings)
        stack.callback(encapsulations.close)
        credentials.listeners.append(encapsulations.forget)
        offers = Offers(
            buckets=buckets,
            credentials=credentials,
            refusals=refusals,
            offload=offload,
            encapsulations=encapsulations,
            settings=settings,
        )
        enrolments = Enrolments(
            store=store,
            buckets=buckets,
            devices=devices,
            log=foundation.log,
            refusals=refusals,
            offload=offload,
            clock=clock,
            server_id=server_id,
            settings=settings,
        )
        replies = Replies(
            store=store,
            session_store=store,
            buckets=buckets,
            sessions=sessions,
            offload=offload,
            settings=settings,
        )
        uses = Uses(store=store, settings=settings)
        policies = Policies(store=store, vault=foundation.entry_keys, clock=clock, settings=settings)
        records = Records(
            store=store,
            buckets=buckets,
            sessions=sessions,
            replies=replies,
            refusals=refusals,
            offload=offload,
            uses=uses,
            limits=limits,
            settings=settings,
        )
        rekeys = Rekeys(
            store=store,
            buckets=buckets,
            sessions=sessions,
            devices=devices,
            records=records,
            log=foundation.log,
            refusals=refusals,
            offload=offload,
            settings=settings,
        )
        rotations = Rotations(
            devices=devices,
            credentials=credentials,
            records=records,
            policies=policies,
            uses=uses,
            log=foundation.log,
            refusals=refusals,
            offload=offload,
            server_id=server_id,
        )
        turns = Turns(store=store, buckets=buckets, offload=offload, settings=settings)
        maintenance = Maintenance(
            store=store,
            keeper=keeper,
            identity=foundation.identity,
            buckets=buckets,
            turns=turns,
            replies=replies,
            log=foundation.log,
            policies=policies,
            uses=uses,
            made_ahead=(reserve, encapsulations),
            offload=offload,
            clock=clock,
            settings=settings,
        )
        certificates = Certificates(
            store=store,
            keeper=keeper,
            signer=foundation.signer,
            identity=foundation.identity,
            buckets=buckets,
            offload=offload,
            clock=clock,
            settings=settings,
        )
        playbook = await offload.run(partial(read_playbook, settings.playbook))
        responses = Responses(
            store=store,
            devices=devices,
            credentials=credentials,
            sessions=sessions,
            buckets=buckets,
            certificates=certificates,
            maintenance=maintenance,
            limits=limits,
            clock=clock,
            bounds=playbook.bounds,
            settings=settings,
        )
        responder = Responder(foundation, responses, devices, playbook)
        stack.push_async_callback(responder.close)
        loop_task = foundation.background.start(maintenance.run(foundation.background), name="maintenance")
        stack.push_async_callback(_stop, loop_task)
        for name, work in (
            ("polling", changes.poll_on),
            ("listener", changes.listen),
            ("reserve", reserve.run),
            ("limits", limits.run),
        ):
            task = foundation.background.start(work(foundation.background), name=name)
            stack.push_async_callback(_stop, task)
        detection: Detection | None = None
        if settings.detection:
            detection = Detection(foundation, buckets)
            await detection.open()
            # Beneath what takes messages: it is told of the last of them.
            task = foundation.background.start(detection.run(), name="detection")
            stack.push_async_callback(_stop, task)
            stack.push_async_callback(detection.close, min(settings.close_timeout_s, _DETECTION_CLOSE_S))
        # What was accepted is finished before anything under it goes.
        for part in (lookups, registrations, records, replies, offers, enrolments, hellos, handshakes):
            stack.push_async_callback(part.close, settings.close_timeout_s)
        yield Engine(
            foundation=foundation,
            buckets=buckets,
            certificates=certificates,
            sessions=sessions,
            lookups=lookups,
            credentials=credentials,
            devices=devices,
            registrations=registrations,
            hellos=hellos,
            handshakes=handshakes,
            offers=offers,
            enrolments=enrolments,
            records=records,
            policies=policies,
            replies=replies,
            controls=Controls(rekeys=rekeys, rotations=rotations),
            reserve=reserve,
            encapsulations=encapsulations,
            turns=turns,
            maintenance=maintenance,
            changes=changes,
            limits=limits,
            responses=responses,
            responder=responder,
            detection=detection,
        )


async def _stop(task: asyncio.Task[None]) -> None:
    """End a loop before the buckets and sessions under it are wiped."""
    task.cancel()
    await asyncio.wait({task})


async def _open_signer(settings: ManagerSettings, stack: AsyncExitStack) -> Signer | None:
    """Return the way to the signer that the settings name; it connects when it is asked."""
    if settings.signer_socket is None:
        return None
    from qflare.stores.signer import SignerClient

    client = SignerClient(settings.signer_socket, timeout_s=settings.signer_timeout_s)
    stack.push_async_callback(client.close)
    return client


async def _open_store(place: Place, settings: ManagerSettings, stack: AsyncExitStack) -> tuple[Store, Path]:
    """Open the store; return it and the folder of its keeper's long-term key."""
    if place.store is not None:
        if place.keeper is None:
            raise UsageError("a store of the caller's needs a keeper of the caller's: without a folder none is opened")
        return place.store, Path()
    try:
        from qflare.stores.postgres import PoolSettings, open_pool, open_store
    except ModuleNotFoundError as missing:
        if missing.name != "asyncpg":
            raise
        raise MissingExtraError(feature="the PostgreSQL store", extra="server", package="asyncpg") from None
    database = place.database
    folder = place.data_dir
    if database is None:
        from qflare.stores.embedded import open_embedded

        folder = await asyncio.to_thread(make_data_dir) if folder is None else folder
        server = await stack.enter_async_context(await open_embedded(folder))
        database = server.dsn
    dsn: str | None = None
    limits = PoolSettings(min_size=max(1, settings.pool_size_min), max_size=settings.pool_size_max)
    if place.is_restored:
        limits = replace(limits, statement_timeout_s=LONG_STATEMENT_S, command_timeout_s=LONG_STATEMENT_S)
    if isinstance(database, str):
        pool = await open_pool(database, limits)
        stack.push_async_callback(_close_pool, pool, settings.close_timeout_s)
        dsn, database = database, pool
    store = await open_store(database, settings=limits, dsn=dsn)
    if folder is not None:
        return store, folder / KEEPER_NAME
    # One default folder may serve several databases: each has its own keeper in it.
    cluster = await _cluster_of(database, settings.store_timeout_s)
    default = await asyncio.to_thread(make_data_dir)
    return store, default / f"{KEEPER_NAME}-{cluster}"


async def _cluster_of(pool: asyncpg.Pool, timeout_s: float) -> str:
    """Return a short name of the database that *pool* reaches, the same from every worker."""
    # One statement about the server, not about our tables: it has no place among the named queries.
    async with asyncio.timeout(timeout_s), pool.acquire() as connection, connection.transaction():
        name: str = await connection.fetchval(
            "SELECT system_identifier::text || '/' || current_database() FROM pg_control_system()", timeout=timeout_s
        )
    return hashlib.sha256(name.encode()).hexdigest()[:16]


async def _close_pool(pool: asyncpg.Pool, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await pool.close()
    except TimeoutError:
        pool.terminate()
