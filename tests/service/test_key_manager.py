import asyncio
import gc
import warnings

import asyncpg
import pytest

import qflare
from manager_world import Edge, engine_of, make_manager, managers, settings
from qflare.errors import (
    AlreadyExistsError,
    ConfigError,
    IllegalTransitionError,
    KeyCheckError,
    KeyNotFoundError,
    KeyRevokedError,
    KeyStateError,
    LengthError,
    RefusedError,
    StoreUnavailableError,
    UnsupportedAlgorithmError,
    UsageError,
)
from qflare.model.device import KeyState
from qflare.model.ids import DEFAULT_TENANT
from qflare.model.refusal import Refusal
from qflare.service.key_manager import QuantumKeyManager


async def test_names_of_the_founding_document_work_in_their_order(database_dsn, tmp_path):
    """Generate, initiate, complete, map, derive, log: as written there, with a database URL and no `async with`."""
    manager = QuantumKeyManager(database_dsn, data_dir=tmp_path / "data", config=settings(tmp_path))
    mapper = qflare.SecureKeyMapper(b"m" * 32)
    monitor = qflare.SecurityMonitor(database_dsn, data_dir=tmp_path / "data", config=settings(tmp_path))
    try:
        device_id = "edge-node-001"
        keypair = await manager.generate_device_keypair(device_id, algorithm="Kyber1024")
        assert ("ML-KEM-1024", "ML-DSA-44") == (keypair.algorithm, keypair.signature_algorithm)

        exchange = await manager.initiate_temporal_key_exchange(device_id, keypair.public_key)
        edge = Edge(keypair)
        pending = await edge.answer(manager, exchange.offer)
        completed = await manager.complete_key_exchange(exchange.session_id, pending.message)
        session = edge.accept(pending, completed.confirmation)
        assert exchange.session_id == completed.session_id == session.sid

        server = await mapper.generate_server_keypair()
        mapping = await mapper.create_key_mapping(device_id, keypair.public_key, server.private_key)
        with (
            await mapper.derive_communication_key(mapping.mapping_id, "encryption") as encryption,
            await mapper.derive_communication_key(mapping.mapping_id, "signing") as signing,
            qflare.DeviceKeyMapping(
                mapping.descriptor,
                device_id=device_id,
                encapsulation_key=keypair.public_key,
                decapsulation_key=keypair.private_key,
                server_public_key=server.public_key,
            ) as device_side,
            device_side.derive_communication_key("encryption", bucket=mapping.bucket) as device_key,
        ):
            assert 64 == len(encryption) == len(signing)
            assert not encryption.equals(signing)
            with await mapper.derive_communication_key(
                mapping.mapping_id, "encryption", bucket=mapping.bucket
            ) as server_key:
                assert server_key.equals(device_key)
        with (
            await manager.derive_session_key(session.sid, "encryption", bucket=session.start) as one,
            edge.chain(session.sid).derive_session_key("encryption", bucket=session.start) as two,
        ):
            assert one.equals(two)

        event = await monitor.log_security_event(
            qflare.SecurityEventType.KEY_EXCHANGE,
            qflare.EventSeverity.INFO,
            {"session_id": session.sid.hex(), "algorithm": keypair.algorithm},
            device_id=device_id,
        )
        proof = await monitor.verify_event_integrity(event)
        assert (event.index, device_id) == (proof.index, proof.entry.device_id)

        rotated = await manager.rotate_device_keys(device_id)
        assert 2 == rotated.key_version
        assert rotated.public_key == (await manager.get_device_public_key(device_id)).public_key
        statistics = await manager.get_key_statistics()
        assert (1, 1) == (statistics.devices_total, statistics.sessions_live)
        report = await monitor.verify_log(receipts=[qflare.HeldReceipt.of(session.evidence)])
        assert (1, 1) == (report.receipts, report.entries["key_exchange"] - 1)
        dashboard = await monitor.get_security_dashboard_data()
        assert 1 <= dashboard.events["key_rotation", "info"]
        await manager.cleanup_expired_keys_and_sessions()
        keypair.wipe()
        rotated.wipe()
        server.wipe()
    finally:
        mapper.close()
        await monitor.close()
        await manager.close()


