import asyncio
import traceback

import asyncpg
import pytest

from qflare.errors import (
    ConfigError,
    ConflictError,
    QflareError,
    SchemaMismatchError,
    StoreError,
    StoreUnavailableError,
    UsageError,
)
from qflare.model.ids import DEFAULT_TENANT
from qflare.stores.postgres import PoolSettings, PostgresStore, open_pool, open_store
from qflare.stores.postgres.failures import translated
from store_records import NOW_S, heading, new_claim, new_device, new_event, publish, register

pytestmark = pytest.mark.contract

CANARY = b"canary-of-a-row-that-no-error-may-show!!"


async def test_a_pool_of_the_callers_is_used_and_left_open(database_dsn):
    """A store on somebody's pool neither changes nor closes it."""
    async with asyncpg.create_pool(database_dsn, min_size=1, max_size=2) as pool:
        store = await open_store(pool)
        await store.append_events(DEFAULT_TENANT, [new_event()])
        await store.close()
        assert 1 == await pool.fetchval("SELECT size FROM qflare.log_head")


async def test_every_connection_has_timeouts_and_a_name(database_dsn):
    """Statements, locks and idle transactions are limited on the server as well."""
    pool = await open_pool(database_dsn)
    try:
        expected = {
            "statement_timeout": "9s",
            "lock_timeout": "5s",
            "idle_in_transaction_session_timeout": "30s",
            "application_name": "qflare",
        }
        assert expected == {name: await pool.fetchval(f"SHOW {name}") for name in expected}
    finally:
        await pool.close()


async def test_no_connection_free_in_time_is_an_error(database_dsn):
    """Waiting for a connection is bounded."""
    settings = PoolSettings(max_size=1, acquire_timeout_s=0.2)
    pool = await open_pool(database_dsn, settings)
    store = PostgresStore(pool, owns_pool=True, settings=settings)
    try:
        async with pool.acquire():
            with pytest.raises(StoreUnavailableError, match="in time"):
                await store.log_head()
        assert 0 == (await store.log_head()).size
    finally:
        await store.close()


async def test_a_log_that_is_locked_refuses_in_bounded_time_and_answers_nothing(database_dsn, admin):
    """While the head is held, no session and no event is acknowledged, and nothing is half done (D2)."""
    settings = PoolSettings(lock_timeout_s=1.0)
    store = await open_store(database_dsn, settings=settings)
    try:
        await publish(store)
        (device,) = await register(store)
        async with admin.transaction():
            await admin.execute("SELECT 1 FROM qflare.log_head FOR UPDATE")
            with pytest.raises(StoreUnavailableError, match="lock"):
                await store.append_events(DEFAULT_TENANT, [new_event()])
            with pytest.raises(StoreUnavailableError, match="lock"):
                await store.confirm_sessions(
                    DEFAULT_TENANT, [new_claim(device)], heading=heading(), now_s=NOW_S, live_bucket=999
                )
        assert 0 == await admin.fetchval("SELECT count(*) FROM qflare.handshake")
        assert 0 == await admin.fetchval("SELECT count(*) FROM qflare.session_route")
    finally:
        await store.close()


async def test_a_statement_that_takes_too_long_is_ended(database_dsn, admin):
    """The client's time limit ends the statement on the server too."""
    store = await open_store(database_dsn, settings=PoolSettings(command_timeout_s=2.0, lock_timeout_s=30))
    try:
        async with admin.transaction():
            await admin.execute("SELECT 1 FROM qflare.log_head FOR UPDATE")
            with pytest.raises(StoreUnavailableError, match="in time"):
                await store.append_events(DEFAULT_TENANT, [new_event()])
            async with asyncio.timeout(60):
                while await admin.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'qflare' AND state = 'active'"
                    " AND datname = current_database()"
                ):
                    await asyncio.sleep(0.05)
    finally:
        await store.close()


async def test_a_cancelled_call_leaves_nothing_half_done(database_dsn, admin):
    """Cancelled while it waits for the log, a batch leaves no row behind and the store works on."""
    store = await open_store(database_dsn)
    try:
        await publish(store)
        (device,) = await register(store)
        async with admin.transaction():
            await admin.execute("SELECT 1 FROM qflare.log_head FOR UPDATE")
            task = asyncio.create_task(
                store.confirm_sessions(
                    DEFAULT_TENANT, [new_claim(device)], heading=heading(), now_s=NOW_S, live_bucket=999
                )
            )
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert 0 == await admin.fetchval("SELECT count(*) FROM qflare.handshake")
        outcomes, _ = await store.confirm_sessions(
            DEFAULT_TENANT, [new_claim(device)], heading=heading(), now_s=NOW_S, live_bucket=999
        )
        assert "created" == outcomes[0].result
    finally:
        await store.close()


async def test_killed_connections_are_unavailable_then_back(store, admin):
    """Connections that the server ended give one clear error each; the pool makes new ones."""
    await store.log_head()
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    met = []
    for _ in range(20):
        try:
            assert 0 == (await store.log_head()).size
            break
        except StoreUnavailableError as error:
            met.append(error)
    else:
        pytest.fail("the store does not come back")
    assert all(error.__cause__ is None and "retry" in str(error) for error in met)


async def test_a_read_only_database_is_named(database_dsn, admin):
    """A standby or read-only database refuses changes with that reason and answers nothing."""
    name = await admin.fetchval("SELECT current_database()")
    await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    store = await open_store(database_dsn)
    try:
        with pytest.raises(StoreUnavailableError, match="read-only"):
            await store.append_events(DEFAULT_TENANT, [new_event()])
    finally:
        await store.close()


