"""
Countersignatures: a second signature over a head of the log, by the server's offline root with ML-DSA-87.

For notes that are kept for decades: they hold as long as one of the two parameter sets does.  A line of a signed note
of C2SP's type 0xff, over the note's text, under a context of its own (docs/audit.md).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, DecodeError, OtherLogError
from qflare.primitives.sig import SIG87
from qflare.protocol.checkpoint import decode_note_body
from qflare.protocol.identity import server_id_of

if TYPE_CHECKING:
    from qflare.secret import SecretBytes

CONTEXT: Final = b"QFX1 chk"
_TYPE: Final = b"\xffqflare ML-DSA-87"
_KEY_ID_BYTES: Final = 4
_PREFIX: Final = "\u2014 "


def signer_name(root_key: bytes) -> str:
    """Return the name of a root's lines: its server_id in hex."""
    return server_id_of(root_key).hex()


def countersign_note(note: str, root_key: bytes, root_sk: SecretBytes) -> str:
    """
    Add the root's line to a signed note.

    Args:
        note: The note; its own signatures are the caller's to verify.
        root_key: ML-DSA-87, 2592 bytes.
        root_sk: The other half; the caller keeps it.

    Raises:
        DecodeError: it is no checkpoint note.
        AuthenticationError: *root_sk* does not belong to *root_key*.
        EntropyError: the random source failed; nothing was signed.
    """
    text = _text_of(note)
    signature = bytes(SIG87.sign(root_sk, text, context=CONTEXT))
    SIG87.verify(root_key, text, signature, context=CONTEXT)
    name = signer_name(root_key)
    return f"{note}{_PREFIX}{name} {base64.b64encode(_key_id(name, root_key) + signature).decode()}\n"


def verify_countersignature(note: str, root_key: bytes) -> None:
    """
    Verify the root's line in a note.

    Raises:
        OtherLogError: the note has no line by this root.
        DecodeError: it is no checkpoint note.
        AuthenticationError: the signature does not hold.
    """
    text, name = _text_of(note), signer_name(root_key)
    wanted = _key_id(name, root_key)
    for line in note.rpartition("\n\n")[2].split("\n"):
        who, _, encoded = line.removeprefix(_PREFIX).partition(" ")
        if who != name:
            continue
        try:
            signed = base64.b64decode(encoded.encode("ascii"), validate=True)
        except (UnicodeEncodeError, binascii.Error):
            signed = b""
        if signed[:_KEY_ID_BYTES] != wanted or len(signed) != _KEY_ID_BYTES + SIG87.SIG_BYTES:
            raise AuthenticationError
        SIG87.verify(root_key, text, signed[_KEY_ID_BYTES:], context=CONTEXT)
        return
    message = f"the note has no signature by the root of the server {name}"
    raise OtherLogError(message)


def _text_of(note: str) -> bytes:
    """Return what is signed: the note's text up to the empty line, its last newline included."""
    decode_note_body(note)
    text, separator, _ = note.rpartition("\n\n")
    if not separator:
        message = "the note has no signatures"
        raise DecodeError(message)
    return f"{text}\n".encode()


def _key_id(name: str, root_key: bytes) -> bytes:
    """Return SHA-256(name ‖ newline ‖ 0xff ‖ "qflare ML-DSA-87" ‖ key)[:4] (C2SP signed-note)."""
    return hashlib.sha256(name.encode() + b"\n" + _TYPE + root_key).digest()[:_KEY_ID_BYTES]
