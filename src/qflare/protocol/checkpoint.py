"""
Checkpoints: a signed statement of the log's size and root (C2SP tlog-cosignature with ML-DSA-44).

The signature is over C2SP's cosigned message as it stands, with the empty context; the same signature serves every
receipt of a batch (H9).  `encode_note` writes a checkpoint as the signed note of C2SP, which other tools read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from qflare.errors import AuthenticationError, DecodeError, LengthError, OtherLogError, UsageError
from qflare.model.event import SignedCheckpoint
from qflare.primitives.sig import SIG44
from qflare.protocol.labels import CONTEXT_RECEIPT
from qflare.protocol.log import HASH_BYTES, SIZE_MAX
from qflare.protocol.wire import ORIGIN_BYTES_MAX, u64

if TYPE_CHECKING:
    from qflare.secret import SecretBytes

_COSIGNED_LABEL: Final = b"subtree/v1\n\x00"
_SIGNATURE_TYPE: Final = b"\x06"
"""Signature type of a timestamped ML-DSA-44 cosignature (C2SP signed-note)."""
_KEY_ID_BYTES: Final = 4
_TIME_BYTES: Final = 8
_TIMESTAMPED_BYTES: Final = _TIME_BYTES + SIG44.SIG_BYTES

NOTE_BYTES_MAX: Final = 1 << 18
"""Longest note that is read: far more signatures than the 16 that C2SP asks a reader to take."""
_BODY_LINES: Final = 3
"""Origin, size and root."""
_SIZE_LINE: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_SIGNATURE_PREFIX: Final = "\u2014 "  # an em dash and a space


def encode_origin(origin: str) -> bytes:
    """
    Return the UTF-8 of a log origin, which is also the name of its key.

    Raises:
        UsageError: it is empty, over 255 bytes, or has white space, a control character or a plus sign.
    """
    try:
        encoded = origin.encode()
    except UnicodeEncodeError:
        encoded = b""
    has_refused = any(char.isspace() or char == "+" or char < "\x20" or "\x7f" <= char <= "\x9f" for char in origin)
    if not 1 <= len(encoded) <= ORIGIN_BYTES_MAX or has_refused:
        message = (
            f"a log origin is 1 to {ORIGIN_BYTES_MAX} bytes of UTF-8 without white space, control characters or '+': "
            "use a name such as log.example.org/qflare"
        )
        raise UsageError(message)
    return encoded


def checkpoint_message(origin: str, size: int, root: bytes, time_s: int) -> bytes:
    """
    Return the bytes that the log key signs: C2SP's cosigned message for the subtree [0, *size*).

    Args:
        origin: The log's origin, which is also the cosigner's name.
        size: Leaves of the tree, 1 or more.
        root: Root hash, 32 bytes.
        time_s: When it is signed, POSIX seconds, 1 to 2^63 - 1 (0 would mean "no statement about time").

    Raises:
        UsageError: the origin, size or time cannot stand in a checkpoint.
        LengthError: *root* is not 32 bytes.

    Source: C2SP tlog-cosignature, "ML-DSA-44 signed message"; docs/protocol.md, H9.
    """
    return cosigned_message(origin, origin, size, root, time_s)


def cosigned_message(cosigner: str, origin: str, size: int, root: bytes, time_s: int) -> bytes:
    """Return the bytes that *cosigner* signs about a log's head; the rest as `checkpoint_message`."""
    name, log = encode_origin(cosigner), encode_origin(origin)
    if len(root) != HASH_BYTES:
        label = "root"
        raise LengthError(label, expected=HASH_BYTES, actual=len(root))
    if not 1 <= size <= SIZE_MAX or not 1 <= time_s <= SIZE_MAX:
        message = f"a checkpoint states a size and a time of 1 to 2^63 - 1, got size {size} and time {time_s}"
        raise UsageError(message)
    who, what = bytes((len(name),)) + name, bytes((len(log),)) + log
    return b"".join((_COSIGNED_LABEL, who, u64(time_s), what, u64(0), u64(size), root))