@pytest.mark.parametrize("dsn", ["", "mysql://x/y", "postgresql://user:pass-canary@host:port/db"])
async def test_a_dsn_that_cannot_be_read_is_refused_without_its_password(dsn):
    """The error of a bad dsn says how it is written and repeats nothing of it."""
    with pytest.raises(ConfigError, match="postgresql://") as caught:
        await open_store(dsn)
    assert "pass-canary" not in "".join(traceback.format_exception(caught.value))


async def test_a_store_needs_a_dsn_or_a_pool():
    """Anything else is refused with what to pass."""
    with pytest.raises(UsageError, match="dsn"):
        await open_store(5)


async def test_a_server_that_is_down_is_named(tmp_path):
    """Nobody at the address is an error that says what to check."""
    with pytest.raises(StoreUnavailableError, match="check that it runs"):
        await open_store(f"postgresql://nobody@/none?host={tmp_path}&port=1")


async def test_a_database_that_does_not_exist_is_named(database_dsn):
    """A wrong database name is no passing failure."""
    with pytest.raises(StoreError, match="does not exist") as caught:
        await open_store(database_dsn.replace("qflare_test_", "qflare_absent_"))
    assert not isinstance(caught.value, StoreUnavailableError)


async def test_a_login_without_privileges_is_told_which(database_dsn, admin):
    """A login that is no member of qflare_app is told to become one."""
    await admin.execute("CREATE ROLE qflare_test_outsider NOLOGIN")

    async def become(connection):
        await connection.execute("SET SESSION AUTHORIZATION qflare_test_outsider")

    pool = await asyncpg.create_pool(database_dsn, min_size=1, max_size=1, init=become)
    try:
        with pytest.raises(StoreError, match="qflare_app"):
            await PostgresStore(pool, owns_pool=False).log_head()
    finally:
        await pool.close()
        await admin.execute("DROP ROLE qflare_test_outsider")


async def test_a_table_that_is_gone_is_a_schema_mismatch(store, admin):
    """A damaged schema is told from a passing failure."""
    await admin.execute("DROP TABLE qflare.checkpoint")
    with pytest.raises(SchemaMismatchError):
        await store.latest_checkpoint()


async def test_no_error_shows_a_row(store):
    """PostgreSQL puts whole rows into DETAIL; no error of ours, with its whole traceback, holds one."""
    device = new_device()
    object.__setattr__(device, "encapsulation_key", CANARY)
    with pytest.raises(ConflictError) as caught:
        await store.add_devices(DEFAULT_TENANT, [device], events=[new_event()])
    error = caught.value
    told = repr(error) + str(error) + repr(vars(error))
    while error is not None:
        assert error.__cause__ is None
        assert error.__suppress_context__
        error = error.__cause__
    assert CANARY.hex() not in told
    assert "canary" not in told.lower()


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, "x"])
async def test_a_value_that_does_not_fit_is_a_usage_error(store, value):
    """Numbers beyond a column's range are the caller's mistake, named without the value."""
    with pytest.raises(UsageError) as caught:
        await store.find_buckets(value, 5)
    assert str(value) not in str(caught.value)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (asyncpg.DeadlockDetectedError("x"), StoreUnavailableError),
        (asyncpg.SerializationError("x"), StoreUnavailableError),
        (asyncpg.TooManyConnectionsError("x"), StoreUnavailableError),
        (asyncpg.DiskFullError("x"), StoreUnavailableError),
        (asyncpg.CannotConnectNowError("x"), StoreUnavailableError),
        (asyncpg.CrashShutdownError("x"), StoreUnavailableError),
        (asyncpg.InterfaceError("x"), StoreUnavailableError),
        (ConnectionResetError("x"), StoreUnavailableError),
        (TimeoutError("x"), StoreUnavailableError),
        (asyncpg.UndefinedTableError("x"), SchemaMismatchError),
        (asyncpg.UniqueViolationError("x"), ConflictError),
        (asyncpg.InvalidPasswordError("x"), StoreError),
        (asyncpg.PostgresSyntaxError("x"), StoreError),
        (asyncpg.NumericValueOutOfRangeError("x"), UsageError),
        (SchemaMismatchError("x"), SchemaMismatchError),
    ],
)
def test_every_failure_has_its_class(raised, expected):
    """What the driver raises comes out as one of ours, without its cause."""
    with pytest.raises(QflareError) as caught, translated():
        raise raised
    assert expected is type(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "change",
    [
        {"min_size": 0},
        {"min_size": 3, "max_size": 2},
        {"max_size": 5000},
        {"lock_timeout_s": 0},
        {"statement_cache_size": -1},
    ],
)
def test_limits_that_cannot_work_are_refused(change):
    """A pool's settings are checked when they are made."""
    with pytest.raises(ConfigError):
        PoolSettings(**change)


async def test_it_works_without_a_statement_cache(database_dsn):
    """Behind PgBouncer prepared statements are not kept; everything works so too."""
    store = await open_store(database_dsn, settings=PoolSettings(statement_cache_size=0))
    try:
        await publish(store)
        (device,) = await register(store)
        outcomes, _ = await store.confirm_sessions(
            DEFAULT_TENANT, [new_claim(device)], heading=heading(), now_s=NOW_S, live_bucket=999
        )
        assert "created" == outcomes[0].result
    finally:
        await store.close()
