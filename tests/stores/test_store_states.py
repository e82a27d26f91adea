"""States of keys, tokens and sessions: every move and every first state, as the database itself allows them."""

# ruff: noqa: S608 - table names and columns are the test's own constants

from contextlib import asynccontextmanager
from itertools import product
from os import urandom

import asyncpg
import pytest

from qflare.errors import IllegalTransitionError, KeyNotFoundError
from qflare.model.device import KeyState
from qflare.model.ids import DEFAULT_TENANT
from qflare.stores.postgres.definition import migrations
from qflare.stores.postgres.failures import translated
from qflare.stores.postgres.migration import apply_migrations
from store_records import (
    begin_session,
    new_bucket,
    new_device,
    new_event,
    new_identity,
    new_operator,
    new_response,
    publish,
    register,
)

pytestmark = pytest.mark.contract

KEY_STATES = ("pre-active", "active", "suspended", "deactivated", "compromised", "destroyed")
KEY_MOVES = {
    "pre-active": {"active", "suspended", "deactivated", "compromised", "destroyed"},
    "active": {"suspended", "deactivated", "compromised"},
    "suspended": {"active", "deactivated", "compromised"},
    "deactivated": {"compromised", "destroyed"},
    "compromised": {"destroyed"},
    "destroyed": set(),
}
ENDED = "CASE WHEN '{state}' IN ('deactivated', 'compromised', 'destroyed') THEN now() END"
TABLES = {
    "device": (KEY_MOVES, {"pre-active", "active"}, ""),
    "device_key": (KEY_MOVES, {"pre-active", "active"}, f", ended_at = {ENDED}"),
    "device_psk": (KEY_MOVES, {"pre-active", "active"}, ""),
    "bucket_record": (KEY_MOVES, {"pre-active", "active"}, ""),
    "server_key": (
        KEY_MOVES,
        {"pre-active", "active"},
        ", sealed_key = CASE WHEN '{state}' = 'pre-active' THEN decode(repeat('ab', 64), 'hex') END",
    ),
    "session": (
        {"live": {"ended", "revoked", "superseded"}, "ended": set(), "revoked": set(), "superseded": set()},
        {"live"},
        ", ended_at = CASE WHEN '{state}' <> 'live' THEN now() END",
    ),
    "enrolment_token": (
        {"active": {"used", "revoked"}, "used": set(), "revoked": set()},
        {"active"},
        (
            ", used_at = CASE WHEN '{state}' = 'used' THEN now() END"
            ", used_key_hash = CASE WHEN '{state}' = 'used' THEN decode(repeat('ab', 64), 'hex') END"
        ),
    ),
    "operator": ({"active": {"revoked"}, "revoked": set()}, {"active"}, ""),
    "response": (
        {
            "proposed": {"begun", "applied", "dismissed"},
            "begun": {"applied", "dismissed"},
            "applied": {"undone"},
            "undone": set(),
            "dismissed": set(),
        },
        {"proposed"},
        "",
    ),
}
ROLES = ("qflare_app", None)
"""The application's role inside the tenant, and whoever owns the database: no row-level security holds him."""


@pytest.fixture
async def filled(store, admin):
    """A database with a row in each table that has states."""
    await publish(store)
    (device,) = await register(store)
    await begin_session(store, device)
    await store.set_device_psk(DEFAULT_TENANT, device.ref, urandom(93), psk_version=1, event=new_event())
    await store.save_identity(new_identity(), event=new_event())
    await admin.execute(
        "INSERT INTO qflare.enrolment_token (tenant_id, token_id, device_id, secret_hash, expires_at)"
        " VALUES ($1, gen_random_uuid(), 'd', $2, now())",
        "00000000-0000-0000-0000-000000000000",
        urandom(64),
    )
    await store.add_operator(new_operator(), event=new_event())
    await store.ask_response(DEFAULT_TENANT, new_response(device=device), needs_two=False, event=new_event())
    return device


