"""`qflare incident`: from what was found to what is done about it, with two operators and their secrets."""

from os import urandom

from cli.commands import qflare
from cli.test_listings import command  # noqa: F401 - a fixture
from manager_world import Edge, engine_of, make_manager
from qflare.cli.exits import ExitCode
from qflare.model.ids import DEFAULT_TENANT
from qflare.model.signal import Signal
from store_records import new_event, new_sighting


async def report(manager, *sightings):
    await engine_of(manager).foundation.store.report_incidents(
        DEFAULT_TENANT,
        sightings,
        opened=[new_event() for _ in sightings],
        raised=[new_event() for _ in sightings],
        call_id=urandom(16),
    )


async def test_an_incident_is_listed_responded_to_and_closed(command, database_dsn, tmp_path):  # noqa: F811
    """List, show, plan, apply, undo, ack and close, for people and as JSON; a plan changes nothing."""
    async with make_manager(database_dsn, tmp_path) as manager:
        edge = await Edge.provision(manager, "pump")
        sighting = new_sighting(
            Signal.CLONE, ref=edge.device.ref, device_id="pump", evidence=b'{"seen":{"control conflict":3}}'
        )
        await report(manager, sighting, new_sighting(Signal.SCAN))
    key = sighting.incident_id.hex()
    await command("operator", "add", "ann", "--output", tmp_path / "ann", "--json")
    await command("operator", "add", "bob", "--output", tmp_path / "bob", "--json")
    ann, bob = (("--by", name, "--secret-file", tmp_path / name) for name in ("ann", "bob"))
    because = ("--reason", "two in one place")
    listed = (await command("incident", "list", "--json"))["incidents"]
    assert {("clone", "pump"), ("scan", None)} == {(each["signal"], each["device_id"]) for each in listed}
    assert "pump" in await command("incident", "list")
    shown = await command("incident", "show", key, "--json")
    assert (3, [], {"seen": {"control conflict": 3}}) == (shown["proven"], shown["responses"], shown["evidence"])
    for planned in (
        await command("incident", "plan", key, "quarantine", "--json"),
        await command("incident", "apply", key, "quarantine", *ann, *because, "--json"),
    ):
        assert (True, "pump", True, None) == (
            planned["is_planned_only"],
            planned["device_id"],
            planned["is_reversible"],
            planned["obstacle"],
        )
    assert "active" == (await command("devices", "show", "pump", "--json"))["state"]
    done = await command("incident", "apply", key, "quarantine", *ann, *because, "--yes", "--json")
    assert ("applied", "ann", key) == (done["state"], done["first_by"], done["incident_id"])
    assert "suspended" == (await command("devices", "show", "pump", "--json"))["state"]
    response = done["response_id"]
    assert "undone" in await command("incident", "undo", response, *bob, "--reason", "our test")
    assert "active" == (await command("devices", "show", "pump", "--json"))["state"]
    text = await command("incident", "apply", key, "revoke", *ann, *because, "--yes")
    assert "another operator confirms it" in text
    waiting = (await command("incident", "responses", "--waiting", "--json"))["responses"]
    assert [("revoke", 1)] == [(each["action"], each["lacks"]) for each in waiting]
    revoke = waiting[0]["response_id"]
    refused = await command("incident", "confirm", revoke, *ann, "--json", code=ExitCode.USAGE)
    assert "another operator" in refused["message"]
    wrong = await command(
        "incident", "confirm", revoke, "--by", "bob", "--secret-file", tmp_path / "ann", code=ExitCode.REFUSED
    )
    assert "authentication failed" in wrong
    assert "active" == (await command("devices", "show", "pump", "--json"))["state"]
    assert "applied" == (await command("incident", "confirm", revoke, *bob, "--json"))["state"]
    assert "deactivated" == (await command("devices", "show", "pump", "--json"))["state"]
    again = await command("incident", "apply", "-", "turn", *ann, *because, "--yes", "--json")
    assert "dismissed" in await command("incident", "dismiss", again["response_id"], *bob, "--reason", "no need")
    assert None is again["incident_id"]
    assert 2 == len((await command("incident", "show", key, "--json"))["responses"])
    wrong = ("--by", "bob", "--secret-file", tmp_path / "ann")
    assert "authentication failed" in await command("incident", "ack", key, *wrong, code=ExitCode.REFUSED)
    assert "acknowledged" in await command("incident", "ack", key, *ann, "--note", "looking")
    closed = await command("incident", "close", key, *bob, "--json")
    assert ("closed", "bob") == (closed["state"], closed["changed_by"])
    assert [None] == [each["device_id"] for each in (await command("incident", "list", "--json"))["incidents"]]
    assert 2 == len((await command("incident", "list", "--closed", "--json"))["incidents"])


