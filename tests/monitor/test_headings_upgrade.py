"""Headings while workers of the version before run beside those of this one: every check holds, at every place."""

from earlier_worker import confirming_before
from manager_world import Edge, managers
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.ids import DEFAULT_TENANT, TenantId
from qflare.secret import SecretBytes
from qflare.service import archive_file
from qflare.service.archived_entries import read_archived
from qflare.service.archiving import check_archives, write_archive
from qflare.service.auditing import open_audit
from qflare.service.references import read_reference

OTHER = TenantId(b"\x99" * 16)
WORDS = b"six words that no one chose"


def words():
    return SecretBytes(bytearray(WORDS))


async def fill(workers, admin, monkeypatch):
    """Sessions of two tenants by workers of both versions by turns, with events between some of them."""
    now, before = workers
    monkeypatch.setattr(before._opening.value.foundation.store, "confirm_sessions", confirming_before(admin))
    await now.create_tenant("other", tenant_id=OTHER)
    places = [worker.for_tenant(tenant_id) for worker in (before, now) for tenant_id in (DEFAULT_TENANT, OTHER)]
    for number in range(3):
        for place in places:
            edge = await Edge.provision(place)
            await edge.connect(place)
            if number % 2:
                await place.monitor.log_security_event(SecurityEventType.SYSTEM, EventSeverity.INFO, {"n": number})


async def test_every_check_holds_while_both_versions_write(database_dsn, tmp_path, admin, monkeypatch):
    """Whole, from every signed head on, one by one, archived, as a copy, and shown from an archive."""
    monkeypatch.setattr(archive_file, "PARAMETERS", bytes((10, 8, 1)))
    async with managers(database_dsn, tmp_path, 2) as workers:
        await fill(workers, admin, monkeypatch)
        now = workers[0]
        await now.monitor.checkpoint()
        for is_deep in (True, False):
            report = await now.monitor.verify_log(deep=is_deep)
            assert 12 == report.entries["key_exchange"] == report.entries["session_heading"], report.entries
        kinds = [
            row["entry_type"]
            for row in await admin.fetch(
                "SELECT entry_type FROM qflare.audit_entry WHERE event_type = 'session_heading'"
            )
        ]
        assert [6, 6] == [kinds.count(2), kinds.count(3)]
        store = now._opening.value.foundation.store
        for kept in await store.list_checkpoints(first=1, limit=1000):
            await now.monitor.verify_log(deep=False, since=kept)
        for row in await admin.fetch("SELECT log_index, tenant_id FROM qflare.audit_entry"):
            await now.for_tenant(TenantId(row["tenant_id"].bytes)).monitor.verify_event_integrity(row["log_index"])
        server_id = await now.server_id()
        path = tmp_path / "old"
        async with open_audit(database_dsn, None) as audit:
            written = await write_archive(audit, path, words(), before=(await store.log_head()).size)
        with words() as passphrase:
            assert written.size == check_archives([path], passphrase, server_id=server_id).findings.size
        with words() as passphrase:
            copy = read_reference(path, server_id=server_id, passphrase=passphrase)
        await now.monitor.verify_log(deep=False, references=[copy])
        with words() as passphrase:
            assert read_archived([path], passphrase, OTHER, first=0, limit=1000)
