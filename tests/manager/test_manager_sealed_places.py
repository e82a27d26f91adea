"""Sealed values open in their own place alone, whatever somebody with all rights in the database moves where."""

# ruff: noqa: S608 - names of tables and columns come from the catalogue

import itertools

import asyncpg
import pytest

from manager_turns import sessions_of
from manager_world import Edge, TurnedClock, engine_of, managers
from qflare.errors import AuthenticationError, RefusedError
from qflare.manager import pages
from qflare.manager.entry_keys import EntryKeys
from qflare.manager.pages import page_place
from qflare.manager.psks import psk_place
from qflare.manager.reply_keys import reply_place
from qflare.manager.sealing import (
    ANNOUNCE_COLUMN,
    BUCKET_DK_COLUMN,
    BUCKET_TICKET_COLUMN,
    CHAIN_COLUMN,
    ENTRY_KEY_COLUMN,
    LOG_COLUMN,
    ROOT_COLUMN,
    Place,
    seal,
    unseal,
)
from qflare.model.ids import DEFAULT_TENANT, DeviceId
from qflare.model.refusal import Refusal
from qflare.secret import SecretBytes

WIDTH_S = 300

SEALED = """
    SELECT c.relname || '.' || a.attname AS name, c.relname AS table_name, a.attname AS column_name
      FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
     WHERE c.relnamespace = 'qflare'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
       AND a.attname LIKE 'sealed%' AND a.attnum > 0
     ORDER BY 1
"""


def u64(number):
    return number.to_bytes(8, "big")


def tenant(row):
    return row["tenant_id"].bytes


def _page(row):
    return page_place(tenant(row), row["bucket"], [sid.bytes for sid in row["sids"]], row["epochs"])


def _server_key(row):
    return Place(ANNOUNCE_COLUMN if row["kind"] == "announce" else LOG_COLUMN, row["own_id"], row["serial"])


PLACES = {
    # The key's row has no number yet when it is sealed: it is bound to its subject, and its entry to the key.
    "audit_key.sealed_key": lambda row: Place(ENTRY_KEY_COLUMN, row["subject"], 1, tenant(row)),
    "bucket_key.sealed_dk": lambda row: Place(BUCKET_DK_COLUMN, u64(row["bucket"]), row["bucket"]),
    "bucket_key.sealed_ticket_key": lambda row: Place(BUCKET_TICKET_COLUMN, u64(row["bucket"]), row["bucket"]),
    "device.sealed_psk": lambda row: psk_place(tenant(row), row["ref"], row["psk_version"]),
    "reply_key.sealed_reply_key": lambda row: reply_place(
        tenant(row), row["sid"].bytes, row["request_id"].bytes, row["bucket"]
    ),
    "server_identity.sealed_announce": lambda row: Place(ANNOUNCE_COLUMN, row["server_id"], row["serial"]),
    "server_identity.sealed_log": lambda row: Place(LOG_COLUMN, row["server_id"], row["serial"]),
    "server_identity.sealed_root": lambda row: Place(ROOT_COLUMN, row["server_id"], row["serial"]),
    "server_key.sealed_key": _server_key,
    "session_page.sealed_chain_keys": _page,
    "session_state.sealed_chain_key": lambda row: Place(CHAIN_COLUMN, row["sid"].bytes, row["bucket"], tenant(row)),
}
"""Where each column's values are bound to, as docs/architecture.md has it; the catalogue must name no other column."""


@pytest.fixture
async def full(database_dsn, tmp_path, monkeypatch):
    """A manager of whose sealed columns each holds several values, of two tenants where it is a tenant's."""
    monkeypatch.setattr(pages, "PAGE_MIN", 4)
    clock = TurnedClock(5_900_000 * WIDTH_S + 10)
    async with managers(database_dsn, tmp_path, clock=clock, turn_page=16) as (manager,):
        other = manager.for_tenant(await manager.create_tenant("other"))
        few = manager.for_tenant(await manager.create_tenant("few"))
        for view in (manager, other):
            for times in (1, 2):
                edge = await Edge.provision(view)
                for _ in range(times):
                    await view.set_device_psk(edge.name, bytes(range(64)))
        held = {"mine": await sessions_of(manager, 20), "theirs": await sessions_of(other, 6)}
        held["few"] = await sessions_of(few, 2)
        await manager.request_certificate(reason="a test")
        # Two of one session, one each of others and of another tenant; those of before the turn and one of after it.
        asked = [(manager, held["mine"][0])] * 2 + [(manager, held["mine"][1]), (other, held["theirs"][0])]
        for view, (_, session) in asked:
            await view.seal_request(session.sid, b"asked")
        clock.turn(WIDTH_S)
        await manager.turn()
        await other.seal_request(held["theirs"][0][1].sid, b"asked")
        yield manager, held, clock


