"""The root's line in a signed note."""

import pytest

from qflare.errors import AuthenticationError, DecodeError, OtherLogError
from qflare.model.event import SignedCheckpoint
from qflare.primitives.sig import SIG87
from qflare.protocol.checkpoint import encode_note
from qflare.protocol.countersignature import CONTEXT, countersign_note, verify_countersignature
from qflare.protocol.labels import SIGNATURE_CONTEXTS

NOTE = encode_note(
    "log.example/q", bytes(1312), SignedCheckpoint(size=5, root=bytes(32), time_s=7, signature=bytes(2420))
)


def test_a_line_of_the_root_holds_over_the_notes_text_alone():
    """Witnesses may be added; every other change, another root and another pair of keys are refused."""
    root, other = SIG87.generate(), SIG87.generate()
    with root.signing_key as root_sk, other.signing_key as other_sk:
        signed = countersign_note(NOTE, root.verification_key, root_sk)
        with pytest.raises(AuthenticationError):
            countersign_note(NOTE, root.verification_key, other_sk)
        with pytest.raises(DecodeError):
            countersign_note("no note\n", root.verification_key, root_sk)
    verify_countersignature(signed, root.verification_key)
    verify_countersignature(signed + "\u2014 witness.example/w AAAA\n", root.verification_key)
    for key, note in ((other.verification_key, signed), (root.verification_key, NOTE)):
        with pytest.raises(OtherLogError):
            verify_countersignature(note, key)
    line = signed.split("\n")[-2]
    for changed in (
        signed.replace("\n5\n", "\n6\n"),
        signed.replace("log.example/q\n", "log.example/r\n", 1),
        signed.replace(line, line[:-5] + ("AAAA" if line[-5:-1] != "AAAA" else "BBBB") + line[-1]),
        signed.replace(line, line[:200]),
        signed.replace(line, line + "!"),
    ):
        with pytest.raises(AuthenticationError):
            verify_countersignature(changed, root.verification_key)


def test_no_other_signature_is_made_under_this_context():
    """The root signs certificates too: one cannot be taken for the other."""
    assert CONTEXT not in SIGNATURE_CONTEXTS