async def test_without_arguments_it_runs_its_own_postgresql(tmp_path, monkeypatch):
    """`QuantumKeyManager()` starts PostgreSQL in the data folder, keeps what it made, and stops it with the last user."""
    monkeypatch.setenv("QFLARE_DATA_DIR", str(tmp_path / "data"))
    config = settings(tmp_path)
    async with QuantumKeyManager(config=config) as one:
        edge = await Edge.provision(one, "edge-node-001")
        session = await edge.connect(one)
        identity = await one.identity()
    async with QuantumKeyManager(config=config) as two:
        assert identity == await two.identity()
        with await two.open_record(edge.seal(session.sid, b"still here")):
            pass
    from postgres_database import wait_until_stopped
    from qflare.stores.embedded.folder import open_folder

    wait_until_stopped(open_folder(tmp_path / "data"))


async def test_forgetting_to_close_is_a_resource_warning(database_dsn, tmp_path):
    """A manager that is collected while open warns; one that was closed, or never opened, does not."""
    manager = make_manager(database_dsn, tmp_path)
    await manager.open()
    opening = manager._opening
    with pytest.warns(ResourceWarning, match="async with"):  # noqa: PT031 - forgetting takes two steps
        del manager
        gc.collect()
    await opening.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        closed = make_manager(database_dsn, tmp_path)
        await closed.close()
        await closed.close()
        del closed
        gc.collect()


async def test_first_awaits_open_it_once(database_dsn, tmp_path):
    """Many first calls at once open one engine; a cancelled one among them undoes nothing; after close it refuses."""
    manager = make_manager(database_dsn, tmp_path)
    assert not manager.is_open
    calls = [asyncio.create_task(manager.server_id()) for _ in range(8)]
    await asyncio.sleep(0)
    calls[0].cancel()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert 1 == len({end for end in ended if isinstance(end, bytes)})
    assert manager.is_open
    await manager.close()
    assert not manager.is_open
    with pytest.raises(KeyStateError, match="closed"):
        await manager.server_id()


async def test_failed_opening_can_be_tried_again(tmp_path):
    """A database that is down is a clear error at each attempt, within a bounded time, and leaves nothing open."""
    manager = make_manager("postgresql://nobody@127.0.0.1:1/none", tmp_path)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            await manager.server_id()
    assert not manager.is_open
    await manager.close()


