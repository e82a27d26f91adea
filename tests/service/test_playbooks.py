"""Playbooks: strict, with their reasons; the shipped one shuts nobody out by itself."""

import pytest

from qflare.errors import ConfigError
from qflare.model.evidence import PROVEN, count_proven
from qflare.model.response import SHUTS_OUT, ResponseAction
from qflare.monitor import detector
from qflare.service.responding.playbook import Mode, parse_playbook, read_playbook

RULE = {
    "name": "'r'",
    "signal": "'clone'",
    "severity": "'error'",
    "proven_min": "1",
    "action": "'quarantine'",
    "mode": "'automatic'",
    "why": "'because'",
}


def text(*rules, head="version = 1"):
    return "\n".join(
        [head, *("[[rule]]\n" + "\n".join(f"{key} = {value}" for key, value in rule.items()) for rule in rules)]
    ).encode()


def test_the_shipped_playbook_shuts_nobody_out_by_itself():
    """Every rule has its reason; what acts by itself only tells."""
    playbook = read_playbook(None)
    assert playbook.rules
    assert all(len(rule.why) > 20 for rule in playbook.rules)
    automatic = {rule.action for rule in playbook.rules if rule.mode is Mode.AUTOMATIC}
    assert {ResponseAction.NOTIFY} == automatic
    assert not automatic & SHUTS_OUT


def test_a_good_playbook_is_read(tmp_path):
    """From a file, with bounds and defaults."""
    path = tmp_path / "rules.toml"
    path.write_bytes(text(RULE, head="version = 1\n[bounds]\nautomatic_hour_max = 3"))
    playbook = read_playbook(str(path))
    assert (3, 10_000) == (playbook.bounds.automatic_hour_max, playbook.bounds.automatic_ppm)
    (rule,) = playbook.rules
    assert ("r", "device", 1) == (rule.name, rule.about.value, rule.proven_min)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff", "no TOML"),
        (b"version = ", "no TOML"),
        (b"x" * 65_537, "65536 bytes"),
        (b"", "'version' is missing"),
        (b"version = 2", "version must be 1"),
        (b"version = 1\nrules = []", "unknown key 'rules'"),
        (b"version = 1\nrule = 3", "[[rule]]"),
        (b"version = 1\n[bounds]\nautomatic_ppm = 300000", "automatic_ppm"),
        (b"version = 1\n[bounds]\nautomatic_hour_max = true", "automatic_hour_max"),
        (b"version = 1\n[bounds]\nhour_max = 1", "unknown key 'hour_max'"),
        (text(RULE, RULE), "two rules are named 'r'"),
        (text(*[RULE] * 101), "at most 100"),
        (text(RULE | {"wyh": "'x'"}), "unknown key 'wyh'"),
        (text({key: value for key, value in RULE.items() if key != "why"}), "'why' is missing"),
        (text(RULE | {"why": "''"}), "why must be"),
        (text(RULE | {"why": "3"}), "why must be"),
        (text(RULE | {"signal": "'clones'"}), "clones"),
        (text(RULE | {"severity": "'bad'"}), "bad"),
        (text(RULE | {"action": "'explode'"}), "explode"),
        (text(RULE | {"mode": "'perhaps'"}), "perhaps"),
        (text(RULE | {"about": "'fleet'"}), "needs about = 'device'"),
        (text(RULE | {"proven_min": "0"}), "others can send messages in its name"),
        (text(RULE | {"proven_min": "-1"}), "proven_min"),
        (text(RULE | {"action": "'revoke'"}), "never automatic"),
        (text(RULE | {"action": "'turn'", "about": "'fleet'"}), "never automatic"),
        (text(RULE | {"action": "'rotate-identity'", "about": "'fleet'"}), "never automatic"),
        (text(RULE | {"per_minute": "5"}), "belongs to limits"),
        (text(RULE | {"action": "'limit-device'"}), "per_minute"),
        (text(RULE | {"lasts_s": "60"}), "belongs to limits"),
        (text(RULE | {"action": "'limit-tenant'", "about": "'fleet'", "per_minute": "5"}), "never automatic"),
        (text(RULE | {"action": "'limit-device'", "per_minute": "0"}), "per_minute must be"),
        (
            text(RULE | {"action": "'limit-source'", "about": "'fleet'", "per_minute": "5", "mode": "'propose'"}),
            "name no address",
        ),
    ],
)
def test_a_bad_playbook_says_where(content, said):
    """Nothing is passed over in silence."""
    with pytest.raises(ConfigError) as refused:
        parse_playbook(content, name="rules.toml")
    assert "rules.toml" in str(refused.value)
    assert said in str(refused.value)


def test_a_playbook_that_is_not_there_says_so(tmp_path):
    """The path and the system's word for it."""
    with pytest.raises(ConfigError, match="cannot read the playbook"):
        read_playbook(str(tmp_path / "absent"))


def test_what_proves_something_is_what_the_detector_says():
    """Each word of proof is one that the detector writes; what anybody can cause is not among them."""
    written = {f"{step} drawn twice" for step in ("hello", "confirm", "record", "enrol")} | set(detector._WHAT.values())
    written.add("norm far from the device's own")
    assert set() == set(PROVEN) - written
    forgeable = {
        "hello signature",
        "hello key-version",
        "hello device-state",
        "hello encapsulation-key",
        "record tag",
        "record replay",
        "record device-state",
        "confirm conflict",
        "hello without an end",
        "record of an older session after a newer one's",
    }
    assert set() == forgeable & set(PROVEN)
    assert 5 == count_proven(b'{"seen":{"record drawn twice":2,"control conflict":3,"record tag":900}}')
    for nothing in (b"{}", b"[]", b"x", b'{"seen":3}', b'{"seen":{"control conflict":-3}}', b'{"seen":{"x":true}}'):
        assert 0 == count_proven(nothing)
