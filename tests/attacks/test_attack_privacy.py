"""Who reads the log's rows learns no device's name; erasing a device leaves the log whole; shown fields are proven."""

import asyncio
import base64
import json
from os import urandom

import pytest

from cli.test_cli import run
from manager_world import Edge, engine_of, managers
from qflare import QuantumKeyManager
from qflare.errors import (
    AuthenticationError,
    DecodeError,
    EvidenceError,
    KeyNotFoundError,
    KeyStateError,
    OtherLogError,
    UsageError,
)
from qflare.model.device import KeyState
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.ids import DEFAULT_TENANT
from qflare.model.incident import IncidentState
from qflare.model.signal import Signal
from qflare.monitor.erasure import WHAT, encode_indexes
from qflare.monitor.held import HeldReceipt
from qflare.protocol.disclosure import Disclosure
from qflare.protocol.identity import decode_identity, device_ref
from qflare.protocol.log_key import LogKey
from store_records import new_sighting

SYSTEM, INFO = SecurityEventType.SYSTEM, EventSeverity.INFO
ACTION = SecurityEventType.OPERATOR_ACTION
T = DEFAULT_TENANT


async def log(manager, data, device_id=None):
    return await manager.monitor.log_security_event(SYSTEM, INFO, data, device_id=device_id)


async def key_of(manager):
    return LogKey.of(decode_identity(await manager.identity(), server_id=await manager.server_id()).certificate)