async def values(admin, engine):
    """Every sealed value with its place and its key, found by the catalogue."""
    found = []
    columns = await admin.fetch(SEALED)
    assert set(PLACES) == {column["name"] for column in columns}
    with engine.buckets.lend() as ring, engine.foundation.keeper.long_term_key() as long_term:
        wrapping = EntryKeys(long_term)._wrapping
        keks = {bucket: SecretBytes.copy_of(ring.kek(bucket)) for bucket in range(ring.first, ring.current + 2)}
        for column in columns:
            rows = await admin.fetch(
                f"SELECT t.*, (SELECT i.server_id FROM qflare.server_identity AS i LIMIT 1) AS own_id"
                f"  FROM qflare.{column['table_name']} AS t WHERE t.{column['column_name']} IS NOT NULL"
            )
            assert rows, column["name"]
            if column["table_name"] == "audit_key":
                rows = {(row["tenant_id"], row["subject"]): row for row in rows}.values()
            for row in rows:
                kek = keks[row["bucket"]] if "bucket" in row.keys() else SecretBytes.copy_of(long_term)  # noqa: SIM118
                if column["table_name"] == "audit_key":
                    kek = wrapping
                found.append((kek, row[column["column_name"]], PLACES[column["name"]](row)))
    return found


async def test_no_sealed_value_opens_in_the_place_of_another(full, admin):
    """Every pair of sealed values, swapped across rows, columns, tenants, buckets and versions: each one is refused."""
    manager, _, _ = full
    found = await values(admin, engine_of(manager))
    assert len(found) > 30
    for kek, sealed, place in found:
        unseal(kek, sealed, place).wipe()
    places = [place.encode() for _, _, place in found]
    assert len(places) == len(set(places))
    refused = 0
    for (kek, sealed, _), (other_kek, _, place) in itertools.permutations(found, 2):
        # With the right key for the value, and with the one that the code would take there.
        for key in (kek, other_kek):
            with pytest.raises(AuthenticationError):
                unseal(key, sealed, place)
            refused += 1
    assert 2 * len(found) * (len(found) - 1) == refused


def test_the_keys_of_one_devices_entries_open_no_other_entry():
    """Two keys of one subject that change places open neither: each seals its own entry alone."""
    with SecretBytes.zeros(32) as kek:
        keys = EntryKeys(kek)
    name = DeviceId("camera-7")
    (one, key_of_one), (two, key_of_two) = keys.seal_many(DEFAULT_TENANT, [name, name], [b"one", b"two"])
    assert (b"one", b"two") == (
        keys.open(DEFAULT_TENANT, one, key_of_one),
        keys.open(DEFAULT_TENANT, two, key_of_two),
    )
    for sealed, key in ((one, key_of_two), (two, key_of_one)):
        with pytest.raises(AuthenticationError):
            keys.open(DEFAULT_TENANT, sealed, key)


async def refusal_of(call):
    with pytest.raises(RefusedError) as caught:
        await call
    return caught.value.reason


async def swap(admin, table, column, where):
    """Exchange a column of the two rows that *where* names, as a superuser."""
    rows = await admin.fetch(f"SELECT ctid::text AS at, tableoid, {column} AS value FROM qflare.{table} WHERE {where}")
    assert 2 == len(rows), where
    for row, other in zip(rows, reversed(rows), strict=True):
        done = await admin.execute(
            f"UPDATE qflare.{table} SET {column} = $1 WHERE ctid = $2::text::tid AND tableoid = $3",
            other["value"],
            row["at"],
            row["tableoid"],
        )
        assert "UPDATE 1" == done


