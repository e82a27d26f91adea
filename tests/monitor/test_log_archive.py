"""Archives: old entries with what their rows hold, sealed, and checked together with the database after them."""

import io
import json
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from cli.test_cli import run
from manager_world import Edge
from qflare import QuantumKeyManager
from qflare.cli.audit_entry import entry_facts
from qflare.errors import AuthenticationError, ConfigError, DecodeError, EvidenceError, KeyNotFoundError, UsageError
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.monitor.export_check import ExportCheck
from qflare.monitor.held import HeldReceipt
from qflare.protocol import log_export
from qflare.protocol.checkpoint import encode_note
from qflare.protocol.heading import session_heading
from qflare.protocol.identity import decode_identity
from qflare.protocol.log import hash_leaf, inclusion_path, nodes_for_path, verify_inclusion
from qflare.protocol.log_export import RecordKind, decode_row, encode_record, read_records
from qflare.protocol.log_key import LogKey, verify_under
from qflare.secret import SecretBytes
from qflare.service import archive_file
from qflare.service.archive_file import MAGIC, ArchiveWriter, open_archive
from qflare.service.archiving import check_archives, write_archive
from qflare.service.auditing import open_audit
from qflare.service.dropping import drop_archived
from qflare.service.root_file import write_root

SYSTEM, INFO = SecurityEventType.SYSTEM, EventSeverity.INFO
ACTION = SecurityEventType.OPERATOR_ACTION
WORDS = b"six words that no one chose"


def words():
    return SecretBytes(bytearray(WORDS))


class Filled:
    """A log with sessions and events about devices and none, signed now and then, and what devices hold of it."""

    def __init__(self, manager, dsn):
        self.manager, self.dsn = manager, dsn
        self.held = []

    async def grow(self, rounds):
        for number in range(rounds):
            for device_id in (None, "camera"):
                logged = await self.manager.monitor.log_security_event(SYSTEM, INFO, {"n": number}, device_id=device_id)
                self.held.append(HeldReceipt(logged.leaf_hash, logged.receipt))
                await self.manager.monitor.checkpoint()

    async def archive(self, path, before):
        async with open_audit(self.dsn, None) as audit:
            return await write_archive(audit, path, words(), before=before)


@pytest.fixture
def quick(monkeypatch):
    """A passphrase that costs a guesser next to nothing: the tests guess all the time."""
    monkeypatch.setattr(archive_file, "PARAMETERS", bytes((10, 8, 1)))


@pytest.fixture
async def filled(database_dsn, tmp_path, quick):  # noqa: ARG001 - asked for its effect
    async with QuantumKeyManager(database_dsn, data_dir=tmp_path / "data") as manager:
        made = Filled(manager, database_dsn)
        edge = await Edge.provision(manager)
        made.held.append(HeldReceipt.of((await edge.connect(manager)).evidence))
        await made.grow(4)
        made.server_id = await manager.server_id()
        yield made


async def test_an_archive_holds_what_the_rows_hold_and_nobody_reads_it_without_the_words(filled, tmp_path, admin):
    """Leaves and what rows store come out as they are; neither is in the file; another passphrase opens nothing."""
    path = tmp_path / "old"
    report = await filled.archive(path, 9)
    assert (0, 0) == (report.first, report.size % 2)
    assert 0 < report.size <= 9
    assert 0o600 == path.stat().st_mode & 0o777
    with path.open("rb") as file:
        records = list(read_records(open_archive(file, words())))
    leaves = [log_export.decode_entry(body).leaf_data for kind, body in records if kind is RecordKind.ENTRY]
    held = {row.index: row for row in (decode_row(body) for kind, body in records if kind is RecordKind.ROW)}
    rows = await admin.fetch("SELECT * FROM qflare.audit_entry WHERE log_index < $1 ORDER BY log_index", report.size)
    assert [row["leaf_data"] for row in rows] == leaves
    assert {row["log_index"]: (row["tenant_id"].bytes, row["data"]) for row in rows} == {
        index: (row.tenant_id, row.stored) for index, row in held.items()
    }
    assert not [row for row in rows if row["leaf_data"] in path.read_bytes()]
    others = SecretBytes(bytearray(b"some other six words"))
    with others, path.open("rb") as file, pytest.raises(AuthenticationError):
        open_archive(file, others)
    with SecretBytes(bytearray(b"short")) as short, pytest.raises(ConfigError, match="passphrase"):
        ArchiveWriter(None, short)


