"""
Cosignatures: a witness's statement that a head goes on from every other that it saw of the log (C2SP tlog-cosignature).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.errors import AuthenticationError, UsageError
from qflare.primitives.sig import SIG44
from qflare.protocol.checkpoint import cosigned_message, decode_note_body, find_signature, signature_line
from qflare.protocol.labels import CONTEXT_RECEIPT

if TYPE_CHECKING:
    from qflare.protocol.log_key import LogKey
    from qflare.secret import SecretBytes


def cosign_note(note: str, witness: LogKey, signing_key: SecretBytes, *, time_s: int) -> str:
    """
    Add a witness's line to a note whose head it has verified.

    Args:
        note: The signed note.
        witness: Name and verification key of the witness.
        signing_key: The other half, ML-DSA-44; the caller keeps it.
        time_s: Now, POSIX seconds: as of then it is the largest head that the witness saw.

    Raises:
        UsageError: the witness has the log's own name, or the head is of no entry.
        DecodeError: it is no checkpoint note.
        EntropyError: the random source failed; nothing was signed.
    """
    body = decode_note_body(note)
    if witness.origin == body.origin:
        message = f"a witness has a name of its own, not the log's {body.origin!r}"
        raise UsageError(message)
    message_bytes = cosigned_message(witness.origin, body.origin, body.size, body.root, time_s)
    signature = SIG44.sign(signing_key, message_bytes, context=CONTEXT_RECEIPT)
    return note + signature_line(witness.origin, witness.key, time_s, bytes(signature))


def verify_cosignature(note: str, witness: LogKey) -> int:
    """
    Verify a witness's line in a note, and return when it signed.

    The log's own signature is another matter: `log_key.open_note`.

    Raises:
        OtherLogError: the note has no line by this witness.
        DecodeError: it is no checkpoint note.
        AuthenticationError: the signature does not hold.
    """
    body = decode_note_body(note)
    time_s, signature = find_signature(note, witness.origin, witness.key)
    try:
        message = cosigned_message(witness.origin, body.origin, body.size, body.root, time_s)
    except UsageError:
        message = b""  # what cannot be signed was not signed
    if not message:
        raise AuthenticationError
    SIG44.verify(witness.key, message, signature, context=CONTEXT_RECEIPT)
    return time_s
