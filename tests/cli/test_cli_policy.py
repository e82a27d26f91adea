"""`qflare policy`: the rotation policy from the command line."""

from cli.commands import qflare


def test_a_policy_is_tried_set_shown_and_removed(tmp_path):
    """A dry run changes nothing; set, plan and status tell the same figures as JSON; a bad value names itself."""
    where = ("--data-dir", tmp_path / "data", "--json")
    assert {"policy": None} == qflare(tmp_path, "policy", "show", *where).json
    tried = qflare(tmp_path, "policy", "set", "--max-age-h", 720, "--dry-run", *where).json
    assert (False, 720 * 3600, 0, 0) == (tried["is_set"], tried["max_age_s"], tried["due"], tried["devices"])
    assert {"policy": None} == qflare(tmp_path, "policy", "show", *where).json
    assert qflare(tmp_path, "policy", "set", "--max-age-h", 720, "--grace-h", 24, *where).json["is_set"]
    shown = qflare(tmp_path, "policy", "show", *where).json
    assert (720 * 3600, 24 * 3600, 10) == (shown["max_age_s"], shown["grace_s"], shown["jitter_percent"])
    assert 0 == qflare(tmp_path, "policy", "status", *where).json["waiting"]
    assert {"removed": True} == qflare(tmp_path, "policy", "remove", *where).json
    refused = qflare(tmp_path, "policy", "set", "--max-age-h", 1, "--data-dir", tmp_path / "data")
    assert 2 == refused.code
    assert "max_age_s" in refused.line