async def test_archives_and_the_database_are_checked_as_one_log(filled, tmp_path):
    """Two archives and what came after them: every receipt is found in one or the other, from entry 0 to the end."""
    first = await filled.archive(tmp_path / "one", 8)
    await filled.grow(3)
    whole = await filled.archive(tmp_path / "two", datetime.now(UTC) + timedelta(hours=1))
    assert whole.size > first.size
    await filled.grow(2)
    for paths, end in (([tmp_path / "one"], first.size), ([tmp_path / "two"], whole.size)):
        with words() as passphrase:
            checked = check_archives(paths, passphrase, server_id=filled.server_id, receipts=filled.held)
        found, beyond = checked.findings, checked.beyond
        assert (end, len(filled.held)) == (found.size, found.receipts + len(beyond))
        report = await filled.manager.monitor.verify_log(since=found.checkpoint, receipts=beyond)
        assert (found.size, len(beyond)) == (report.first, report.receipts)
    with pytest.raises(EvidenceError), words() as passphrase:
        check_archives([tmp_path / "one", tmp_path / "two"], passphrase, server_id=filled.server_id)


async def test_the_head_of_an_archive_is_countersigned(filled, tmp_path):
    """The archive's own head, with the root's second signature, vouches for it; of another history, or beyond it, not."""
    (tmp_path / "words").write_bytes(WORDS + b"\n")
    with words() as passphrase, await filled.manager.export_root() as root:
        write_root(tmp_path / "root", root, passphrase)
    where = {"QFLARE_DSN": filled.dsn}
    phrase = ("--passphrase-file", "words")
    made = await run(
        tmp_path, "audit", "archive", "old", "--before", 9, "--head", "old.note", *phrase, "--json", **where
    )
    assert 0 == made.code, made.err
    assert 0o600 == (tmp_path / "old.note").stat().st_mode & 0o777
    signed = await run(
        tmp_path, "audit", "countersign", "old.note", "--root", "root", "--output", "both.note", *phrase, "--json"
    )
    assert (made.json["size"], made.json["root"]) == (signed.json["size"], signed.json["root"]), signed.err
    verify = ("audit", "verify", "--archive", "old", *phrase, "--server-id", filled.server_id.hex())
    for note, is_countersigned in (("old.note", False), ("both.note", True)):
        found = await run(tmp_path, *verify, "--since", note, "--json", **where)
        assert (0, is_countersigned) == (found.code, found.json["countersigned"]), found.err
        assert made.json["size"] == found.json["archived_size"]
    (tmp_path / "beyond.note").write_text(await latest_note(filled))
    late = await run(tmp_path, *verify, "--since", "beyond.note", **where)
    assert 2 == late.code
    assert "the archives end with" in late.line
    stands = await run(tmp_path, "audit", "archive", "new", "--before", 9, "--head", "old.note", *phrase, **where)
    assert 2 == stands.code
    assert not (tmp_path / "new").exists()


async def latest_note(filled):
    """Return the latest head as a signed note."""
    signed = await filled.manager.monitor.checkpoint()
    key = LogKey.of(decode_identity(await filled.manager.identity(), server_id=filled.server_id).certificate)
    return encode_note(key.origin, key.key, signed)