@asynccontextmanager
async def undone(connection, role):
    """A transaction as *role* inside the default tenant, of which nothing stays."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute("SELECT set_config('qflare.tenant', $1, true)", str(DEFAULT_TENANT.hex()))
        if role is not None:
            await connection.execute(f"SET LOCAL ROLE {role}")
        yield
    finally:
        await transaction.rollback()


async def put(connection, table, state, more):
    """Put every row into a state, past the triggers."""
    await connection.execute("RESET ROLE")
    await connection.execute("SET LOCAL session_replication_role = replica")
    await connection.execute(f"UPDATE qflare.{table} SET state = '{state}'{more.format(state=state)}")
    await connection.execute("SET LOCAL session_replication_role = origin")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("table", TABLES)
async def test_every_move_is_allowed_or_refused_as_the_states_have_it(filled, admin, table, role):  # noqa: ARG001
    """Of all pairs of states exactly the legal moves pass, for the application and for the owner of the database."""
    moves, _, more = TABLES[table]
    for old, new in product(moves, moves):
        async with undone(admin, None):
            await put(admin, table, old, more)
            if role is not None:
                await admin.execute(f"SET LOCAL ROLE {role}")
            if table == "bucket_record" and role == "qflare_app":
                move = "SELECT qflare.move_bucket_record(fingerprint, $1, 'test') FROM qflare.bucket_record"
                call = admin.fetch(move, new)
            else:
                call = admin.execute(f"UPDATE qflare.{table} SET state = '{new}'{more.format(state=new)}")
            if new == old or new in moves[old]:
                await call
                states = await admin.fetch(f"SELECT DISTINCT state FROM qflare.{table}")
                assert [new] == [row["state"] for row in states], (old, new)
            else:
                with (
                    pytest.raises(IllegalTransitionError, match=f"{table.replace('_', ' ')} cannot go from {old} to"),
                    translated(),
                ):
                    await call


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("table", TABLES)
async def test_every_first_state_is_allowed_or_refused_as_the_states_have_it(filled, admin, table, role):  # noqa: ARG001
    """A row begins only in a state in which a key can begin, whoever writes it."""
    moves, first, more = TABLES[table]
    if table == "bucket_record" and role == "qflare_app":
        return await _application_writes_no_record(admin)
    columns = [
        row["attname"]
        for row in await admin.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped"
            " ORDER BY attnum",
            f"qflare.{table}",
        )
    ]
    names = ", ".join(columns)
    for state in moves:
        async with undone(admin, None):
            await put(admin, table, state, more)
            await admin.execute(f"CREATE TEMP TABLE moved ON COMMIT DROP AS SELECT {names} FROM qflare.{table} LIMIT 1")
            await admin.execute("GRANT SELECT ON moved TO qflare_app")
            await admin.execute("SET LOCAL session_replication_role = replica")
            await admin.execute(f"DELETE FROM qflare.{table}")
            await admin.execute("SET LOCAL session_replication_role = origin")
            if role is not None:
                await admin.execute(f"SET LOCAL ROLE {role}")
            call = admin.execute(f"INSERT INTO qflare.{table} ({names}) SELECT {names} FROM pg_temp.moved")
            if state in first:
                assert "INSERT 0 1" == await call
            else:
                with pytest.raises(IllegalTransitionError, match=f"cannot begin as {state}"), translated():
                    await call
    return None


async def _application_writes_no_record(admin):
    for statement in ("UPDATE qflare.bucket_record SET state = state", "DELETE FROM qflare.bucket_record_move"):
        async with undone(admin, "qflare_app"):
            with pytest.raises(Exception, match="permission denied"):
                await admin.execute(statement)


async def test_a_device_keys_moves_are_kept_with_times_and_reasons(store, admin):
    """Every state that a key had is told with its time and reason, the first one by the key's own row."""
    (device,) = await register(store, device_id="d")
    for state, reason in ((KeyState.SUSPENDED, "away"), (KeyState.ACTIVE, "back")):
        await store.set_device_state(DEFAULT_TENANT, device.ref, state, reason=reason, event=new_event())
    await store.rotate_device_keys(DEFAULT_TENANT, new_device("d"), key_version=2, event=new_event())
    await store.set_device_state(DEFAULT_TENANT, device.ref, KeyState.COMPROMISED, reason="stolen", event=new_event())
    rows = await admin.fetch(
        "SELECT key_version, kind, from_state, to_state, reason FROM qflare.device_key_move"
        " ORDER BY kind, key_version, move_index"
    )
    kem = [tuple(row.values())[2:] for row in rows if (row["kind"], row["key_version"]) == ("kem", 1)]
    signature = [tuple(row.values())[2:] for row in rows if (row["kind"], row["key_version"]) == ("signature", 1)]
    # Not proven: suspension and resumption leave it as it is, for resuming must not prove it.
    assert kem == [
        ("pre-active", "deactivated", "followed by key version 2"),
        ("deactivated", "compromised", "stolen"),
    ]
    assert signature == [
        ("active", "suspended", "away"),
        ("suspended", "active", "back"),
        ("active", "deactivated", "followed by key version 2"),
        ("deactivated", "compromised", "stolen"),
    ]
    times = await admin.fetch(
        "SELECT moved_at FROM qflare.device_key_move WHERE kind = 'signature' ORDER BY move_index"
    )
    assert all(row["moved_at"] is not None for row in times)