async def test_no_row_of_the_log_names_a_device(database_dsn, tmp_path, admin):
    """Neither entries nor their keys hold a device's name, or what is said of it, after all that devices do."""
    async with managers(database_dsn, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        await edge.connect(manager)
        await manager.issue_enrolment_token("device-with-a-token")
        await manager.revoke_device(edge.name, reason="stolen from the lorry")
        found = await log(manager, {"words": "spoken-softly"}, edge.name)
        assert json.loads((await manager.monitor.list_events(first=found.index))[0].data) == {"words": "spoken-softly"}
        rows = await admin.fetch("SELECT e::text AS entry FROM qflare.audit_entry AS e")
        rows += await admin.fetch("SELECT k::text AS entry FROM qflare.audit_key AS k")
        for secret in (edge.name, "device-with-a-token", "stolen from", "spoken-softly"):
            assert not [row for row in rows if secret in row["entry"] or secret.encode().hex() in row["entry"]]


async def test_an_erased_device_leaves_the_log_whole(database_dsn, tmp_path):
    """What was said of it is gone for every reader; verification, receipts, other devices and new entries stay."""
    async with managers(database_dsn, tmp_path, 2) as (one, two):
        edge, other = await Edge.provision(one), await Edge.provision(one)
        evidence = (await edge.connect(one)).evidence
        mine = [await log(one, {"n": number}, edge.name) for number in range(3)]
        theirs = await log(one, {"n": 7}, other.name)
        plan = await one.monitor.plan_device_erasure(edge.name)
        assert plan.entries >= 4  # its registration too
        assert 0 == plan.named
        assert 0 == (await one.monitor.verify_log()).erased
        assert plan == await two.monitor.erase_device_entries(edge.name)
        assert 0 == (await one.monitor.erase_device_entries(edge.name)).entries
        held = [HeldReceipt(each.leaf_hash, each.receipt) for each in mine]
        for manager in (one, two):
            report = await manager.monitor.verify_log(receipts=[HeldReceipt.of(evidence), *held])
            assert plan.entries == report.erased
        entries = {entry.index: entry for entry in await one.monitor.list_events()}
        assert {(True, None, b"{}")} == {
            (entries[each.index].is_erased, entries[each.index].device_id, entries[each.index].data) for each in mine
        }
        assert other.name == entries[theirs.index].device_id
        proof = await one.monitor.verify_event_integrity(mine[0])
        assert proof.entry.is_erased
        with pytest.raises(KeyStateError):
            await one.monitor.disclose_event(mine[0].index, fields=["n"])
        again = await log(one, {"n": 9}, edge.name)
        assert edge.name == (await two.monitor.list_events(first=again.index))[0].device_id
        said = [json.loads(each.data) for each in entries.values() if each.event_type is ACTION]
        assert [(WHAT, plan.entries)] == [(each["what"], each["count"]) for each in said]
        assert edge.name not in str(said)


NAMED = """
    SELECT c.relname AS name FROM pg_class AS c
     WHERE c.relnamespace = 'qflare'::regnamespace AND c.relkind IN ('r', 'p') ORDER BY c.relname
"""


async def tables_with(admin, word):
    """Every table of the database in a row of which a word stands, as text or as bytes."""
    found = set()
    for table in [row["name"] for row in await admin.fetch(NAMED)]:
        rows = await admin.fetch(f"SELECT t::text AS row FROM qflare.{table} AS t")  # noqa: S608 - catalogue
        if any(word in each["row"] or word.encode().hex() in each["row"] for each in rows):
            found.add(table)
    return found


async def test_an_erased_device_is_named_by_no_incident_and_no_response(database_dsn, tmp_path, admin):
    """What is about it, what other rows say of it, and reasons and notes: an alias, and the log holds; undoing still works."""
    name, other = "camera-of-room-7", "pump-of-room-8"
    async with managers(database_dsn, tmp_path) as (manager,):
        for each in (name, other):
            await Edge.provision(manager, each)
        await manager.add_operator("ann")
        sightings = [
            new_sighting(Signal.CLONE, ref=device_ref(T, name), device_id=name, evidence=b'{"seen":{"x":1}}'),
            new_sighting(Signal.SCAN, evidence=json.dumps({"devices": [name, other]}).encode()),
            new_sighting(Signal.CLONE, ref=device_ref(T, other), device_id=other),
        ]
        opened = engine_of(manager).devices.event(T, SYSTEM, {"what": "incident opened"}, device_id=None)
        await engine_of(manager).foundation.store.report_incidents(
            T,
            sightings,
            opened=[opened] * len(sightings),
            raised=[opened] * len(sightings),
            call_id=urandom(16),
        )
        move = manager.monitor.move_incident
        await move(sightings[0].incident_id, IncidentState.ACKNOWLEDGED, by="ann", note="the one by the door")
        await move(sightings[2].incident_id, IncidentState.ACKNOWLEDGED, by="ann", note=f"as with {name}, I think")
        mine = await manager.respond("quarantine", by="ann", reason="two in one place", device_id=name)
        slow = await manager.respond("limit-device", by="ann", reason=f"not {name}!", device_id=other, per_minute=9)
        await manager.undo_response(slow.response_id, by="ann", reason=f"{name} it was")
        theirs = await manager.respond("quarantine", by="ann", reason=f"it copies {name}", device_id=other)
        assert {"incident", "response", "device"} <= await tables_with(admin, name)
        plan = await manager.monitor.plan_device_erasure(name)
        assert (6, plan) == (plan.mentions, await manager.monitor.erase_device_entries(name))
        assert 0 == (await manager.monitor.plan_device_erasure(name)).mentions
        # The roster's own row stays, and why the other's keys were moved; what was said of it is gone too.
        assert {"device", "device_key_move"} == await tables_with(admin, name)
        assert not await admin.fetch("SELECT FROM qflare.device WHERE state_reason LIKE '%' || $1 || '%'", name)
        for said in ("by the door", "two in one place", "it was", "I think"):
            assert not {"incident", "response", "audit_entry"} & await tables_with(admin, said)
        assert {"incident", "response"} <= await tables_with(admin, other)
        assert (await manager.monitor.verify_log()).erased >= plan.entries
        found = await manager.find_response(mine.response_id)
        assert found.target.device_id.startswith("erased-")
        for response, device in ((mine, name), (theirs, other)):
            await manager.undo_response(response.response_id, by="ann", reason="our test")
            assert KeyState.ACTIVE is (await manager.find_device(device)).state


async def test_a_key_that_is_gone_or_altered_is_found_at_its_entry(database_dsn, tmp_path, admin):
    """Without an entry that says so nothing is erased; a key altered, or moved from another entry, is found as well."""
    async with managers(database_dsn, tmp_path) as (manager,):
        first, second = [await log(manager, {"n": number}, "camera") for number in range(2)]
        kept = await admin.fetch("SELECT * FROM qflare.audit_key ORDER BY log_index")
        alter = "UPDATE qflare.audit_key SET sealed_key = set_byte(sealed_key, 30, get_byte(sealed_key, 30) # 1) "
        rename = "UPDATE qflare.audit_key SET subject = sha256(subject) "
        borrow = "UPDATE qflare.audit_key SET sealed_key = (SELECT o.sealed_key FROM qflare.audit_key AS o ORDER BY o.log_index LIMIT 1) "
        for statement in ("DELETE FROM qflare.audit_key ", alter, rename, borrow):
            await manager.monitor.verify_log()
            await admin.execute(f"{statement} WHERE log_index = {second.index}")
            with pytest.raises(EvidenceError) as caught:
                await manager.monitor.verify_log()
            assert second.index == caught.value.index, statement
            await admin.execute("DELETE FROM qflare.audit_key")
            for row in kept:
                await admin.execute("INSERT INTO qflare.audit_key VALUES ($1, $2, $3, $4)", *row.values())
        with pytest.raises(UsageError, match="erasure"):
            await manager.monitor.log_security_event(
                ACTION, INFO, {"what": WHAT, "indexes": encode_indexes([first.index]), "count": 1}
            )


async def test_an_erasure_during_a_check_is_no_alarm(database_dsn, tmp_path):
    """A check of the log meets erasures that are made meanwhile, and finds their entries behind where it began."""
    async with managers(database_dsn, tmp_path, 2) as (one, two):
        names = [f"camera-{number}" for number in range(12)]
        for name in names:
            await one.monitor.log_security_events_many([(SYSTEM, INFO, {"n": n}, name) for n in range(40)])

        async def erase():
            for name in names:
                await two.monitor.erase_device_entries(name)

        erasing = asyncio.create_task(erase())
        while not erasing.done():
            await one.monitor.verify_log(deep=False)
        await erasing
        assert 480 == (await one.monitor.verify_log()).erased


async def test_shown_fields_are_proven_and_the_others_hidden(database_dsn, tmp_path):
    """The log's key or the server's id alone checks a disclosure; no value that is not shown is in it."""
    async with managers(database_dsn, tmp_path) as (manager,):
        logged = await log(manager, {"shown": [1, "x"], "hidden": "secretive words"}, "camera-77")
        await log(manager, {"n": 1})
        key, server_id = await key_of(manager), await manager.server_id()
        made = await manager.monitor.disclose_event(logged.index, fields=["shown"])
        text = made.to_json()
        for hidden in ("secretive", "camera-77", '"hidden"'):
            assert hidden not in text
        read = Disclosure.from_json(text.encode())
        assert made == read
        for found in (read.verify(key=key), read.verify(server_id=server_id)):
            assert {"shown": b'[1,"x"]'} == found.data
            assert (logged.index, 3, None, None) == (found.index, found.hidden, found.device_id, found.tenant_id)
        whole = await manager.monitor.disclose_event(logged.index, fields=["shown", "hidden"], device=True, tenant=True)
        found = whole.verify(key=key)
        assert ("camera-77", bytes(16), 0) == (found.device_id, found.tenant_id, found.hidden)
        nobody = (await manager.monitor.disclose_event(logged.index + 1, device=True)).verify(key=key)
        assert nobody.is_about_no_device
        with pytest.raises(UsageError, match="no field 'other'"):
            await manager.monitor.disclose_event(logged.index, fields=["other"])
        with pytest.raises(KeyNotFoundError):
            await manager.monitor.disclose_event(10_000)
        edge = await Edge.provision(manager)
        await edge.connect(manager)
        (session,) = [each for each in await manager.monitor.list_events() if each.entry_type == 1]
        with pytest.raises(UsageError, match="type 1"):
            await manager.monitor.disclose_event(session.index)


def changed(document):
    """Every single change of a disclosure that must not pass, by name."""
    for place, field in enumerate(document["fields"]):
        for name in field:
            other = json.loads(json.dumps(document))
            value = field[name]
            if name in ("commitment", "salt"):
                value = base64.b64encode(
                    bytes((base64.b64decode(value)[0] ^ 1,)) + base64.b64decode(value)[1:]
                ).decode()
            other["fields"][place][name] = {"kind": "device", "name": "n", "value": value + "1"}.get(name, value)
            yield f"{place} {name}", other
    for name in ("leaf_data", "index", "path", "checkpoint"):
        other = json.loads(json.dumps(document))
        value = document[name]
        other[name] = {
            "leaf_data": base64.b64encode(base64.b64decode(document["leaf_data"])[:-1] + b"!").decode(),
            "index": document["index"] + 1,
            "path": document["path"][:-1],
            "checkpoint": document["checkpoint"].replace("\n", "\n1", 1),
        }[name]
        assert other[name] != value
        yield name, other
    for fields in (document["fields"][1:], document["fields"][::-1], document["fields"] * 2, [], [7], ["x"], {}):
        yield f"fields {str(fields)[:20]}", document | {"fields": fields}


async def test_every_change_of_a_disclosure_is_refused(database_dsn, tmp_path):
    """A field, salt, commitment, place, leaf or head that was changed, left out or moved proves nothing."""
    async with managers(database_dsn, tmp_path) as (manager,):
        logged = await log(manager, {"a": 1, "b": 2, "c": 3}, "camera")
        await log(manager, {"n": 1})
        made = await manager.monitor.disclose_event(logged.index, fields=["b"], tenant=True)
        key = await key_of(manager)
        document = json.loads(made.to_json())
        Disclosure.from_json(json.dumps(document).encode()).verify(key=key)
        for name, other in changed(document):
            with pytest.raises((AuthenticationError, DecodeError)):
                assert not Disclosure.from_json(json.dumps(other).encode()).verify(key=key), name
        for bad in (b"", b"{}", b"[]", b"\xff", b"[" * 100_000, json.dumps(document | {"index": -1}).encode()):
            with pytest.raises(DecodeError):
                Disclosure.from_json(bad)
        stranger = LogKey(origin=key.origin, key=bytes(1312))
        with pytest.raises(OtherLogError):
            made.verify(key=stranger)
        with pytest.raises(OtherLogError):
            made.verify(server_id=bytes(32))


async def test_the_commands_disclose_check_and_erase(database_dsn, tmp_path):
    """Disclose to a file, check it with the key alone, plan an erasure, carry it out once, and verify the log."""
    async with QuantumKeyManager(database_dsn, data_dir=tmp_path / "data") as manager:
        logged = await log(manager, {"a": 1, "b": "two"}, "camera")
        key, server_id = (await key_of(manager)).encode(), (await manager.server_id()).hex()
    given = {"QFLARE_DSN": database_dsn}
    data = ("--data-dir", tmp_path / "data")
    file = tmp_path / "shown.json"
    done = await run(
        tmp_path, "audit", "disclose", str(logged.index), "--field", "b", "--output", str(file), *data, **given
    )
    assert done.code == 0, done.err
    for pin in (("--key", key), ("--server-id", server_id)):
        proven = await run(tmp_path, "audit", "verify-disclosure", str(file), *pin, "--json")
        assert ({"b": "two"}, 3) == (json.loads(proven.out)["fields"], json.loads(proven.out)["hidden_fields"])
    assert 2 == (await run(tmp_path, "audit", "verify-disclosure", str(file))).code
    file.write_text(file.read_text().replace('"two"', '"six"').replace("two", "six"))
    assert 1 == (await run(tmp_path, "audit", "verify-disclosure", str(file), "--key", key)).code
    planned = await run(tmp_path, "audit", "erase", "--device", "camera", "--json", *data, **given)
    assert {"is_erased": False, "entries": 1, "mentions": 0, "named_for_good": 0} == json.loads(planned.out)
    assert 2 == (await run(tmp_path, "audit", "erase", "--device", "camera", "--confirm", "other", *data, **given)).code
    for count in (1, 0):
        done = await run(
            tmp_path, "audit", "erase", "--device", "camera", "--confirm", "camera", "--json", *data, **given
        )
        assert {"is_erased": True, "entries": count, "mentions": 0, "named_for_good": 0} == json.loads(done.out)
    report = await run(tmp_path, "audit", "verify", "--json", *data, **given)
    assert (True, 1) == (json.loads(report.out)["holds"], json.loads(report.out)["erased"])