def sign_checkpoint(log_signing_key: SecretBytes, origin: str, size: int, root: bytes, time_s: int) -> SignedCheckpoint:
    """
    Sign the head of the log (H9).

    Raises:
        UsageError: as `checkpoint_message`.
        EntropyError: the random source failed; nothing was signed.
    """
    message = checkpoint_message(origin, size, root, time_s)
    signature = SIG44.sign(log_signing_key, message, context=CONTEXT_RECEIPT)
    return SignedCheckpoint(size=size, root=bytes(root), time_s=time_s, signature=bytes(signature))


def verify_checkpoint(log_key: bytes, origin: str, checkpoint: SignedCheckpoint) -> None:
    """
    Verify a signed head under the log's verification key.

    Raises:
        AuthenticationError: the signature does not hold, or size, time or root are impossible.
    """
    try:
        message = checkpoint_message(origin, checkpoint.size, checkpoint.root, checkpoint.time_s)
    except UsageError:
        message = b""  # what cannot be signed was not signed
    if not message:
        raise AuthenticationError
    SIG44.verify(log_key, message, checkpoint.signature, context=CONTEXT_RECEIPT)


# --- the signed note -------------------------------------------------------------------------------------------------


def key_id(origin: str, log_key: bytes) -> bytes:
    """Return the 4-byte key id of C2SP's signed note: SHA-256(name ‖ newline ‖ 0x06 ‖ public key)[:4]."""
    name = encode_origin(origin)
    return hashlib.sha256(name + b"\n" + _SIGNATURE_TYPE + log_key).digest()[:_KEY_ID_BYTES]


def encode_verifier_key(origin: str, log_key: bytes) -> str:
    """Return the log's key as C2SP's vkey, which note verifiers are configured with: name+hex key id+base64."""
    encode_origin(origin)
    material = base64.b64encode(_SIGNATURE_TYPE + log_key).decode()
    return f"{origin}+{key_id(origin, log_key).hex()}+{material}"


def encode_note(origin: str, log_key: bytes, checkpoint: SignedCheckpoint) -> str:
    """
    Write a checkpoint as a signed note: origin, size and base64 root, an empty line, the signature line.

    Raises:
        UsageError: the origin cannot stand in a note.

    Source: C2SP signed-note and tlog-checkpoint; the signature is ``timestamp u64 ‖ ML-DSA-44 signature``.
    """
    line = signature_line(origin, log_key, checkpoint.time_s, checkpoint.signature)
    return f"{_note_text(origin, checkpoint.size, checkpoint.root)}\n{line}"


def signature_line(name: str, key: bytes, time_s: int, signature: bytes) -> str:
    """Return the line of a note that holds a timestamped ML-DSA-44 signature by the key of that name."""
    signed = key_id(name, key) + u64(time_s) + signature
    return f"{_SIGNATURE_PREFIX}{name} {base64.b64encode(signed).decode()}\n"


def find_signature(note: str, name: str, key: bytes) -> tuple[int, bytes]:
    """
    Return time and signature of the line by that key, unverified.

    Raises:
        OtherLogError: there is none.
        DecodeError: it is no checkpoint note.
    """
    signed = _find_signature(_split_note(note)[1], name, key_id(name, key))
    return int.from_bytes(signed[:_TIME_BYTES], "big"), signed[_TIME_BYTES:]


class NoteBody(NamedTuple):
    """What a checkpoint note states; nothing about it is verified."""

    origin: str
    size: int
    root: bytes


def decode_note_body(note: str) -> NoteBody:
    """
    Read what a note states, without a key: for a note that was verified when it was kept.

    Raises:
        DecodeError: it is no checkpoint note.
    """
    return _split_note(note)[0]