async def test_a_buckets_key_lives_with_its_bucket_and_leaves_a_record(store, admin):
    """Pre-active when published early, active while current, deactivated, destroyed; the sealed key is gone by then."""

    async def states():
        rows = await admin.fetch("SELECT bucket, state FROM qflare.bucket_record ORDER BY 1")
        return {row["bucket"]: row["state"] for row in rows}

    await store.raise_bucket_mark(10)
    for bucket in (9, 10, 11):
        await store.save_bucket(new_bucket(bucket))
    assert await states() == {9: "deactivated", 10: "active", 11: "pre-active"}
    await store.raise_bucket_mark(11)
    assert await states() == {9: "deactivated", 10: "deactivated", 11: "active"}
    await store.drop_buckets(before=10)
    assert await states() == {9: "destroyed", 10: "deactivated", 11: "active"}
    await store.forget_bucket(11)
    await store.save_bucket(new_bucket(11))
    rows = await admin.fetch(
        "SELECT m.to_state, m.reason FROM qflare.bucket_record k JOIN qflare.bucket_record_move m USING (fingerprint, bucket)"
        " WHERE bucket = 11 ORDER BY k.created_at, m.move_index"
    )
    assert [tuple(row.values()) for row in rows] == [
        ("active", "its bucket is current"),
        ("deactivated", "removed before its bucket was over"),
        ("destroyed", "removed before its bucket was over"),
        ("active", "its bucket is current"),
    ]
    # After a long sleep nothing stays active that is not.
    await store.raise_bucket_mark(50)
    assert set((await states()).values()) == {"destroyed", "deactivated"}


async def test_the_record_of_a_buckets_key_holds_no_key(store, admin):
    """What stays of a bucket's key is a fingerprint, its number, states, times and reasons."""
    await publish(store)
    rows = await admin.fetch("SELECT * FROM qflare.bucket_record")
    assert 3 == len(rows)
    for row in rows:
        assert {"fingerprint", "bucket", "state", "created_at"} == set(row.keys())
        assert len(row["fingerprint"]) == 32


async def test_statistics_count_devices_as_they_come_and_move(store):
    """The counts of states are those of the rows, after registering, moving and rotating."""
    devices = await register(store, 5)
    for device, state in zip(devices, ("suspended", "deactivated", "compromised"), strict=False):
        await store.set_device_state(DEFAULT_TENANT, device.ref, KeyState(state), reason="x", event=new_event())
    name = devices[4].device_id
    await store.rotate_device_keys(DEFAULT_TENANT, new_device(name), key_version=2, event=new_event())
    await store.add_devices(DEFAULT_TENANT, [new_device(name)], events=[new_event()])
    with pytest.raises(KeyNotFoundError):
        await store.set_device_state(DEFAULT_TENANT, urandom(32), KeyState.SUSPENDED, reason="x", event=new_event())
    found = await store.count_keys(DEFAULT_TENANT, bucket=1000)
    assert (5, 2, 2, 12) == (
        found.devices_total,
        found.devices_active,
        found.devices_revoked,
        found.device_keys_total,
    )


