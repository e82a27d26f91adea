"""`qflare identity`: an operator rotates, takes the root offline, and signs where there is no database."""

import asyncio
import stat
from hashlib import sha256

import pytest

from cli.commands import qflare
from manager_world import make_manager
from qflare.cli.exits import ExitCode
from qflare.errors import AuthenticationError, ConfigError, DecodeError
from qflare.manager.certificates import RootKey
from qflare.primitives.sig import SIG87
from qflare.protocol.log_key import LogKey
from qflare.secret import SecretBytes
from qflare.service.root_file import read_root, write_root

PHRASE = "correct horse battery staple"


@pytest.fixture
async def operator(database_dsn, tmp_path):
    """Run `qflare identity` on the test's database."""
    await make_and_close(database_dsn, tmp_path)
    (tmp_path / "phrase").write_text(PHRASE + "\n")

    async def run(*arguments, is_offline=False, **more):
        where = () if is_offline else ("--data-dir", tmp_path / "data")
        variables = {} if is_offline else {"QFLARE_DSN": database_dsn, "QFLARE_KEEPER_DIR": str(tmp_path / "volatile")}
        return await asyncio.to_thread(qflare, tmp_path, "identity", *arguments, *where, **variables, **more)

    run.folder = tmp_path
    return run


async def make_and_close(dsn, folder):
    async with make_manager(dsn, folder) as manager:
        return await manager.server_id()


async def test_rotation_with_the_root_in_the_database(operator):
    """`rotate` brings the next serial into force, and `show` tells of every key, its state and why."""
    before = (await operator("show", "--json")).json
    assert (1, "in the database") == (before["serial"], before["root"])
    after = (await operator("rotate", "--reason", "yearly", "--json")).json
    assert (2, before["server_id"]) == (after["serial"], after["server_id"])
    assert before["announce_key_id"] != after["announce_key_id"]
    shown = (await operator("show", "--json")).json
    assert {(2, "log", "active"), (1, "log", "active"), (1, "root", "active")} <= {
        (key["serial"], key["kind"], key["state"]) for key in shown["keys"]
    }
    text = (await operator("show")).out
    assert "certificate of serial 2" in text
    assert "serial 2" in " ".join(text.split())
    keys = [LogKey.decode(each["log_verifier_key"]) for each in (before, after)]
    assert keys[0].origin == keys[1].origin == shown["log_origin"]
    assert [sha256(key.key).hexdigest() for key in keys] == [before["log_key_id"], after["log_key_id"]]


async def test_offline_root_from_export_to_import(operator, database_dsn):
    """Export with removal, request, sign without a database, import: each step as docs/operations.md shows it."""
    folder = operator.folder
    exported = await operator("export-root", "--output", "root.qf", "--passphrase-file", "phrase", "--remove", "--json")
    assert (0, True) == (exported.code, exported.json["removed_from_database"])
    assert 0o600 == stat.S_IMODE((folder / "root.qf").stat().st_mode)
    assert "offline" == (await operator("show", "--json")).json["root"]
    refused = await operator("rotate", "--reason", "x")
    assert ExitCode.FAILED == refused.code
    assert "qflare identity request" in refused.line
    asked = await operator("request", "--output", "request.qf", "--reason", "ceremony", "--json")
    assert (0, 2) == (asked.code, asked.json["serial"])
    signing = ("sign", "request.qf", "--root", "root.qf", "--passphrase-file", "phrase")
    signed = await operator(*signing, "--output", "cert.qf", "--json", is_offline=True)
    assert (0, asked.json["announce_key_id"]) == (signed.code, signed.json["announce_key_id"])
    imported = await operator("import", "cert.qf", "--json")
    assert (0, 2) == (imported.code, imported.json["serial"])
    again = await operator("import", "cert.qf", "--json")
    assert (0, 2) == (again.code, again.json["serial"])
    async with make_manager(database_dsn, folder) as manager:
        told = [event.data for event in await manager.monitor.list_events()]
    for what in (b"root exported", b"root removed", b"certificate requested", b"certificate in force"):
        assert any(what in data for data in told), what


async def test_export_keeps_the_root_unless_told_otherwise(operator):
    """Without --remove the database still signs; a file that exists, or a weak passphrase, is refused before anything."""
    folder = operator.folder
    (folder / "weak").write_text("short\n")
    (folder / "there").write_text("mine")
    for arguments, says in (
        (("--output", "there", "--passphrase-file", "phrase"), "exists already"),
        (("--output", "new", "--passphrase-file", "weak"), "12 to 1024 bytes"),
        (("--output", "new", "--passphrase-file", "absent"), "cannot read the passphrase"),
        (("--output", "new"), "nobody to type the passphrase"),
    ):
        refused = await operator("export-root", *arguments)
        assert ExitCode.USAGE == refused.code
        assert says in refused.line
        assert not (folder / "new").exists()
    assert "mine" == (folder / "there").read_text()
    assert 0 == (await operator("export-root", "--output", "root.qf", "--passphrase-file", "phrase")).code
    assert 0 == (await operator("rotate", "--reason", "still here")).code


def make_root():
    pair = SIG87.generate_from_seed(seed) if (seed := SecretBytes.copy_of(bytes(range(32)))) else None
    return RootKey(pair.verification_key, seed)


def test_root_file_opens_with_its_passphrase_alone(tmp_path):
    """What was written opens with the same passphrase; another one, a flipped bit and a cut file are refused."""
    path = tmp_path / "root.qf"
    with make_root() as root, SecretBytes.copy_of(PHRASE.encode()) as passphrase:
        write_root(path, root, passphrase)
        with read_root(path, passphrase) as back:
            assert root.root_key == back.root_key
            assert root.stored.equals(back.stored)
        content = path.read_bytes()
        assert bytes(range(32)) not in content
        with pytest.raises(AuthenticationError), SecretBytes.copy_of(b"correct horse battery stable") as other:
            read_root(path, other)
        for at in (20, 100, len(content) - 1):
            path.write_bytes(content[:at] + bytes((content[at] ^ 1,)) + content[at + 1 :])
            with pytest.raises(AuthenticationError):
                read_root(path, passphrase)
        path.write_bytes(content[:12] + b"\xff" + content[13:])
        with pytest.raises(DecodeError, match="more work"):
            read_root(path, passphrase)
        for cut in (b"", content[:-1], content + b"\0", b"x" * len(content)):
            path.write_bytes(cut)
            with pytest.raises(DecodeError, match="no root file"):
                read_root(path, passphrase)


def test_root_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """If the file does not become durable nothing is left of it, and the caller hears so before the database forgets."""
    path = tmp_path / "root.qf"

    def fail(_descriptor):
        raise OSError(5, "Input/output error")

    with make_root() as root, SecretBytes.copy_of(PHRASE.encode()) as passphrase:
        monkeypatch.setattr("qflare.service.root_file.os.fsync", fail)
        with pytest.raises(ConfigError, match="Input/output error"):
            write_root(path, root, passphrase)
        assert not path.exists()
