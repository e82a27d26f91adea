"""Listing and revoking by command, and completing the commands themselves."""

import asyncio
import json
import subprocess

import pytest

from cli.commands import qflare
from manager_world import Edge, make_manager, room_in_bucket
from qflare.cli.exits import ExitCode
from qflare.cli.main import run

COLUMNS = 80
SECRET_WORDS = ("secret", "private", "hash", "sealed", "chain_key", "psk")


@pytest.fixture
async def command(database_dsn, tmp_path, monkeypatch, capsys):
    """Runs one command over the test's database; the value is its exit code, its output and its error."""
    monkeypatch.setenv("QFLARE_DSN", database_dsn)
    monkeypatch.setenv("QFLARE_KEEPER_DIR", str(tmp_path / "volatile"))

    async def call(*arguments, code=ExitCode.OK):
        ended = await asyncio.to_thread(run, [*map(str, arguments), "--data-dir", str(tmp_path / "data")])
        told = capsys.readouterr()
        assert (code, "") == (ended, told.err if code is ExitCode.OK else ""), told.err
        for line in told.out.splitlines():
            assert len(line) <= COLUMNS or "--json" in arguments or "show" in arguments, line
        if "--json" not in arguments:
            return told.out if code is ExitCode.OK else told.err
        assert not [word for word in SECRET_WORDS if f'"{word}' in told.out.lower()], told.out
        return json.loads(told.out if code is ExitCode.OK else told.err)

    return call


async def test_devices_are_listed_moved_and_shown(command, database_dsn, tmp_path):
    """Pages of bounded size, states that move with reasons, and an exit code where a move is not allowed."""
    async with make_manager(database_dsn, tmp_path) as manager:
        edges = [await Edge.provision(manager, name) for name in ("a", "b", "ü" * 100 + "\nx")]
        established = await edges[0].connect(manager)
    first = await command("devices", "list", "--limit", 2, "--json")
    assert (["a", "b"], "b") == ([each["device_id"] for each in first["devices"]], first["after"])
    rest = await command("devices", "list", "--limit", 2, "--after", "b", "--json")
    assert ([edges[2].name], None) == ([each["device_id"] for each in rest["devices"]], rest["after"])
    text = await command("devices", "list", "--limit", 2)
    assert text.endswith("more: --after b\n")
    assert "ü…" in await command("devices", "list", "--after", "b")
    shown = await command("devices", "show", "a", "--json")
    assert [established.sid.hex()] == shown["live_sessions"]
    assert "device a is suspended" in await command("devices", "suspend", "a", "--reason", "away")
    assert [] == (await command("devices", "show", "a", "--json"))["live_sessions"]
    assert "active" == (await command("devices", "resume", "a", "--json"))["state"]
    assert "deactivated" == (await command("devices", "revoke", "a", "--reason", "lost", "--json"))["state"]
    assert "compromised" == (await command("devices", "compromise", "a", "--reason", "stolen", "--json"))["state"]
    refused = await command("devices", "resume", "a", "--json", code=ExitCode.FAILED)
    assert "IllegalTransitionError" == refused["error"]
    assert "no device" in await command("devices", "show", "nobody", code=ExitCode.FAILED)
    keys = (await command("keys", "list", "--device", "a", "--json"))["keys"]
    assert {("kem", "compromised", "stolen"), ("signature", "compromised", "stolen")} == {
        (key["kind"], key["state"], key["reason"]) for key in keys
    }
    moves = (await command("keys", "show", "signature", 1, "--device", "a", "--json"))["keys"][0]["moves"]
    assert [("suspended", "away"), ("active", "resumed by the operator"), ("deactivated", "lost"),
            ("compromised", "stolen")] == [(move["to"], move["reason"]) for move in moves]  # fmt: skip
    assert "stolen" in await command("keys", "show", "signature", 1, "--device", "a")


