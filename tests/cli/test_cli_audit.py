"""The auditor's commands: exports, pins and read access, against a real database."""

import json
import secrets
import stat
from urllib.parse import urlsplit, urlunsplit

import pytest

from attacks.test_attack_log import unlock
from cli.test_cli import run
from manager_world import Edge, managers
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.monitor.audit import verify_log
from qflare.protocol.checkpoint import encode_note
from qflare.protocol.identity import decode_identity, server_id_of
from qflare.protocol.log import nodes_for_frontier, root_from_nodes
from qflare.protocol.log_key import LogKey, open_note
from qflare.protocol.tile import nodes_from_tiles, tiles_of_tree
from qflare.secret import SecretBytes
from qflare.service.auditing import open_audit
from qflare.service.root_file import write_root
from qflare.service.state_file import StateFile


class Filled:
    """A database with a log, and what an auditor of it keeps."""

    def __init__(self, dsn, folder, served):
        self.dsn, self.folder = dsn, folder
        self.server_id = server_id_of(served[:2592])
        self.key = LogKey.of(decode_identity(served, server_id=self.server_id).certificate)
        self.pin = ("--server-id", self.server_id.hex())

    def note(self, signed):
        return encode_note(self.key.origin, self.key.key, signed)

    async def append(self, count):
        """Log events as a worker does; return the signed head."""
        async with managers(self.dsn, self.folder) as (manager,):
            for number in range(count):
                await manager.monitor.log_security_event(SecurityEventType.SYSTEM, EventSeverity.INFO, {"n": number})
            return await manager.monitor.checkpoint()

    async def audit(self, *arguments, **more):
        return await run(self.folder, "audit", *arguments, **({"QFLARE_DSN": self.dsn} | more))