@pytest.mark.parametrize(
    ("dsn", "message"), [("mysql://x", "postgresql://"), ("postgresql://user:hunter2@[bad/db", "dsn")]
)
async def test_bad_address_is_refused_without_repeating_it(tmp_path, dsn, message):
    """An address that cannot be read is a clear error that does not repeat a password in it."""
    manager = make_manager(dsn, tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        await manager.open()
    assert "hunter2" not in str(caught.value)
    await manager.close()


async def test_manager_takes_a_pool_and_leaves_it_open(database_dsn, tmp_path):
    """A pool of the caller's is used and stays the caller's."""
    async with asyncpg.create_pool(database_dsn, min_size=1, max_size=4) as pool:
        async with QuantumKeyManager(pool, data_dir=tmp_path / "data", config=settings(tmp_path)) as manager:
            edge = await Edge.provision(manager)
            await edge.connect(manager)
        assert 1 == await pool.fetchval("SELECT 1")


async def test_missing_data_folder_parent_is_named(database_dsn, tmp_path):
    """A data folder whose parent is missing is refused with its name; nothing is made up."""
    manager = QuantumKeyManager(database_dsn, data_dir=tmp_path / "no" / "such" / "folder", config=settings(tmp_path))
    with pytest.raises(ConfigError, match="does not exist"):
        await manager.open()
    assert not (tmp_path / "no").exists()
    await manager.close()


@pytest.mark.parametrize("name", ["Kyber1024-R3", "Kyber512", "RSA", "ml-kem-1024", "Dilithium2", ""])
async def test_algorithms_that_are_not_offered_list_what_is(database_dsn, tmp_path, name):
    """An unknown or round-3 name is refused before any work, and the error lists what is offered (N4)."""
    manager = make_manager(database_dsn, tmp_path)
    with pytest.raises(UnsupportedAlgorithmError, match=r"Kyber1024, ML-KEM-1024") as caught:
        await manager.generate_device_keypair("edge-1", algorithm=name)
    assert ("Kyber1024", "ML-KEM-1024") == caught.value.supported
    assert ("round-3" in str(caught.value)) == name.endswith("R3")
    assert not manager.is_open
    await manager.close()


async def test_roster_calls(database_dsn, tmp_path):
    """Registering, listing, looking up and rotating devices, one by one and many, with each error by itself."""
    async with managers(database_dsn, tmp_path) as (manager,):
        made = await manager.generate_device_keypairs_many(["b", "a", "a", "c"])
        assert [False, False, True, False] == [isinstance(each, AlreadyExistsError) for each in made]
        keys = made[0]
        rows = await manager.register_devices_many(
            [
                ("d", keys.verification_key, keys.encapsulation_key),
                ("a", keys.verification_key, keys.encapsulation_key),
                ("e", keys.verification_key, b"\xff" * 1568),
            ]
        )
        assert "d" == rows[0].device_id
        assert isinstance(rows[1], AlreadyExistsError)
        assert isinstance(rows[2], KeyCheckError)
        assert ["a", "b", "c", "d"] == [device.device_id for device in await manager.list_devices()]
        assert ["c"] == [device.device_id for device in await manager.list_devices(limit=1, after="b")]
        assert made[0].public_key == (await manager.get_device_public_key("b")).public_key
        for call in (
            manager.find_device("nobody"),
            manager.get_device_public_key("nobody"),
            manager.rotate_device_keys("nobody"),
            manager.revoke_device("nobody", reason="x"),
            manager.set_device_psk("nobody", b"p" * 64),
            manager.find_session(bytes(16)),
        ):
            with pytest.raises(KeyNotFoundError):
                await call
        for call in (
            manager.find_device(""),
            manager.find_device("x" * 256),
            manager.find_device(b"bytes"),
            manager.generate_device_keypairs_many("name"),
            manager.list_devices(limit=0),
            manager.revoke_device("a", reason=""),
            manager.set_device_psk("a", bytes(64)),
        ):
            with pytest.raises(UsageError):
                await call
        for call in (
            manager.set_device_psk("a", b"short"),
            manager.find_session(b"short"),
            manager.offer_for(b"short"),
            manager.register_device("f", verification_key=b"short", encapsulation_key=keys.encapsulation_key),
        ):
            with pytest.raises(LengthError):
                await call
        rotated = await manager.rotate_device_keys_many(["a", "b"])
        assert [2, 2] == [each.key_version for each in rotated]
        assert KeyState.DEACTIVATED is (await manager.revoke_device("a", reason="lost")).state
        with pytest.raises(IllegalTransitionError):
            await manager.revoke_device("a", reason="again")
        with pytest.raises(IllegalTransitionError):
            await manager.resume_device("a")
        with pytest.raises(KeyRevokedError):
            await manager.rotate_device_keys("a")
        for pair in [*made, *rotated]:
            if not isinstance(pair, Exception):
                pair.wipe()


async def test_key_pair_shows_no_secret(database_dsn, tmp_path):
    """repr, str and pickle of a key pair give nothing of its private halves away, and its block wipes them."""
    import pickle

    async with managers(database_dsn, tmp_path) as (manager,):
        with await manager.generate_device_keypair("edge-1") as pair:
            with pair.private_key.view() as view:
                secret = bytes(view)
            assert secret.hex()[:32] not in repr(pair)
            assert repr(secret)[2:40] not in repr(pair)
            with pytest.raises(UsageError):
                pickle.dumps(pair)
        assert pair.private_key.equals(bytes(len(pair.private_key)))
        assert pair.signing_key.equals(bytes(len(pair.signing_key)))


async def test_tenants_do_not_see_each_other(database_dsn, tmp_path):
    """Names, sessions and log entries of one tenant are nobody else's; a device belongs to the tenant in its messages."""
    async with managers(database_dsn, tmp_path) as (manager,):
        tenant = await manager.create_tenant("other")
        with pytest.raises(AlreadyExistsError):
            await manager.create_tenant("other")
        other = manager.for_tenant(tenant)
        assert {DEFAULT_TENANT, tenant} == {each for each, _ in await manager.list_tenants()}
        mine, theirs = await Edge.provision(manager, "same-name"), await Edge.provision(other, "same-name")
        my_sid, their_sid = (await mine.connect(manager)).sid, (await theirs.connect(manager)).sid
        assert mine.device.ref != theirs.device.ref
        with pytest.raises(KeyNotFoundError):
            await manager.find_session(their_sid)
        with pytest.raises(KeyNotFoundError):
            await other.find_session(my_sid)
        assert not await manager.end_session(their_sid)
        await other.revoke_device("same-name", reason="theirs")
        with await manager.open_record(mine.seal(my_sid, b"mine")):
            pass
        with pytest.raises(RefusedError):
            await manager.open_record(theirs.seal(their_sid, b"theirs"))
        mixed = mine.pair.identity()
        stolen = Edge.__new__(Edge)
        stolen.device = type(mixed)(
            **{name: getattr(mixed, name) for name in mixed.__dataclass_fields__} | {"tenant_id": tenant}
        )
        stolen.identity, stolen.log_mark, stolen.sessions = None, None, {}
        with pytest.raises(RefusedError) as caught:
            await stolen.connect(manager)
        assert Refusal.UNKNOWN_DEVICE == caught.value.reason
        for view in (manager, other):
            assert {view.tenant} == {entry.tenant_id for entry in await view.monitor.list_events()}


async def test_derive_is_bound_to_the_tenant(database_dsn, tmp_path):
    """Calls by session id work inside the manager's tenant only."""
    async with managers(database_dsn, tmp_path) as (manager,):
        other = manager.for_tenant(await manager.create_tenant("other"))
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        with pytest.raises(KeyNotFoundError):
            await other.derive_session_key(sid, "encryption")
        with pytest.raises(KeyNotFoundError):
            await other.seal_record(sid, b"x")
        (await manager.derive_session_key(sid, "encryption")).wipe()


async def test_readiness_says_what_is_wrong(database_dsn, tmp_path, admin):
    """A manager that can serve says so; without its database or keeper it names the part, within the time given."""
    async with managers(database_dsn, tmp_path) as (manager,):
        assert (await manager.readiness()).is_ready
        keeper = engine_of(manager).foundation.keeper
        folder = keeper._folder.path
        folder.rename(folder.with_name("away"))
        ready = await manager.readiness()
        assert (None, None) == (ready.database, ready.bucket)
        assert "keeper" in ready.keeper
        folder.with_name("away").rename(folder)
        await admin.execute("ALTER TABLE qflare.schema_version RENAME TO version_away")
        ready = await manager.readiness(timeout_s=1.0)
        assert not ready.is_ready
        assert "database" in ready.database


async def test_close_finishes_what_was_accepted(database_dsn, tmp_path):
    """Calls accepted before close end with their answers; those after it are refused."""
    manager = make_manager(database_dsn, tmp_path)
    edges = [await Edge.provision(manager) for _ in range(5)]
    pendings = [await edge.hello(manager) for edge in edges]
    calls = [asyncio.create_task(manager.confirm(pending.message)) for pending in pendings]
    await asyncio.sleep(0)
    await manager.close()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert [] == [end for end in ended if isinstance(end, BaseException)]
    async with managers(database_dsn, tmp_path) as (again,):
        assert 5 == (await again.get_key_statistics()).sessions_live
        for edge, pending, end in zip(edges, pendings, ended, strict=True):
            await edge.trust(again)
            edge.accept(pending, end.confirmation)