async def test_every_cut_and_change_of_an_archive_is_found(filled, tmp_path):
    """Cut anywhere, lengthened, or with any byte changed it is refused; nothing of it is taken for a shorter log."""
    path = tmp_path / "old"
    await filled.archive(path, 9)
    content = path.read_bytes()
    bad = tmp_path / "bad"
    at_head = range(len(MAGIC) + 3, len(MAGIC) + 19, 5)
    places = [*at_head, *range(len(MAGIC) + 19, len(content), len(content) // 5)]
    for changed in (
        *(content[:at] + bytes((content[at] ^ 1,)) + content[at + 1 :] for at in places),
        content[:-1],
        content[:-20],
        content + b"\0",
    ):
        bad.write_bytes(changed)
        with pytest.raises((EvidenceError, DecodeError)), words() as passphrase:
            check_archives([bad], passphrase, server_id=filled.server_id)
    for changed in (b"", content[:10], b"QFLARE-ARCHIVE\x02" + content[15:], MAGIC + b"\xff\x08\x01" + content[18:]):
        bad.write_bytes(changed)
        with pytest.raises(DecodeError), words() as passphrase:
            check_archives([bad], passphrase, server_id=filled.server_id)


async def test_what_a_row_held_is_checked_against_its_leaf(filled, tmp_path):
    """Whoever has the passphrase and changes, leaves out or moves what a row held is found at that entry."""
    path = tmp_path / "old"
    await filled.archive(path, 9)
    with path.open("rb") as file:
        records = list(read_records(open_archive(file, words())))
    places = [place for place, (kind, _) in enumerate(records) if kind is RecordKind.ROW]

    def check(changed):
        plain = tmp_path / "plain"
        plain.write_bytes(log_export.HEAD + b"".join(encode_record(kind, body) for kind, body in changed))
        one = ExportCheck(server_id=filled.server_id, is_archive=True)
        with plain.open("rb") as file:
            one.read(file)
        return one.finish()

    assert check(records).size
    # An entry of a device's registration, whose row is sealed.
    at = places[2]
    kind, body = records[at]
    for changed in (
        [*records[:at], (kind, body[:-1] + bytes((body[-1] ^ 1,))), *records[at + 1 :]],
        [*records[:at], (kind, body[:10] + b"\xff" + body[11:]), *records[at + 1 :]],
        [*records[:at], (kind, body[:20]), *records[at + 1 :]],
        [*records[:at], *records[at + 1 :]],
        [*records[: at + 1], *records[at:]],
        [*records[:at], records[places[1]], *records[at + 1 :]],
    ):
        with pytest.raises(EvidenceError):
            check(changed)
    # Tenant (16 bytes) and time (8) of every row, the session's too, which its heading binds; and what it stores.
    for number, place in enumerate(places):
        kind, body = records[place]
        for at in (8, 23, 24, 31, len(body) - 1):
            changed = body[:at] + bytes((body[at] ^ 1,)) + body[at + 1 :]
            with pytest.raises(EvidenceError) as caught:
                check([*records[:place], (kind, changed), *records[place + 1 :]])
            assert number == caught.value.index


async def test_bounds_that_cannot_be_are_told(filled, tmp_path):
    """A bound beyond the log, before the first even head, a file that stands, and a time before everything."""
    for before, error in (
        (10_000, UsageError),
        (1, KeyNotFoundError),
        (datetime(2001, 1, 1, tzinfo=UTC), KeyNotFoundError),
    ):
        with pytest.raises(error):
            await filled.archive(tmp_path / "none", before)
    assert not (tmp_path / "none").exists()
    (tmp_path / "there").write_text("mine")
    with pytest.raises(ConfigError):
        await filled.archive(tmp_path / "there", 9)
    assert "mine" == (tmp_path / "there").read_text()


async def test_the_commands_archive_and_verify(filled, tmp_path):
    """Archive up to a day, and verify archive and database as one, unpinned and with a pin; another passphrase fails."""
    (tmp_path / "words").write_bytes(WORDS)
    (tmp_path / "others").write_bytes(b"some other six words")
    given = {"QFLARE_DSN": filled.dsn}
    path, data = tmp_path / "old", ("--data-dir", tmp_path / "data")
    sealed = ("--passphrase-file", tmp_path / "words")
    tomorrow = str((datetime.now(UTC) + timedelta(days=1)).date())
    made = await run(tmp_path, "audit", "archive", path, "--before", tomorrow, *sealed, "--json", **given)
    assert made.code == 0, made.err
    size = made.json["size"]
    for pin in ((), ("--server-id", filled.server_id.hex())):
        found = await run(tmp_path, "audit", "verify", "--archive", path, *sealed, *pin, *data, "--json", **given)
        assert found.code == 0, found.err
        assert (True, size, size) == (found.json["holds"], found.json["archived_size"], found.json["first"])
    wrong = ("--passphrase-file", tmp_path / "others")
    ended = await run(tmp_path, "audit", "verify", "--archive", path, *wrong, *data, **given)
    assert (1, 1) == (ended.code, len(ended.err.splitlines()))
    ended = await run(tmp_path, "audit", "archive", tmp_path / "x", "--before", "sometime", *sealed, **given)
    assert 2 == ended.code
    assert not list(tmp_path.glob("*.part"))


# Dropping ---------------------------------------------------------------------------------------------------------------


async def drop(filled, folder, paths, size, *, min_age_s=0):
    with words() as passphrase:
        return await drop_archived(filled.dsn, folder / "data", paths, passphrase, confirmed=size, min_age_s=min_age_s)


async def test_a_log_goes_on_without_what_was_archived_and_dropped(filled, tmp_path, admin):
    """Archived twice and dropped twice: proofs of old and new entries, erasure, and the check of the whole stay."""
    monitor = filled.manager.monitor
    paths = [tmp_path / "one", tmp_path / "two"]
    for number, path in enumerate(paths):
        size = (await filled.archive(path, 10 + 8 * number)).size
        before = await admin.fetchval("SELECT count(*) FROM qflare.audit_entry WHERE log_index < $1", size)
        assert None is (await drop(filled, tmp_path, paths[: number + 1], None)).dropped
        assert before == (await drop(filled, tmp_path, paths[: number + 1], size)).dropped
        assert 0 == (await drop(filled, tmp_path, paths[: number + 1], size)).dropped
        assert size == await admin.fetchval("SELECT min(log_index) FROM qflare.audit_entry")
        await filled.grow(3)
    with words() as passphrase:
        checked = check_archives(paths, passphrase, server_id=filled.server_id, receipts=filled.held)
    found, beyond = checked.findings, checked.beyond
    assert len(filled.held) == found.receipts + len(beyond)
    assert found.receipts
    report = await monitor.verify_log(since=found.checkpoint, receipts=beyond)
    told = [json.loads(each.data) for each in await monitor.list_events() if each.event_type is ACTION]
    assert (found.size, found.root.hex()) in [(each["size"], each["root"]) for each in told]
    # Without the archives it is a log cut at its beginning.
    with pytest.raises(EvidenceError) as caught:
        await monitor.verify_log()
    assert 0 == caught.value.index
    # Every leaf is proven from the database as before.
    store = (await filled.manager._engine()).foundation.store
    for index in range(report.size):
        nodes = await store.find_nodes([(0, index), *nodes_for_path(index, report.size)])
        verify_inclusion(nodes[0, index], index, report.size, inclusion_path(index, report.size, nodes), report.root)
    # An erasure reaches what is archived: its keys are in the database.
    plan = await monitor.plan_device_erasure("camera")
    assert plan.entries == await admin.fetchval("SELECT count(*) FROM qflare.audit_key") - 1  # the edge's registration
    assert await admin.fetchval("SELECT count(*) FROM qflare.audit_key WHERE log_index < $1", found.size)
    await monitor.erase_device_entries("camera")
    assert (await monitor.verify_log(since=found.checkpoint)).erased


async def test_what_is_left_after_a_drop_is_exported_and_checked(filled, tmp_path, admin):
    """A folder goes on with parts, a kept head begins a file; without either the missing beginning is told."""
    given = {"QFLARE_DSN": filled.dsn}
    pin = ("--server-id", filled.server_id.hex())
    (tmp_path / "parts").mkdir()
    before = await run(tmp_path, "audit", "export", "parts", "--json", **given)
    assert before.code == 0, before.err
    size = (await filled.archive(tmp_path / "old", 9)).size
    assert size == (await drop(filled, tmp_path, [tmp_path / "old"], size)).dropped
    await filled.grow(2)
    whole = await run(tmp_path, "audit", "export", "whole.bin", "--json", **given)
    assert whole.code
    assert "archives hold what is before it" in whole.line
    assert not (tmp_path / "whole.bin").exists()
    more = await run(tmp_path, "audit", "export", "parts", "--json", **given)
    assert (0, before.json["size"]) == (more.code, more.json["first"]), more.err
    with words() as passphrase:
        found = check_archives([tmp_path / "old"], passphrase, server_id=filled.server_id)
    async with open_audit(filled.dsn, None) as audit:
        signed = await audit.log.list_checkpoints(first=size, limit=1)
        key = next(each for each in audit.keys if verify_under([each], signed[0]))
    assert signed[0].root == found.findings.root
    (tmp_path / "kept.note").write_text(encode_note(key.origin, key.key, signed[0]))
    rest = await run(tmp_path, "audit", "export", "rest.bin", "--since", "kept.note", "--json", **given)
    assert (0, size) == (rest.code, rest.json["first"]), rest.err
    for path, since in (("parts", ()), ("rest.bin", ("--since", "kept.note"))):
        held = await run(tmp_path, "audit", "verify", "--export", path, *pin, *since, "--json")
        assert (0, more.json["root"]) == (held.code, held.json["root"]), held.err
    # The same in depth in the database, beside either copy; an altered hash of a dropped entry is named.
    arguments = ("--deep", "--since", "kept.note", "--reference", "parts", "--reference", "rest.bin", "--json")
    deep = await run(tmp_path, "audit", "verify", *pin, *arguments, **given)
    assert (0, size) == (deep.code, deep.json["archived_hashes"]), deep.err
    await admin.execute("UPDATE qflare.archived_leaf SET leaf_hash = sha256(leaf_hash) WHERE log_index = 3")
    for known in (arguments, ("--deep", "--archive", "old", "--passphrase-file", "words", "--json")):
        (tmp_path / "words").write_bytes(WORDS)
        bad = await run(tmp_path, "audit", "verify", *pin, *known, **given)
        assert (1, 3, 3) == (bad.code, bad.json["index"], bad.json["last"]), bad.err


async def test_an_archive_is_shown_with_its_passphrase_and_opened_with_the_keys(filled, tmp_path):
    """The same entries as the database shows, those about devices sealed without its keys, and erased ones erased."""
    (tmp_path / "words").write_bytes(WORDS)
    (tmp_path / "others").write_bytes(b"some other six words")
    path = tmp_path / "old"
    size = (await filled.archive(path, 9)).size
    given = {"QFLARE_DSN": filled.dsn}
    show = ("audit", "show", "--archive", path, "--passphrase-file", tmp_path / "words", "--json")
    opened = ("--open", "--data-dir", tmp_path / "data")
    stored = [entry_facts(each) for each in await filled.manager.monitor.list_events(limit=size) if each.index < size]
    alone = await run(tmp_path, *show, QFLARE_DSN="postgresql://127.0.0.1:9/x")
    assert alone.code == 0, alone.err
    for shown, wanted in zip(alone.json["entries"], stored, strict=True):
        assert (shown["index"], shown["leaf_hash"]) == (wanted["index"], wanted["leaf_hash"].hex())
        assert shown["recorded_at"] == wanted["recorded_at"]
        assert (None if shown.get("is_sealed") else wanted["data"]) == shown["data"]
        assert bool(shown.get("is_sealed")) == (wanted["device_id"] is not None)
    assert {True, False} == {each.get("is_sealed", False) for each in alone.json["entries"]}
    whole = await run(tmp_path, *show, *opened, **given)
    assert whole.code == 0, whole.err
    assert [(each["data"], each["device_id"]) for each in stored] == [
        (each["data"], each["device_id"]) for each in whole.json["entries"]
    ]
    part = await run(tmp_path, *show, "--first", "3", "--limit", "2")
    assert [3, 4] == [each["index"] for each in part.json["entries"]]
    await filled.manager.monitor.erase_device_entries("camera")
    erased = await run(tmp_path, *show, *opened, **given)
    gone = [each for each in erased.json["entries"] if each["is_erased"]]
    assert len(gone) == sum(each["device_id"] == "camera" for each in stored) > 0
    assert "camera" not in erased.out
    cut = tmp_path / "cut"
    cut.write_bytes(path.read_bytes()[:-1])
    for bad in (("--archive", cut), ("--archive", path, "--passphrase-file", tmp_path / "others"), ("--open",)):
        ended = await run(tmp_path, "audit", "show", "--passphrase-file", tmp_path / "words", *bad, **given)
        assert ended.code
        assert (1, "") == (len(ended.err.splitlines()), ended.out), bad


async def test_only_who_may_change_the_schema_drops_and_only_what_was_archived(filled, tmp_path, admin):
    """A worker's login, an entry that tells of no archive, another size, young entries: nothing goes."""
    path = tmp_path / "one"
    size = (await filled.archive(path, 10)).size
    count = "SELECT count(*) FROM qflare.audit_entry WHERE log_index < 10"
    for age, confirmed, reason in ((0, size + 2, "not"), (3600, size, "younger")):
        with pytest.raises(UsageError, match=reason):
            await drop(filled, tmp_path, [path], confirmed, min_age_s=age)
    with pytest.raises(asyncpg.CheckViolationError):
        await admin.fetchval("SELECT qflare.drop_archived_entries($1, $1, 10)", size)
    name = f"worker_{secrets.token_hex(4)}"
    await admin.execute(f"CREATE ROLE {name} LOGIN IN ROLE qflare_app, qflare_auditor")
    try:
        for role in (name, "qflare_app", "qflare_auditor", "qflare_maintenance"):
            await admin.execute(f"SET SESSION AUTHORIZATION {role}")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await admin.fetchval("SELECT qflare.drop_archived_entries($1, $2, 10)", size, size)
            await admin.execute("RESET SESSION AUTHORIZATION")
    finally:
        await admin.execute(f"DROP ROLE {name}")
    assert 10 == await admin.fetchval(count)
    (tmp_path / "words").write_bytes(WORDS)
    arguments = ("--archive", path, "--passphrase-file", tmp_path / "words", "--data-dir", tmp_path / "data")
    planned = await run(tmp_path, "audit", "drop", *arguments, "--json", QFLARE_DSN=filled.dsn)
    assert {"size": size, "dropped": None} == planned.json
    ended = await run(tmp_path, "audit", "drop", *arguments, "--confirm", str(size), QFLARE_DSN=filled.dsn)
    assert 2 == ended.code
    assert 10 == await admin.fetchval(count)


async def test_a_heading_written_anew_in_an_archive_is_in_the_range_that_is_named(filled, tmp_path):
    """With its row and all running hashes made anew, its session fits it no more: which was altered, the head tells."""
    path = tmp_path / "old"
    await filled.archive(path, 9)
    with path.open("rb") as file:
        records = list(read_records(open_archive(file, words())))
    entries = [log_export.decode_entry(body) for kind, body in records if kind is RecordKind.ENTRY]
    index = next(each.index for each in entries if each.leaf_data[9] == 1) - 1
    row = next(its for kind, body in records if kind is RecordKind.ROW and (its := decode_row(body)).index == index)
    made = session_heading(row.tenant_id, row.recorded_at_us // 10**6 + 1)
    changed, running = log_export.HEAD, b""
    for kind, body in records:
        new = encode_record(kind, body)
        if kind is RecordKind.START:
            running = log_export.running_before(body)
        elif kind is RecordKind.ENTRY:
            entry = log_export.decode_entry(body)
            leaf_data = made.leaf_data if entry.index == index else entry.leaf_data
            running = log_export.next_running(running, hash_leaf(leaf_data))
            new = log_export.encode_entry(entry.index, running, leaf_data)
        elif kind is RecordKind.ROW and decode_row(body).index == index:
            new = log_export.encode_row(replace(row, recorded_at_us=row.recorded_at_us + 10**6, stored=made.stored))
        changed += new
    check = ExportCheck(server_id=filled.server_id, is_archive=True)
    with pytest.raises(EvidenceError, match="rewritten") as caught:
        check.read(io.BytesIO(changed))
    assert caught.value.index <= index <= caught.value.last
