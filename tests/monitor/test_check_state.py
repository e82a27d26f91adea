"""The state of an interrupted check: whoever writes another one makes the check begin anew, never pass."""

import dataclasses
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare.errors import ConfigError, DecodeError
from qflare.model.ids import TenantId
from qflare.monitor.audit_state import AuditState
from qflare.monitor.headings import Headings
from qflare.protocol.log import Frontier
from qflare.secret import SecretBytes
from qflare.service.state_file import StateFile

KEY = SecretBytes(bytearray(range(32)))
STATE = AuditState(
    scope="a scope",
    first=0,
    frontier=Frontier(6, (b"\1" * 32, b"\2" * 32)),
    roots={0: b"\3" * 32, 6: b"\4" * 32},
    signed_size=4,
    heads=2,
    kinds=Counter({"system": 6}),
    tenants=frozenset({bytes(16)}),
    erased=1,
    unsaid={2: bytes(16)},
    headings=Headings(tenant_id=TenantId(bytes(16)), recorded_at_ms=7, first=3),
    checked_at_s=7,
)
OTHERS = {
    "scope": "another",
    "first": 1,
    "frontier": Frontier(8, (b"\5" * 32,)),
    "roots": {6: b"\5" * 32},
    "signed_size": 6,
    "heads": 3,
    "kinds": Counter({"system": 5}),
    "tenants": frozenset(),
    "erased": 0,
    "unsaid": {},
    "headings": Headings(first=3),
    "checked_at_s": 8,
}


@pytest.fixture
def files(tmp_path):
    return tmp_path / "state", tmp_path / "key"


def interrupted(files, state=STATE):
    file = StateFile(*files)
    file.load()
    file.note(state)
    file.save()
    file.close()


def test_a_state_goes_through_its_file_and_leaves_nothing_behind(files):
    """What an interrupted check noted is read back; both files are their owner's alone, and go when the check is done."""
    interrupted(files)
    assert [0o600, 0o600] == [each.stat().st_mode & 0o777 for each in files]
    file = StateFile(*files)
    assert STATE == file.load()
    file.remove()
    assert not any(each.exists() for each in files)


@pytest.mark.parametrize("field", OTHERS)
def test_every_field_is_under_the_tag(field):
    """Each field of a state set to another value: with the tag of before it is none."""
    changed = json.loads(dataclasses.replace(STATE, **{field: OTHERS[field]}).encode(KEY))
    before = json.loads(STATE.encode(KEY))
    assert changed["hmac"] != before["hmac"]
    for tag in (before["hmac"], "", None, "00" * 32):
        with pytest.raises(DecodeError):
            AuditState.decode(json.dumps(changed | {"hmac": tag}).encode(), KEY)


@given(
    changes=st.dictionaries(
        st.sampled_from(sorted(json.loads(STATE.encode(KEY)))),
        st.one_of(st.none(), st.integers(), st.text(max_size=70), st.lists(st.text(max_size=3), max_size=3)),
        min_size=1,
    )
)
def test_no_forged_state_is_read(changes):
    """Whatever is put into a state, it is refused in one way, unless it says the same as before."""
    before = json.loads(STATE.encode(KEY))
    forged = before | changes
    if forged == before:
        return
    with pytest.raises(DecodeError, match="begin anew"):
        AuditState.decode(json.dumps(forged).encode(), KEY)


def test_states_under_other_keys_are_refused(files):
    """Of another check, of one that is done, and under a key that somebody else made: none of them is gone on from."""
    interrupted(files)
    older = files[0].read_bytes()
    StateFile(*files).load()
    files[0].unlink()
    interrupted(files)
    files[0].write_bytes(older)
    with pytest.raises(DecodeError, match="not written by it"):
        StateFile(*files).load()
    files[0].write_bytes(STATE.encode(KEY))
    with pytest.raises(DecodeError):
        StateFile(*files).load()
    files[1].unlink()
    with pytest.raises(ConfigError, match="begin anew"):
        StateFile(*files).load()


def test_nothing_else_is_taken_for_a_key_nor_written_over(files):
    """A file with something else, a key that others can read, one file for both: an error, and the file stands."""
    files[1].write_text("my notes")
    files[1].chmod(0o600)
    with pytest.raises(ConfigError, match="is no key"):
        StateFile(*files).load()
    assert "my notes" == files[1].read_text()
    files[1].unlink()
    interrupted(files)
    files[1].chmod(0o640)
    with pytest.raises(ConfigError, match="open to others"):
        StateFile(*files).load()
    with pytest.raises(ConfigError, match="two files"):
        StateFile(files[0], files[0])
