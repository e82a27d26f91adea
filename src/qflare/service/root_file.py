r"""
The root's file (PROTOCOL A1): the root's signing key outside the database, sealed under a passphrase.

    "QFLARE-ROOT\x01" ‖ log2 N (u8) ‖ r (u8) ‖ p (u8) ‖ salt(16) ‖ root vk(2592) ‖ nonce(12) ‖ ciphertext ‖ tag(16)

The key is scrypt(passphrase, salt, N, r, p) of RFC 7914, 32 bytes; the ciphertext is AES-256-GCM with everything before
it as associated data.  Reading and signing need no database.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, ConfigError, DecodeError
from qflare.manager.certificates import RootKey
from qflare.manager.signers import signing_key
from qflare.primitives import aead
from qflare.primitives.random import random_bytes
from qflare.primitives.sig import SIG87
from qflare.protocol.identity import Certificate, sign_certificate
from qflare.service.passphrase_key import PARAMETERS, SALT_BYTES, derive_key, require_passphrase

if TYPE_CHECKING:
    from pathlib import Path

    from qflare.secret import SecretBytes

_MAGIC: Final = b"QFLARE-ROOT\x01"
_NONCE_BYTES: Final = 12
_PARAMETERS_AT: Final = len(_MAGIC)
_SALT_AT: Final = _PARAMETERS_AT + 3
_ROOT_AT: Final = _SALT_AT + SALT_BYTES
_NONCE_AT: Final = _ROOT_AT + SIG87.PK_BYTES
_SEALED_AT: Final = _NONCE_AT + _NONCE_BYTES
_SIZES: Final = tuple(_SEALED_AT + size + aead.TAG_BYTES for size in (SIG87.SEED_BYTES, SIG87.SK_BYTES))


def write_root(path: Path, root: RootKey, passphrase: SecretBytes) -> None:
    """
    Write *root* to the new file *path*, mode 0600, durably, and read it back before saying that it is there.

    Raises:
        ConfigError: the file cannot be written, or does not read back; then none is left.
        UsageError: the passphrase is too short.
    """
    content = _seal(root, passphrase)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as failure:
        raise ConfigError(f"cannot write {path}: {failure.strerror}; name a new file in a folder you own") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(path.parent)
        with read_root(path, passphrase) as back:
            is_same = back.root_key == root.root_key and back.stored.equals(root.stored)
    except (OSError, AuthenticationError, DecodeError) as failure:
        with contextlib.suppress(OSError):
            path.unlink()
        reason = failure.strerror if isinstance(failure, OSError) else "what was written does not read back"
        raise ConfigError(f"cannot keep the root in {path}: {reason}") from None
    if not is_same:
        path.unlink()
        raise ConfigError(f"cannot keep the root in {path}: what was written does not read back")


def read_root(path: Path, passphrase: SecretBytes) -> RootKey:
    """
    Open the root's file; the caller wipes what it returns.

    Raises:
        AuthenticationError: another passphrase, or the file was altered.
        ConfigError: the file cannot be read.
        DecodeError: it is no root's file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(max(_SIZES) + 1)
    except OSError as failure:
        raise ConfigError(f"cannot read {path}: {failure.strerror}") from None
    if len(content) not in _SIZES or not content.startswith(_MAGIC):
        raise DecodeError(f"{path} is no root file of qflare, or cut: name what  qflare identity export-root  wrote")
    with derive_key(passphrase, content[_PARAMETERS_AT:_SALT_AT], content[_SALT_AT:_ROOT_AT]) as key:
        stored = aead.open(key, content[_NONCE_AT:_SEALED_AT], content[_SEALED_AT:], content[:_SEALED_AT])
    return RootKey(content[_ROOT_AT:_NONCE_AT], stored)


def sign_request(root: RootKey, body: bytes) -> Certificate:
    """
    Sign what `QuantumKeyManager.request_certificate` returned, where the root is; no database is needed.

    Raises:
        DecodeError: *body* is no request.
        ServerIdentityError: it is another server's.
        KeeperError: the file's signing key does not belong to its public half.
    """
    with signing_key(SIG87, root.stored, root.root_key) as root_sk:
        return sign_certificate(root_sk, root.root_key, body)


def _seal(root: RootKey, passphrase: SecretBytes) -> bytes:
    require_passphrase(passphrase)
    salt, nonce = random_bytes(SALT_BYTES), random_bytes(_NONCE_BYTES)
    head = b"".join((_MAGIC, PARAMETERS, salt, root.root_key, nonce))
    with derive_key(passphrase, PARAMETERS, salt) as key, root.stored.view() as stored:
        return head + aead.seal(key, nonce, stored, head)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