async def test_changes_with_a_call_id_are_made_once(command, database_dsn, tmp_path):
    """Each changing command repeated with its --call-id succeeds again, or says what stands, and changes nothing."""
    async with make_manager(database_dsn, tmp_path) as manager:
        edge = await Edge.provision(manager, "a")
        sid = (await edge.connect(manager)).sid.hex()
        await manager.issue_enrolment_token("x")
        (token,) = await manager.list_enrolment_tokens()
    named = ("--call-id", "0f" * 16, "--json")
    why = ("--reason", "test")
    for _ in range(2):
        assert "revoked" == (await command("sessions", "revoke", sid, *why, *named))["state"]
        assert "revoked" == (await command("tokens", "revoke", token.token_id.hex(), *why, *named))["state"]
        assert 1 == (await command("devices", "rotate", "a", *named))["keys"]
        assert (await command("policy", "set", "--max-records", 5, *named))["is_set"]
        assert (await command("policy", "remove", *named))["removed"]
        assert 2 == (await command("identity", "rotate", *why, *named))["serial"]
        await command("tenants", "add", "other", *named)
    for verb, state in (
        ("suspend", "suspended"),
        ("resume", "active"),
        ("revoke", "deactivated"),
        ("compromise", "compromised"),
    ):
        for _ in range(2):
            assert state == (await command("devices", verb, "a", *why, *named))["state"]
    first = [tmp_path / name for name in ("first", "second")]
    # A request names the bucket from which its keys announce.
    await room_in_bucket(60)
    for output in first:
        await command("identity", "request", "--output", output, *why, *named)
    assert first[0].read_bytes() == first[1].read_bytes()
    await command("tokens", "issue", "b", "--output", tmp_path / "token", *named)
    told = await command("tokens", "issue", "b", *named, code=ExitCode.FAILED)
    assert "AlreadyExistsError" == told["error"]
    wrong = await command("devices", "revoke", "a", *why, "--call-id", "abc", "--json", code=ExitCode.USAGE)
    assert "--call-id" in wrong["message"]


async def test_sessions_are_listed_and_revoked(command, database_dsn, tmp_path):
    """Sessions of a tenant or a device, one of them ended for good, and no second time."""
    async with make_manager(database_dsn, tmp_path) as manager:
        edge = await Edge.provision(manager, "a")
        sids = sorted([(await edge.connect(manager)).sid.hex() for _ in range(3)])
    page = await command("sessions", "list", "--limit", 2, "--json")
    assert (sids[:2], sids[1]) == ([each["session_id"] for each in page["sessions"]], page["after"])
    page = await command("sessions", "list", "--after", sids[1], "--json")
    assert sids[2:] == [each["session_id"] for each in page["sessions"]]
    assert sids[0] in await command("sessions", "list")
    assert f"session {sids[0]} is revoked\n" == await command("sessions", "revoke", sids[0], "--reason", "test")
    assert "revoked" == (await command("sessions", "show", sids[0], "--json"))["state"]
    assert "not live" in await command("sessions", "revoke", sids[0], "--reason", "test", code=ExitCode.FAILED)
    live = await command("sessions", "list", "--device", "a", "--json")
    assert sids[1:] == [each["session_id"] for each in live["sessions"]]
    assert "32 hex digits" in await command("sessions", "show", "xyz", code=ExitCode.USAGE)


async def test_tokens_are_issued_listed_and_revoked(command):
    """A token's id and state are told, what opens it only once; it is taken back once."""
    issued = await command("tokens", "issue", "pump", "--json")
    (listed,) = (await command("tokens", "list", "--json"))["tokens"]
    assert ("pump", "active") == (listed["device_id"], listed["state"])
    assert issued["token"] not in json.dumps(listed)
    revoked = await command("tokens", "revoke", listed["token_id"], "--reason", "astray", "--json")
    assert ("revoked", "astray") == (revoked["state"], revoked["reason"])
    assert "used or revoked" in await command(
        "tokens", "revoke", listed["token_id"], "--reason", "again", code=ExitCode.FAILED
    )
    assert "revoked" in await command("tokens", "show", listed["token_id"])
    assert "revoked" in await command("tokens", "list")


async def test_tenants_are_added_listed_and_shown(command):
    """A tenant has an id and a name, either of which shows its figures."""
    made = (await command("tenants", "add", "plant", "--json"))["tenant_id"]
    listed = (await command("tenants", "list", "--json"))["tenants"]
    assert ["default", "plant"] == [each["name"] for each in listed]
    assert made in await command("tenants", "list")
    for name in (made, "plant"):
        assert (made, 0) == (
            (shown := await command("tenants", "show", name, "--json"))["tenant_id"],
            shown["devices_total"],
        )
    assert "no tenant" in await command("tenants", "show", "nobody", code=ExitCode.FAILED)