@pytest.mark.parametrize("column", ["sealed_chain_keys", "sids"])
async def test_swapped_pages_do_not_open(full, admin, database_dsn, tmp_path, column):
    """After two pages' keys, or two sessions on a page, change places, none of theirs is served, and others are."""
    manager, held, clock = full
    clock.turn(WIDTH_S)
    bucket = await manager.turn()
    if column == "sids":
        # The ends stay, as the constraint wants.
        done = await admin.execute(
            "UPDATE qflare.session_page SET sids = sids[1:1] || sids[3:3] || sids[2:2] || sids[4:]"
            " WHERE tenant_id = '00000000-0000-0000-0000-000000000000'"
        )
        assert done.startswith("UPDATE ")
    else:
        mine = "tenant_id = '00000000-0000-0000-0000-000000000000'"
        for (live,) in await admin.fetch(f"SELECT DISTINCT bucket FROM qflare.session_page WHERE {mine}"):
            await swap(admin, "session_page", column, f"bucket = {live} AND {mine}")
    await admin.execute("DELETE FROM qflare.session_state WHERE tenant_id = '00000000-0000-0000-0000-000000000000'")
    async with managers(database_dsn, tmp_path, clock=clock, turn_page=16) as (fresh,):
        for edge, session in held["mine"]:
            record = edge.seal(session.sid, b"x", bucket=bucket)
            assert Refusal.SESSION_ENDED is await refusal_of(fresh.open_record(record))
        for edge, session in held["theirs"] + held["few"]:
            with await fresh.open_record(edge.seal(session.sid, b"x", bucket=bucket)):
                pass


async def test_swapped_rows_do_not_open(full, admin, database_dsn, tmp_path):
    """After two sessions' chain keys change places, in both live buckets, neither is served."""
    manager, held, clock = full
    bucket = await manager.current_bucket()
    one, two = (session for _, session in held["few"])
    sids = f"'{one.sid.hex()}', '{two.sid.hex()}'"
    for live in (bucket - 1, bucket):
        await swap(admin, "session_state", "sealed_chain_key", f"bucket = {live} AND sid IN ({sids})")
    async with managers(database_dsn, tmp_path, clock=clock, turn_page=16) as (fresh,):
        for edge, session in held["few"]:
            record = edge.seal(session.sid, b"x", bucket=bucket)
            assert Refusal.SESSION_ENDED is await refusal_of(fresh.open_record(record))


async def test_an_older_psk_put_back_into_its_own_row_does_not_open(database_dsn, tmp_path, admin):
    """A superuser's rollback of a psk is refused by the database, and past the database's trigger by the seal."""
    old, new = (SecretBytes.copy_of(bytes([filler]) * 64) for filler in (1, 2))
    read = "SELECT sealed_psk FROM qflare.device"
    write = "UPDATE qflare.device SET sealed_psk = $1"
    async with managers(database_dsn, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        await manager.set_device_psk(edge.name, old)
        before = await admin.fetchval(read)
        await manager.set_device_psk(edge.name, new)
        now = await admin.fetchval(read)
        with pytest.raises(asyncpg.CheckViolationError, match="follows the one before"):
            await admin.execute(write, before)
        await admin.execute("SET session_replication_role = replica")
        await admin.execute(write, before)
    for value, is_whole in ((before, False), (now, True)):
        await admin.execute(write, value)
        async with managers(database_dsn, tmp_path) as (manager,):
            engine = engine_of(manager)
            device = await manager.find_device(edge.name)
            (credential,) = await engine.credentials.find_many([(device.tenant_id, device.ref, 1)], is_fresh=True)
            assert is_whole == credential.is_accepted
            assert is_whole == credential.psk.equals(bytes(new.view()))
            assert not credential.psk.equals(bytes(old.view()))


async def test_a_psk_of_before_versions_opens_until_it_is_written_next(database_dsn, tmp_path, admin):
    """A psk that an older worker sealed, which counts no versions, is taken, and replaced by one with a version."""
    psk = SecretBytes.copy_of(bytes([3]) * 64)
    async with managers(database_dsn, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        device = await manager.find_device(edge.name)
        engine = engine_of(manager)
        with engine.foundation.keeper.long_term_key() as kek:
            sealed = seal(kek, psk, psk_place(device.tenant_id, device.ref, 0))
        await admin.execute("UPDATE qflare.device SET sealed_psk = $1", sealed)
        for version in (0, 1):
            (credential,) = await engine.credentials.find_many([(device.tenant_id, device.ref, 1)], is_fresh=True)
            assert credential.is_accepted
            assert credential.psk.equals(bytes(psk.view()))
            assert version == (await manager.find_device(edge.name)).psk_version
            await manager.set_device_psk(edge.name, psk)
