"""
What a signer keeps in its folder: its keys, and the head that it signed last.

The head is durable before its signature leaves: after a crash at any point the signer signs no smaller log, and no
other one of the same size.  A folder with keys and without that head is damaged, and nothing is signed from it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, ConfigError, DecodeError, KeeperError, SignerRefusedError
from qflare.primitives.random import random_secret
from qflare.primitives.sig import SIG44
from qflare.protocol.checkpoint import encode_origin, sign_checkpoint
from qflare.protocol.log import verify_consistency
from qflare.protocol.signing import LastHead, SignRequest, hash_key
from qflare.secret import SecretBytes
from qflare.stores.keeper.files import link_new, own_folder, read_file, replace_file, unusable

if TYPE_CHECKING:
    from pathlib import Path

    from qflare.clock import Clock

KEYS_MAX: Final = 64
"""Most keys of one folder: a rotation makes one."""
_MAGIC: Final = b"QFLARE-SIGNED\x01"
_HEAD_FILE: Final = "head"
_LOCK_FILE: Final = "lock"
_KEY_SUFFIX: Final = ".key"
_DIGEST_BYTES: Final = 32


class SignerState:
    """Keys and last head of one log; one process at a time holds them."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        """
        Open *folder*, made if absent, and take it for this process.

        Raises:
            ConfigError: another signer has it, or it is not this user's own.
            KeeperError: a file in it is damaged or missing.
        """
        self._folder = own_folder(folder)
        self._clock = clock
        self._keys: dict[bytes, tuple[bytes, SecretBytes]] = {}
        """By hash of the public half: public half and signing key, in the order in which they were made."""
        self._lock = self._take()
        try:
            self._load()
        except OSError as error:
            self.close()
            raise unusable(folder, error) from None
        except BaseException:
            self.close()
            raise

    @property
    def last(self) -> LastHead:
        """The head that was signed last."""
        return self._last

    def public_key(self, *, is_fresh: bool = False) -> bytes:
        """Return the public half of the key that was made last; make the first one, and a fresh one if asked for."""
        if is_fresh or not self._keys:
            self._make()
        return next(reversed(self._keys.values()))[0]

    def sign(self, request: SignRequest) -> LastHead | None:
        """
        Sign a head, or return None where the last one is not the one that *request* goes on from.

        Raises:
            SignerRefusedError: it is no head that may follow: nothing was signed.
        """
        last = self._last.checkpoint
        found = self._keys.get(request.key_hash)
        if found is None:
            raise SignerRefusedError("this signer does not hold that key")
        self._require_origin(request.origin)
        if request.old_size != last.size or request.size < last.size:
            if request.size == last.size and request.root != last.root:
                raise SignerRefusedError(f"another root of {last.size} entries was signed: the log was forked")
            return None
        try:
            verify_consistency(last.size, request.size, old_root=last.root, new_root=request.root, path=request.path)
        except AuthenticationError:
            raise SignerRefusedError(
                f"the log of {request.size} entries does not go on from the {last.size} that were signed: it was forked"
            ) from None
        if request.size == 0:
            raise SignerRefusedError("an empty log has no head")
        if request.size == last.size and self._last.key_hash == request.key_hash:
            return self._last
        signed = sign_checkpoint(
            found[1], request.origin, request.size, request.root, max(self._clock.now_s(), last.time_s, 1)
        )
        head = LastHead(key_hash=request.key_hash, checkpoint=signed)
        self._keep(head, request.origin)
        return head

    def close(self) -> None:
        """Wipe the keys, and leave the folder to the next one."""
        for _, key in self._keys.values():
            key.wipe()
        self._keys.clear()
        os.close(self._lock)

    # --- files ------------------------------------------------------------------------------------

    def _take(self) -> int:
        try:
            lock = os.open(self._folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise unusable(self._folder, error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise ConfigError(f"another signer has the folder {self._folder}: two would sign past each other") from None
        return lock

    def _load(self) -> None:
        names = sorted(self._folder.glob(f"*{_KEY_SUFFIX}"))
        content = read_file(self._folder / _HEAD_FILE)
        if content is None:
            if names:
                raise KeeperError(
                    f"{self._folder} has keys but not the head that was signed last: restore it whole, or begin with "
                    "an empty folder and rotate the identity"
                )
            self._origin = ""
            self._last = LastHead.none()
        else:
            self._last, self._origin = self._read_head(bytes(content))
        try:
            self._next = int(names[-1].stem) + 1 if names else 0
        except ValueError:
            raise KeeperError(f"{names[-1]} is no key that the signer made: remove it") from None
        for path in names:
            stored = read_file(path)
            if stored is None or len(stored) != SIG44.SEED_BYTES:
                raise KeeperError(f"{path} is damaged: a key has {SIG44.SEED_BYTES} bytes")
            self._add(stored)

    def _read_head(self, content: bytes) -> tuple[LastHead, str]:
        body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        is_whole = body.startswith(_MAGIC) and hashlib.sha256(body).digest() == digest
        try:
            size = body[len(_MAGIC)] if is_whole else 0
            at = len(_MAGIC) + 1
            if is_whole:
                return LastHead.decode(body[at + size :]), body[at : at + size].decode()
        except (DecodeError, UnicodeDecodeError, IndexError):
            pass
        raise KeeperError(
            f"{self._folder / _HEAD_FILE} is damaged: what was signed last is not known, so nothing is signed; restore "
            "it, or begin with an empty folder and rotate the identity"
        )

    def _keep(self, head: LastHead, origin: str) -> None:
        name = origin.encode()
        body = b"".join((_MAGIC, bytes((len(name),)), name, head.encode()))
        try:
            replace_file(self._folder / _HEAD_FILE, body + hashlib.sha256(body).digest())
        except OSError as error:
            raise unusable(self._folder, error) from None
        self._last, self._origin = head, origin

    def _make(self) -> None:
        if not SIG44.has_keys_from_seed():
            raise KeeperError("the liboqs at hand makes no ML-DSA key from a seed: the signer needs one that does")
        if len(self._keys) >= KEYS_MAX:
            raise SignerRefusedError(f"the signer holds {KEYS_MAX} keys: remove files of keys that are out of force")
        if not self._keys:
            self._keep(self._last, self._origin)
        with random_secret(SIG44.SEED_BYTES) as seed, seed.view() as view:
            path = self._folder / f"{self._next:04d}{_KEY_SUFFIX}"
            try:
                link_new(path, view)
            except OSError as error:
                raise unusable(self._folder, error) from None
            self._add(bytearray(view))
            self._next += 1

    def _add(self, seed: bytearray) -> None:
        with SecretBytes(seed) as stored:
            pair = SIG44.generate_from_seed(stored)
        self._keys[hash_key(pair.verification_key)] = (pair.verification_key, pair.signing_key)

    def _require_origin(self, origin: str) -> None:
        if self._origin and origin != self._origin:
            raise SignerRefusedError(f"this signer signs the log {self._origin!r} alone")
        encode_origin(origin)