def unverified_checkpoint(note: str) -> SignedCheckpoint:
    """
    Return what a note states with the first signature under the origin's name, neither of them verified.

    Raises:
        DecodeError: it is no checkpoint note, or has no such signature.
    """
    body, signatures = _split_note(note)
    for line in signatures[:-1].split("\n"):
        name, _, encoded = line.removeprefix(_SIGNATURE_PREFIX).partition(" ")
        if name != body.origin:
            continue
        signed = _decode_base64(encoded, size=None, name="signature")[_KEY_ID_BYTES:]
        if len(signed) == _TIMESTAMPED_BYTES:
            time_s = int.from_bytes(signed[:_TIME_BYTES], "big")
            return SignedCheckpoint(size=body.size, root=body.root, time_s=time_s, signature=signed[_TIME_BYTES:])
    message = f"the note has no signature by the log {body.origin[:ORIGIN_BYTES_MAX]!r}"
    raise DecodeError(message)


def decode_note(note: str, *, origin: str, log_key: bytes) -> SignedCheckpoint:
    """
    Read a signed note and verify the log's own signature in it; lines by other keys (witnesses) are passed over.

    Raises:
        OtherLogError: it is a checkpoint of another *origin*, or has no signature line by this key.
        DecodeError: it is no checkpoint.
        AuthenticationError: the log's signature does not hold.
    """
    body, signatures = _split_note(note)
    if body.origin != origin:
        message = f"the note is of another log, {body.origin[:ORIGIN_BYTES_MAX]!r}; expected origin {origin!r}"
        raise OtherLogError(message)
    signed = _find_signature(signatures, origin, key_id(origin, log_key))
    time_s = int.from_bytes(signed[:_TIME_BYTES], "big")
    checkpoint = SignedCheckpoint(size=body.size, root=body.root, time_s=time_s, signature=signed[_TIME_BYTES:])
    verify_checkpoint(log_key, origin, checkpoint)
    return checkpoint


def _split_note(note: str) -> tuple[NoteBody, str]:
    """Return what a note states, and its signature lines."""
    if len(note) > NOTE_BYTES_MAX:
        message = f"a note has at most {NOTE_BYTES_MAX} characters, got {len(note)}"
        raise DecodeError(message)
    text, separator, signatures = note.rpartition("\n\n")
    lines = text.split("\n")
    if not separator or not signatures.endswith("\n") or len(lines) < _BODY_LINES or "" in lines:
        message = "a checkpoint note has an origin, a size and a root line, an empty line and signature lines"
        raise DecodeError(message)
    if len(lines) > _BODY_LINES:
        # The ML-DSA message does not cover extension lines, so they would be unsigned text in a signed note.
        message = "the note has extension lines, which the signature does not cover"
        raise DecodeError(message)
    return NoteBody(
        lines[0], _decode_size(lines[1]), _decode_base64(lines[2], size=HASH_BYTES, name="root")
    ), signatures


def _note_text(origin: str, size: int, root: bytes) -> str:
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def _decode_size(line: str) -> int:
    if not _SIZE_LINE.fullmatch(line):
        message = "the note's size line is no decimal number without leading zeros"
        raise DecodeError(message)
    return int(line)


def _find_signature(signatures: str, origin: str, wanted: bytes) -> bytes:
    for line in signatures[:-1].split("\n"):
        name, space, encoded = line.removeprefix(_SIGNATURE_PREFIX).partition(" ")
        if not line.startswith(_SIGNATURE_PREFIX) or not space:
            message = "a signature line of a note is an em dash, a space, a key name, a space and base64"
            raise DecodeError(message)
        signed = _decode_base64(encoded, size=None, name="signature")
        if name == origin and signed[:_KEY_ID_BYTES] == wanted:
            if len(signed) != _KEY_ID_BYTES + _TIMESTAMPED_BYTES:
                message = f"a timestamped signature is {_TIMESTAMPED_BYTES} bytes"
                raise DecodeError(message)
            return signed[_KEY_ID_BYTES:]
    message = f"the note has no signature by the key {wanted.hex()} of {origin!r}"
    raise OtherLogError(message)


def _decode_base64(text: str, *, size: int | None, name: str) -> bytes:
    try:
        decoded = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        decoded = None
    # Encoding it again refuses the second spellings that left-over bits allow.
    if decoded is None or base64.b64encode(decoded).decode() != text or size not in (None, len(decoded)):
        message = f"the note's {name} is not base64" + (f" of {size} bytes" if size is not None else "")
        raise DecodeError(message)
    return decoded
