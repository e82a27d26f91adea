"""What commands print for people."""

from qflare.cli.output import aligned


def test_numbers_are_no_claims():
    """0 and 1 are printed as numbers, at any depth; only claims are yes or no."""
    facts = {
        "heads": 1,
        "first": 0,
        "holds": True,
        "is_offline": False,
        "root": None,
        "kinds": {"system": 1},
        "at": (0, 1),
    }
    said = dict(line.rsplit("  ", 1) for line in aligned(facts).splitlines())
    assert ["1", "0", "yes", "no", "none", "system 1", "0, 1"] == list(said.values())