async def test_what_stood_before_keys_had_states_is_carried_over(empty_database_dsn):
    """The migration counts devices, tells used tokens, and gives buckets' keys the state of their bucket."""
    connection = await asyncpg.connect(empty_database_dsn, timeout=30)
    try:
        steps = migrations()
        await connection.execute(steps[0].text)
        (before,) = (number for number, step in enumerate(steps) if step.name == "keep key states")
        await apply_migrations(connection, steps[1:before])
        tenant = "00000000-0000-0000-0000-000000000000"
        for number, state in enumerate(("active", "active", "suspended", "compromised")):
            await connection.execute(
                "INSERT INTO qflare.device (tenant_id, ref, device_id, state, key_version)"
                " VALUES ($1, sha256($2::text::bytea), $2, $3, $4)",
                tenant, f"d{number}", state, number + 1,
            )  # fmt: skip
        await connection.execute(
            "INSERT INTO qflare.enrolment_token (tenant_id, token_id, device_id, secret_hash, expires_at, used_at,"
            " used_key_hash) VALUES ($1, gen_random_uuid(), 'd', $2, now(), now(), $2),"
            " ($1, gen_random_uuid(), 'e', $2, now(), NULL, NULL)",
            tenant, urandom(64),
        )  # fmt: skip
        await connection.execute("UPDATE qflare.bucket_mark SET bucket = 10")
        for bucket in (9, 10, 11):
            await connection.execute(
                "INSERT INTO qflare.bucket_key (bucket, width_s, announcement, sealed_dk, sealed_ticket_key)"
                " VALUES ($1, 300, $2, $3, $4)",
                bucket, urandom(4042), urandom(93), urandom(61),
            )  # fmt: skip
        await apply_migrations(connection, steps[before : before + 1])
        counted = await connection.fetchrow(
            "SELECT active, suspended, compromised, device_keys FROM qflare.device_count"
        )
        assert (2, 1, 1, 20) == tuple(counted.values())
        tokens = await connection.fetch("SELECT state FROM qflare.enrolment_token ORDER BY device_id")
        assert ["used", "active"] == [row["state"] for row in tokens]
        keys = await connection.fetch("SELECT bucket, state FROM qflare.bucket_record ORDER BY bucket")
        assert [(9, "deactivated"), (10, "active"), (11, "pre-active")] == [tuple(row.values()) for row in keys]
    finally:
        await connection.close()


async def test_psks_that_stood_before_they_had_states_are_in_their_devices_states(empty_database_dsn):
    """The migration gives each psk of every tenant a life, in its device's state, and devices without one none."""
    connection = await asyncpg.connect(empty_database_dsn, timeout=30)
    try:
        steps = migrations()
        await connection.execute(steps[0].text)
        (before,) = (number for number, step in enumerate(steps) if step.name == "keep psk states")
        await apply_migrations(connection, steps[1:before])
        tenants = ["00000000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-000000000001"]
        await connection.execute("INSERT INTO qflare.tenant (tenant_id, name) VALUES ($1, 'other')", tenants[1])
        for tenant in tenants:
            for number, state in enumerate(("active", "suspended", "compromised", "active")):
                await connection.execute(
                    "INSERT INTO qflare.device (tenant_id, ref, device_id, state, key_version, sealed_psk, psk_version)"
                    " VALUES ($1, sha256($2::text::bytea), $2, 'active', 1, $3, $4)",
                    tenant, f"d{number}", None if number == 3 else urandom(93), number,
                )  # fmt: skip
                if state != "active":
                    await connection.execute(
                        "UPDATE qflare.device SET state = $1 WHERE device_id = $2", state, f"d{number}"
                    )
        await apply_migrations(connection, steps[before : before + 1])
        rows = await connection.fetch("SELECT tenant_id::text, psk_version, state FROM qflare.device_psk ORDER BY 1, 2")
        expected = [(0, "active"), (1, "suspended"), (2, "compromised")]
        assert [(tenant, *psk) for tenant in tenants for psk in expected] == [tuple(row.values()) for row in rows]
        reasons = await connection.fetch("SELECT DISTINCT reason FROM qflare.device_psk_move")
        assert ["as its device"] == [row["reason"] for row in reasons]
        # A worker from before sets another one: its life is kept all the same.
        await connection.execute("SELECT set_config('qflare.tenant', $1, false)", tenants[1])
        await connection.execute("SET ROLE qflare_app")
        await connection.execute(
            "UPDATE qflare.device SET sealed_psk = $1, psk_version = 4 WHERE device_id = 'd3'", urandom(93)
        )
        assert "active" == await connection.fetchval("SELECT state FROM qflare.device_psk WHERE psk_version = 4")
    finally:
        await connection.close()


async def test_why_a_session_ended_is_said_once(filled, admin):  # noqa: ARG001
    """The reason stands with the end, and nobody changes it afterwards, nor gives a living session one."""
    async with undone(admin, "qflare_app"):
        for _ in range(2):
            with pytest.raises(asyncpg.PostgresError) as caught:
                async with admin.transaction():
                    await admin.execute("UPDATE qflare.session SET end_reason = 'x'")
            assert "session_end_reason_stands" == caught.value.constraint_name
            await admin.execute("UPDATE qflare.session SET state = 'ended', ended_at = now() WHERE state = 'live'")
        assert "no reason given" == await admin.fetchval("SELECT end_reason FROM qflare.session")