async def test_two_person_control_from_the_command_line(command, database_dsn, tmp_path):  # noqa: F811
    """On by one with their secret; then a revocation by hand names the proposal to make; off by two."""
    async with make_manager(database_dsn, tmp_path) as manager:
        await Edge.provision(manager, "pump")
    for name in ("ann", "bob"):
        await command("operator", "add", name, "--output", tmp_path / name, "--json")
    ann, bob = (("--by", name, "--secret-file", tmp_path / name) for name in ("ann", "bob"))
    assert "off" in await command("operator", "two-persons")
    assert "--by" in await command("operator", "two-persons", "on", code=ExitCode.USAGE)
    assert (await command("operator", "two-persons", "on", *ann, "--json"))["is_on"]
    refused = await command("devices", "revoke", "pump", "--reason", "stolen", code=ExitCode.FAILED)
    assert "qflare incident apply - revoke" in refused
    assert "active" == (await command("devices", "show", "pump", "--json"))["state"]
    assert "bob wants it off" in await command("operator", "two-persons", "off", *bob)
    assert "two-person control is off" in await command("operator", "two-persons", "off", *ann)
    await command("devices", "revoke", "pump", "--reason", "stolen")


async def test_what_is_wrong_is_one_line(command, database_dsn, tmp_path):  # noqa: F811
    """A bad id, an unknown incident or action, and a secret that is none each name themselves."""
    async with make_manager(database_dsn, tmp_path) as manager:
        sighting = new_sighting(Signal.SCAN)
        await report(manager, sighting)
    key = sighting.incident_id.hex()
    assert "32 hex digits" in await command("incident", "show", "xy", code=ExitCode.USAGE)
    assert "no such incident" in await command("incident", "show", "00" * 16, code=ExitCode.FAILED)
    assert "there are quarantine" in await command("incident", "plan", key, "explode", code=ExitCode.USAGE)
    assert "is about a device" in await command("incident", "plan", key, "quarantine", code=ExitCode.USAGE)
    (tmp_path / "none").write_text("nothing\n")
    call = ("incident", "apply", key, "turn", "--by", "ann", "--reason", "x", "--yes", "--secret-file")
    assert "no operator's secret" in await command(*call, tmp_path / "none", code=ExitCode.REFUSED)
    assert "cannot read the operator's secret" in await command(*call, tmp_path / "absent", code=ExitCode.USAGE)


def test_a_playbook_is_checked_before_workers_have_it(tmp_path):
    """Without a database: the shipped rules, and what is wrong with a file, in one line."""
    shown = qflare(tmp_path, "incident", "rules", "--json").json
    assert {"quarantine-clones"} <= {rule["rule"] for rule in shown["rules"]}
    assert (10, None) == (shown["bounds"]["automatic_hour_max"], shown["webhook"])
    (tmp_path / "mine.toml").write_text("version = 1\n[[rule]]\nname = 'x'\n")
    refused = qflare(tmp_path, "incident", "rules", "--file", "mine.toml")
    assert (2, True) == (refused.code, "rule 1 ('x')" in refused.line)