@pytest.fixture
async def filled(database_dsn, tmp_path):
    """A log with a session and a few events."""
    async with managers(database_dsn, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        evidence = (await edge.connect(manager)).evidence
        (tmp_path / "evidence.json").write_text(evidence.to_json())
        filled = Filled(database_dsn, tmp_path, await manager.identity())
        await manager.monitor.checkpoint()
    filled.signed = await filled.append(3)
    return filled


@pytest.fixture
async def auditor_dsn(filled, admin):
    """The dsn of a login that is a member of qflare_auditor and nothing else."""
    name = f"auditor_{secrets.token_hex(4)}"
    await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'p' IN ROLE qflare_auditor")
    parts = urlsplit(filled.dsn)
    yield urlunsplit(parts._replace(netloc=f"{name}:p@{parts.netloc.rpartition('@')[2]}"))
    await admin.execute(f"DROP ROLE {name}")


async def test_an_export_is_checked_with_a_public_key_alone(filled):
    """Exported once, the log is checked without the database, with server_id or verifier key, receipts and a kept head."""
    done = await filled.audit("export", "log.bin", "--json")
    assert (0, filled.signed.size, filled.signed.root.hex()) == (done.code, done.json["size"], done.json["root"]), (
        done.err
    )
    assert stat.S_IMODE((filled.folder / "log.bin").stat().st_mode) == 0o600
    (filled.folder / "kept.note").write_text(filled.note(filled.signed))
    (filled.folder / "log.vkey").write_text(filled.key.encode() + "\n")
    nowhere = {"QFLARE_DSN": "postgresql://127.0.0.1:9/x"}
    for pin in (filled.pin, ("--key", "log.vkey")):
        found = await filled.audit(
            "verify", "--export", "log.bin", *pin, "--since", "kept.note", "--receipts", "evidence.json", "--json", **nowhere
        )  # fmt: skip
        assert found.code == 0, found.err
        assert (True, done.json["root"], 1) == (found.json["holds"], found.json["root"], found.json["receipts"])
    assert (await filled.audit("export", "log.bin")).code == 2
    damaged = bytearray((filled.folder / "log.bin").read_bytes())
    (filled.folder / "cut.bin").write_bytes(damaged[:-3000])
    damaged[-3000] ^= 1
    (filled.folder / "damaged.bin").write_bytes(damaged)
    for name in ("cut.bin", "damaged.bin"):
        found = await filled.audit("verify", "--export", name, *filled.pin, "--json", **nowhere)
        assert (1, False) == (found.code, found.json["holds"])
        assert isinstance(found.json["index"], int)
    for arguments in (
        ("--export", "log.bin"),
        ("--export", "missing.bin", *filled.pin),
        ("--export", "evidence.json", *filled.pin),
        ("--export", "log.bin", "--server-id", "00" * 32),
        ("--export", "log.bin", *filled.pin, "--since", "evidence.json"),
        ("--export", "log.bin", "--key", "a+b+c"),
    ):
        ended = await filled.audit("verify", *arguments, **nowhere)
        assert (2, "") == (ended.code, ended.out), arguments
        assert "could not be checked" in ended.line
    other = (await filled.audit("verify", "--export", "log.bin", "--server-id", "00" * 32, "--json", **nowhere)).err
    assert "OtherLogError" == json.loads(other)["error"]


async def test_a_folder_gets_what_it_lacks(filled):
    """Each export into a folder adds one part; together they are the whole log, and a missing part is found."""
    folder = filled.folder / "parts"
    folder.mkdir()
    first = await filled.audit("export", "parts", "--json")
    assert (0, 0) == (first.code, first.json["first"]), first.err
    assert (await filled.audit("export", "parts", "--json")).json == {"written": None}
    signed = await filled.append(2)
    second = await filled.audit("export", "parts", "--json")
    assert (filled.signed.size, signed.size) == (second.json["first"], second.json["size"])
    found = await filled.audit("verify", "--export", "parts", *filled.pin, "--json", "--progress")
    assert (2, signed.root.hex()) == (found.json["parts"], found.json["root"]), found.err
    (filled.folder / "kept.note").write_text(filled.note(filled.signed))
    alone = await filled.audit("export", "alone.bin", "--since", "kept.note", "--json")
    assert filled.signed.size == alone.json["first"], alone.err
    assert (await filled.audit("verify", "--export", "alone.bin", *filled.pin)).code == 2
    later = await filled.audit("verify", "--export", "alone.bin", *filled.pin, "--since", "kept.note", "--json")
    assert signed.root.hex() == later.json["root"], later.err
    (filled.folder / first.json["written"]).unlink()
    assert (await filled.audit("verify", "--export", "parts", *filled.pin)).code == 2


async def test_with_a_pin_read_access_is_enough(filled, auditor_dsn):
    """A login of qflare_auditor checks and exports the log; it is a member of no other role and has no keeper."""
    elsewhere = {"QFLARE_DSN": auditor_dsn, "HOME": str(filled.folder / "nobody")}
    found = await filled.audit("verify", *filled.pin, "--deep", "--receipts", "evidence.json", "--json", **elsewhere)
    assert (0, 1) == (found.code, found.json["receipts"]), found.err
    assert (await filled.audit("verify", "--key", filled.key.encode(), **elsewhere)).code == 0
    assert (await filled.audit("export", "log.bin", **elsewhere)).code == 0
    assert not (filled.folder / "nobody").exists()
    other = await filled.audit("verify", "--server-id", "00" * 32, **elsewhere)
    assert 1 == other.code
    assert "not the pinned one" in other.line


async def test_what_no_signed_head_covers_is_not_said_to_hold(filled, admin):
    """Without the newest heads the entries behind are counted as unsigned; without any head nothing is vouched for."""
    await unlock(admin)
    heads = [row["size"] for row in await admin.fetch("SELECT size FROM qflare.checkpoint ORDER BY size")]
    whole = await filled.audit("verify", *filled.pin, "--json")
    assert (0, heads[-1]) == (whole.json["unsigned"], whole.json["size"])
    await admin.execute("DELETE FROM qflare.checkpoint WHERE size > $1", heads[0])
    cut = await filled.audit("verify", *filled.pin, "--deep", "--json")
    assert (0, heads[-1] - heads[0]) == (cut.code, cut.json["unsigned"])
    await admin.execute("DELETE FROM qflare.checkpoint")
    (filled.folder / "kept.note").write_text(filled.note(filled.signed))
    for pin in (filled.pin, ("--data-dir", filled.folder / "data")):
        bare = await filled.audit("verify", *pin, "--deep", "--json")
        assert (2, "") == (bare.code, bare.out), bare.err
        assert "nothing vouches" in bare.line
    kept = await filled.audit("verify", *filled.pin, "--since", "kept.note", "--json")
    assert (0, 0) == (kept.code, kept.json["unsigned"]), kept.err


async def test_a_head_that_is_none_is_an_alarm(filled, admin):
    """Moved back without its hashes, with one too many, or gone: the log does not hold, in one line, with any check."""
    await unlock(admin)
    await admin.execute("CREATE TABLE public.kept_head AS SELECT * FROM qflare.log_head")
    for change in (
        "UPDATE qflare.log_head SET size = size - 1",
        "UPDATE qflare.log_head SET frontier = frontier || sha256('x')",
        "DELETE FROM qflare.log_head",
    ):
        await admin.execute(change)
        for depth in ((), ("--deep",)):
            found = await filled.audit("verify", *filled.pin, *depth)
            assert 1 == found.code, (change, found.err)
            assert "the log does not hold" in found.line
        await admin.execute("DELETE FROM qflare.log_head")
        await admin.execute("INSERT INTO qflare.log_head SELECT * FROM public.kept_head")
    assert 0 == (await filled.audit("verify", *filled.pin)).code


async def test_a_login_that_may_not_audit_is_told_so(filled, admin):
    """Membership without inheritance suffices; a login without it is refused in one line, before anything is read."""
    parts = urlsplit(filled.dsn)
    for role, code in (("NOINHERIT IN ROLE qflare_auditor", 0), ("", 2)):
        name = f"auditor_{secrets.token_hex(4)}"
        await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'p' {role}")
        dsn = urlunsplit(parts._replace(netloc=f"{name}:p@{parts.netloc.rpartition('@')[2]}"))
        done = await filled.audit("verify", *filled.pin, QFLARE_DSN=dsn)
        assert code == done.code, done.err
        assert not code or "qflare_auditor" in done.line
        await admin.execute(f"DROP ROLE {name}")


async def test_a_check_goes_on_from_its_state_and_says_so(filled, auditor_dsn, monkeypatch):
    """--state takes up what an interrupted run left, names it in the answer, and is gone when the check is done."""
    monkeypatch.setattr("qflare.monitor.audit.PAGE", 3)
    states = []
    async with open_audit(auditor_dsn, None, server_id=filled.server_id) as audit:
        whole = await verify_log(
            store=audit.log, keys=audit.keys, runner=audit.offload, note_state=states.append, now_s=7
        )
    state, key = filled.folder / "check.state", filled.folder / "check.key"
    asked = ("--state", state, "--state-key", key, "--json")

    def interrupted():
        """Leave what a check leaves that is interrupted."""
        file = StateFile(state, key)
        assert None is file.load()
        file.note(states[1])
        file.save()
        file.close()

    interrupted()
    kept = state.read_bytes()
    found = await filled.audit("verify", *filled.pin, "--deep", *asked)
    assert (0, states[1].frontier.size) == (found.code, found.json["resumed_at"]), found.err
    assert (whole.root.hex(), "1970-01-01T00:00:07+00:00") == (found.json["root"], found.json["checked_before"])
    assert not state.exists()
    assert not key.exists()
    interrupted()
    anew = await filled.audit("verify", *filled.pin, *asked)
    assert (None, True) == (anew.json["resumed_at"], anew.json["begun_anew"])
    interrupted()
    # What was kept of a check that is done is no state of this one.
    state.write_bytes(kept)
    forged = await filled.audit("verify", *filled.pin, "--deep", *asked)
    assert 2 == forged.code
    assert "not written by it" in forged.line
    alone = await filled.audit("verify", *filled.pin, "--state", state)
    assert 2 == alone.code
    assert "--state-key" in alone.line


async def test_a_copy_that_was_kept_names_the_entry(filled, admin):
    """A row, its hash and the nodes above exchanged: the range between heads, and with --reference the entry."""
    assert (await filled.audit("export", "kept.bin")).code == 0
    holds = await filled.audit("verify", *filled.pin, "--deep", "--reference", "kept.bin", "--json")
    assert (0, 0) == (holds.code, holds.json["archived_hashes"]), holds.err
    bad = filled.signed.size - 2
    await unlock(admin)
    await admin.execute(
        "UPDATE qflare.audit_entry SET leaf_data = set_byte(leaf_data, 40, get_byte(leaf_data, 40) # 1) "
        "WHERE log_index = $1",
        bad,
    )
    await admin.execute("UPDATE qflare.audit_entry SET leaf_hash = sha256('\\x00'::bytea || leaf_data)")
    found = await filled.audit("verify", *filled.pin, "--reference", "kept.bin", "--json")
    assert (1, bad, bad) == (found.code, found.json["index"], found.json["last"]), found.err
    (filled.folder / "bad.bin").write_bytes((filled.folder / "kept.bin").read_bytes()[:-9])
    for path, reason in (("bad.bin", "nothing was compared"), ("missing.bin", "cannot read")):
        ended = await filled.audit("verify", *filled.pin, "--reference", path)
        assert 2 == ended.code
        assert reason in ended.line


async def test_since_a_kept_head_only_the_rest_is_read(filled):
    """--since reads what came after the kept head; another log's head, and one of a longer log, are told apart."""
    note = filled.folder / "kept.note"
    note.write_text(filled.note(filled.signed))
    latest = await filled.append(2)
    for pin in ((), filled.pin):
        more = ("--data-dir", filled.folder / "data") if not pin else ()
        found = await filled.audit("verify", *pin, *more, "--since", note, "--json")
        assert (0, filled.signed.size, latest.size) == (found.code, found.json["first"], found.json["size"]), found.err
    note.write_text(filled.note(filled.signed).replace(filled.key.origin, "other.example/log"))
    other = await filled.audit("verify", *filled.pin, "--since", note, "--json")
    assert (2, "OtherLogError") == (other.code, json.loads(other.err)["error"])


async def test_a_proof_is_kept_and_checked_later(filled, auditor_dsn):
    """A .tlog-proof of any entry is made with read access, and holds against the log, its export, and nothing else."""
    last = filled.signed.size - 1
    for index in (0, last):
        done = await filled.audit(
            "prove", index, *filled.pin, "--output", f"{index}.tlog-proof", QFLARE_DSN=auditor_dsn
        )
        assert done.code == 0, done.err
    shown = await filled.audit("prove", last, QFLARE_DSN=auditor_dsn)
    assert shown.out == (filled.folder / f"{last}.tlog-proof").read_text()
    assert 1 == (await filled.audit("prove", last + 1)).code
    await filled.append(2)
    assert (await filled.audit("export", "log.bin")).code == 0
    kept = ("--receipts", "0.tlog-proof", "--receipts", f"{last}.tlog-proof", "--receipts", "evidence.json", "--json")
    for where in ((), ("--export", "log.bin")):
        found = await filled.audit("verify", *where, *filled.pin, *kept)
        assert (0, 3) == (found.code, found.json["receipts"]), found.err
    text = (filled.folder / "0.tlog-proof").read_text()
    for name, changed, code in (
        ("altered", text.replace("extra ", "extra A")[:-1], 2),
        ("other", text.replace(filled.key.origin, "other.example/log"), 2),
        ("moved", shown.out.replace(f"index {last}", f"index {last - 1}"), {1, 2}),
    ):
        (filled.folder / name).write_text(changed)
        ended = await filled.audit("verify", *filled.pin, "--receipts", name)
        assert ended.code in (code if isinstance(code, set) else {code}), (name, ended.err)


async def test_the_tree_is_written_for_publication(filled, admin):
    """--tiles writes checkpoint and hashes that make the signed root, then only what came since; no entry is in it."""
    folder = filled.folder / "public"
    assert 2 == (await filled.audit("export", "--tiles", "public")).code
    folder.mkdir()
    done = await filled.audit("export", "--tiles", "public", "--json")
    assert (0, filled.signed.root.hex()) == (done.code, done.json["root"]), done.err
    signed = await filled.append(270)
    done = await filled.audit("export", "--tiles", "public", "--json")
    assert done.json["tiles"] == len(list(tiles_of_tree(signed.size, after=filled.signed.size)))
    tiles = {tile: (folder / tile.path).read_bytes() for tile in tiles_of_tree(signed.size)}
    frontier = nodes_from_tiles(nodes_for_frontier(signed.size), signed.size, tiles)
    assert signed.root == root_from_nodes(signed.size, frontier)
    assert signed == open_note((folder / "checkpoint").read_text(), [filled.key])
    assert 0 == (await filled.audit("export", "--tiles", "public", "--json")).json["tiles"]
    kept = (folder / "checkpoint").read_bytes()
    await filled.append(1)
    await admin.execute("SET session_replication_role = replica")
    await admin.execute("UPDATE qflare.log_node SET hash = sha256(hash) WHERE level = 8 AND node_index = 0")
    (filled.folder / "anew").mkdir()
    for name, error in (("public", "LogForkError"), ("anew", "EvidenceError")):
        broken = await filled.audit("export", "--tiles", name, "--json")
        assert (5, error) == (broken.code, json.loads(broken.err)["error"])
    assert kept == (folder / "checkpoint").read_bytes()
    assert not (filled.folder / "anew" / "checkpoint").exists()


async def test_a_root_countersigns_a_kept_head(filled):
    """The exported root adds its line offline; verify checks both, over database and export, and an altered line is an alarm."""
    async with managers(filled.dsn, filled.folder) as (manager,):
        with (
            SecretBytes.copy_of(b"six words that nobody else chose") as passphrase,
            await manager.export_root() as root,
        ):
            write_root(filled.folder / "root", root, passphrase)
    (filled.folder / "words").write_text("six words that nobody else chose\n")
    (filled.folder / "kept.note").write_text(filled.note(filled.signed))
    sign = ("countersign", "kept.note", "--root", "root", "--passphrase-file", "words", "--output")
    done = await filled.audit(*sign, "both.note", "--json")
    assert (0, filled.signed.size) == (done.code, done.json["size"]), done.err
    await filled.append(1)
    assert (await filled.audit("export", "log.bin")).code == 0
    for note, is_signed in (("kept.note", False), ("both.note", True)):
        for where in ((), ("--export", "log.bin")):
            found = await filled.audit("verify", *where, *filled.pin, "--since", note, "--json")
            assert (0, is_signed) == (found.code, found.json["countersigned"]), found.err
    both = (filled.folder / "both.note").read_text()
    head, _, last = both.rstrip("\n").rpartition(" ")
    other = "A" if last[40] != "A" else "B"
    (filled.folder / "bad.note").write_text(f"{head} {last[:40]}{other}{last[41:]}\n")
    assert 1 == (await filled.audit("verify", *filled.pin, "--since", "bad.note")).code
    for arguments in (sign, ("countersign", "evidence.json", *sign[2:])):
        assert (await filled.audit(*arguments, "both.note" if arguments is sign else "new.note")).code in {2, 3}
    assert not (filled.folder / "new.note").exists()