async def test_the_servers_keys_are_listed_with_states_and_times(command, database_dsn, tmp_path):
    """The identity's keys and buckets' keys, and one bucket's moves; never a key."""
    async with make_manager(database_dsn, tmp_path) as manager:
        bucket = await manager.current_bucket()
    keys = (await command("keys", "list", "--json"))["keys"]
    assert {"root", "announce", "log", "bucket"} == {key["kind"] for key in keys}
    states = {key["number"]: key["state"] for key in keys if key["kind"] == "bucket"}
    assert "active" in (states[bucket], states.get(bucket + 1))
    assert "bucket" in await command("keys", "list", "--limit", 9)
    (shown,) = (await command("keys", "show", "bucket", bucket, "--json"))["keys"]
    assert "its bucket is current" in [move["reason"] for move in shown["moves"]]
    serial = next(key["number"] for key in keys if key["kind"] == "root")
    assert "in its first state" in await command("keys", "show", "root", serial)
    assert "no bucket key" in await command("keys", "show", "bucket", 1, code=ExitCode.FAILED)
    assert "--device" in await command("keys", "show", "kem", 1, code=ExitCode.USAGE)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("ses",), {"sessions"}),
        (("sessions", ""), {"list", "show", "revoke", "--help"}),
        (("sessions", "list", "--de"), {"--device"}),
        (("devices", "sus"), {"suspend"}),
        (("--json", "keys", "s"), {"show"}),
        (("nonsense", "re"), set()),
    ],
)
def test_bash_completes_commands_and_options(tmp_path, words, expected):
    """The script is valid bash and offers what may come next."""
    script = tmp_path / "completion.bash"
    script.write_text(qflare(tmp_path, "completion", "bash").out)
    checked = subprocess.run(["/bin/bash", "-n", str(script)], capture_output=True, text=True, timeout=30, check=False)
    assert (0, "") == (checked.returncode, checked.stderr)
    asked = " ".join(f"'{word}'" for word in ("qflare", *words))
    told = subprocess.run(
        ["/bin/bash", "--norc", "-c",
         f"source '{script}'; COMP_WORDS=({asked}); COMP_CWORD={len(words)}; _qflare; printf '%s\\n' \"${{COMPREPLY[@]}}\""],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert expected == set(told.stdout.split())


def test_completion_scripts_exist_for_other_shells(tmp_path):
    """Zsh takes bash's words, fish gets its own lines, and any other shell is a usage error."""
    zsh, fish = (qflare(tmp_path, "completion", shell).out for shell in ("zsh", "fish"))
    assert zsh.startswith("autoload -Uz compinit bashcompinit")
    assert "-a 'list revoke show'" in fish
    assert ExitCode.USAGE == qflare(tmp_path, "completion", "tcsh").code


async def test_operators_are_added_listed_and_revoked(command, tmp_path):
    """A secret is printed once or written to a new file, lists show none, and a name is used once."""
    made = await command("operator", "add", "ann", "--json")
    assert ("ann", 77) == (made["name"], len(made["credential"]))
    written = await command("operator", "add", "bob", "--output", tmp_path / "bob", "--json")
    assert {"name": "bob", "output": str(tmp_path / "bob")} == written
    assert (0o600, 78) == ((tmp_path / "bob").stat().st_mode & 0o777, (tmp_path / "bob").stat().st_size)
    assert "AlreadyExistsError" == (await command("operator", "add", "ann", "--json", code=ExitCode.FAILED))["error"]
    await command("operator", "add", " ann", code=ExitCode.USAGE)
    assert "operator ann is revoked\n" == await command("operator", "revoke", "ann", "--reason", "left")
    await command("operator", "revoke", "ann", "--reason", "left", code=ExitCode.FAILED)
    listed = (await command("operator", "list", "--json"))["operators"]
    assert [("ann", "revoked", "left"), ("bob", "active", "")] == [
        (each["name"], each["state"], each["reason"]) for each in listed
    ]
    other = "ab" * 16
    assert [] == (await command("operator", "list", "--tenant", other, "--json"))["operators"]
    await command("operator", "add", "eve", "--tenant", other, "--json", code=ExitCode.FAILED)


async def test_operators_are_added_renewed_and_revoked(command, tmp_path):
    """Each secret is told once, to a new file of one's own or on stdout; one who was revoked gets none any more."""
    first = (await command("operator", "add", "ann", "--json"))["credential"]
    output = tmp_path / "ann"
    told = await command("operator", "renew", "ann", "--reason", "lost", "--output", output, "--json")
    assert {"name": "ann", "output": str(output)}.items() <= told.items()
    assert "credential" not in told
    assert (77, 0o600) == (len(output.read_text().strip()), output.stat().st_mode & 0o777)
    assert first != output.read_text().strip()
    again = await command("operator", "renew", "ann", "--reason", "lost", "--output", output, code=ExitCode.USAGE)
    assert "exists" in again
    assert ["ann"] == [each["name"] for each in (await command("operator", "list", "--json"))["operators"]]
    assert "revoked" == (await command("operator", "revoke", "ann", "--reason", "left", "--json"))["state"]
    told = await command("operator", "renew", "ann", "--reason", "lost", "--json", code=ExitCode.FAILED)
    assert "IllegalTransitionError" == told["error"]
