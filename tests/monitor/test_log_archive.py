"""Archives: old entries with what their rows hold, sealed, and checked together with the database after them."""

from datetime import UTC, datetime, timedelta

import pytest

from cli.test_cli import run
from manager_world import Edge
from qflare import QuantumKeyManager
from qflare.errors import AuthenticationError, ConfigError, DecodeError, EvidenceError, KeyNotFoundError, UsageError
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.monitor.export_check import ExportCheck
from qflare.monitor.held import HeldReceipt
from qflare.protocol import log_export
from qflare.protocol.log_export import RecordKind, decode_row, encode_record, read_records
from qflare.secret import SecretBytes
from qflare.service import archive_file
from qflare.service.archive_file import MAGIC, ArchiveWriter, open_archive
from qflare.service.archiving import check_archives, write_archive
from qflare.service.auditing import open_audit

SYSTEM, INFO = SecurityEventType.SYSTEM, EventSeverity.INFO
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
    first = await filled.archive(tmp_path / "one", 6)
    await filled.grow(3)
    whole = await filled.archive(tmp_path / "two", datetime.now(UTC) + timedelta(hours=1))
    assert whole.size > first.size
    await filled.grow(2)
    for paths, end in (([tmp_path / "one"], first.size), ([tmp_path / "two"], whole.size)):
        with words() as passphrase:
            found, beyond = check_archives(paths, passphrase, server_id=filled.server_id, receipts=filled.held)
        assert (end, len(filled.held)) == (found.size, found.receipts + len(beyond))
        report = await filled.manager.monitor.verify_log(since=found.checkpoint, receipts=beyond)
        assert (found.size, len(beyond)) == (report.first, report.receipts)
    with pytest.raises(EvidenceError), words() as passphrase:
        check_archives([tmp_path / "one", tmp_path / "two"], passphrase, server_id=filled.server_id)


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
