"""
Sealing keys behind a PKCS#11 token: non-extractable AES keys in it wrap KEK_L and each KEK_b.

The wrapped copies lie in the keeper's lasting folder, which all workers share; without the token's key they are noise.
A bucket's key in the token is destroyed at the bucket's end, and with it every copy of what it wrapped.  Sealing itself
runs in software (PROTOCOL R8).  There is no way around the token: when it is gone, so are the keys that it wraps, until
it is back.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from qflare.errors import KeeperError
from qflare.model.mark import HighWaterMark
from qflare.primitives.random import random_bytes, random_secret
from qflare.secret import SecretBytes
from qflare.stores.keeper.address import TokenAddress, parse_address
from qflare.stores.keeper.files import KEY_BYTES, destroy_file, link_new, read_file
from qflare.stores.keeper.folder import KeeperFolder
from qflare.stores.keeper.library import AbsentError, TokenFacts, open_library, wipe_secret

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

_OPEN_TIMEOUT_S: Final = 10.0
"""For loading the module and logging in at the start; after that every call has a second."""
_FORMAT: Final = 1
_NONCE_BYTES: Final = 12
_TAG_BITS: Final = 128
_WRAPPED_BYTES: Final = 1 + _NONCE_BYTES + KEY_BYTES + _TAG_BITS // 8
_MAGIC: Final = b"QFLARE-KEEP\x01"
_ID_BYTES: Final = 16
_KEY_BITS: Final = 256
_ID_NAME: Final = "token-id"
_LONG_TERM: Final = "long-term"
_BUCKET: Final = "bucket-"
_SOFTWARE_TOKENS: Final = ("SoftHSM",)


class Pkcs11Keeper:
    """
    `model.ports.Keeper` over a PKCS#11 token.

    Args:
        uri: Which module, token and PIN: a PKCS#11 URI (docs/operations.md).
        folder: For the wrapped copies, the mark and the lock; one for all workers of a database.

    Raises:
        ConfigError: the URI or the folder cannot be used.
        KeeperError: the token is gone, or refuses the PIN.
        MissingExtraError: python-pkcs11 is not installed.
    """

    def __init__(self, uri: str, folder: str | os.PathLike[str]) -> None:
        self._address: TokenAddress = parse_address(uri)
        self._library = open_library(self._address.module_path)
        self._folder = KeeperFolder(Path(folder))
        with self._folder.locked(timeout_s=_OPEN_TIMEOUT_S):
            self._id = self._read_id()
        self._facts = self._library.call(self._address, self._make_lasting, timeout_s=_OPEN_TIMEOUT_S)

    def long_term_key(self) -> SecretBytes:
        """Return KEK_L (32 bytes), made at first use; the caller wipes the copy."""
        return self._call(lambda session: self._key_of(session, _LONG_TERM))

    def make_bucket_key(self, bucket: int) -> SecretBytes:
        """
        Return KEK_b (32 bytes), made if it is absent and was never destroyed; all workers get the same.

        Raises:
            KeeperError: the bucket is below the mark, or the token is gone or does not know its key any more.
        """
        name = _name_of(bucket)

        def work(session: Any) -> SecretBytes:
            if bucket < self._folder.destroyed_before():
                raise KeeperError(f"the key of bucket {bucket} was destroyed and is never made again")
            return self._key_of(session, name)

        return self._call(work)

    def bucket_key(self, bucket: int) -> SecretBytes:
        """
        Return KEK_b; the caller wipes the copy.

        Raises:
            KeeperError: there is none (destroyed or never made), or the token is gone.
        """
        name = _name_of(bucket)

        def work(session: Any) -> SecretBytes:
            wrapped = self._wrapped(name)
            if wrapped is None or bucket < self._folder.destroyed_before():
                raise KeeperError(f"there is no key of bucket {bucket}: it was destroyed, or never made")
            return self._unwrap(session, name, wrapped)

        return self._call(work)

    def destroy_bucket_keys(self, *, before: int) -> int:
        """
        Destroy every KEK_b of buckets below *before*, for good; return how many.

        The mark is durable before the first key goes, and the token's key goes before its wrapped copy: a crash, or a
        token that is gone, in between leaves the rest to the next call.
        """
        with self._folder.locked():
            self._folder.raise_destroyed_before(before)

        def work(session: Any, _facts: TokenFacts) -> int:
            with self._folder.locked():
                self._require_present(session)
                gone: set[int] = set()
                for key in self._keys(session):
                    number = _bucket_of(str(key.label).rpartition("/")[2])
                    if number is not None and number < before:
                        key.destroy()
                        gone.add(number)
                for path in sorted(self._folder.path.iterdir()):
                    number = _bucket_of(path.name)
                    if number is not None and number < before:
                        destroy_file(path)
                        gone.add(number)
                return len(gone)

        return self._library.call(self._address, work)

    def bucket_keys(self) -> tuple[int, ...]:
        """Return the buckets whose key is in the token, or whose wrapped copy lies in the folder; ascending."""

        def work(session: Any, _facts: TokenFacts) -> tuple[int, ...]:
            with self._folder.locked():
                self._require_present(session)
                names = [str(key.label).rpartition("/")[2] for key in self._keys(session)]
                names += [path.name for path in self._folder.path.iterdir()]
                return tuple(sorted({bucket for name in names if (bucket := _bucket_of(name)) is not None}))

        return self._library.call(self._address, work)

    def destroyed_before(self) -> int:
        """Return the lowest bucket whose key was not destroyed for good, 0 where none was yet."""
        with self._folder.locked():
            return self._folder.destroyed_before()

    def high_water(self) -> HighWaterMark:
        """Return the high-water marks; `KeeperError` if they are damaged."""
        return self._folder.high_water()

    def raise_high_water(self, mark: HighWaterMark) -> HighWaterMark:
        """Raise the marks, durably, and return those that stand."""
        return self._folder.raise_high_water(mark)

    def replace_high_water(self, mark: HighWaterMark) -> HighWaterMark:
        """Take over the log and database that an operator has accepted, durably; return the marks that stand."""
        return self._folder.replace_high_water(mark)

    def promise(self) -> str | None:
        """Return None if destroyed keys are gone from the token, else a sentence saying why the promise is void."""
        return _promise_of(self._facts)

    # --- inside the module's thread ---------------------------------------------------------------

    def _call(self, work: Callable[[Any], SecretBytes]) -> SecretBytes:
        def locked(session: Any, _facts: TokenFacts) -> SecretBytes:
            with self._folder.locked():
                return work(session)

        return self._library.call(self._address, locked, wipe=wipe_secret)

    def _make_lasting(self, session: Any, facts: TokenFacts) -> TokenFacts:
        with self._folder.locked(timeout_s=_OPEN_TIMEOUT_S):
            self._key_of(session, _LONG_TERM).wipe()
        return facts

    def _key_of(self, session: Any, name: str) -> SecretBytes:
        """Return what is wrapped under *name*, made if nothing was ever."""
        wrapped = self._wrapped(name)
        if wrapped is not None:
            return self._unwrap(session, name, wrapped)
        if name != _LONG_TERM:
            self._require_present(session)
        import pkcs11

        # Found without a wrapped copy is what a crash left: nothing rests under it.
        key = self._find(session, name)
        if key is None:
            off = dict.fromkeys(("WRAP", "UNWRAP", "SIGN", "VERIFY", "DERIVE", "EXTRACTABLE", "MODIFIABLE"), False)
            on = dict.fromkeys(("SENSITIVE", "PRIVATE", "ENCRYPT", "DECRYPT"), True)
            key = session.generate_key(
                pkcs11.KeyType.AES,
                _KEY_BITS,
                id=self._id,
                label=self._label(name),
                store=True,
                template={pkcs11.Attribute[attribute]: value for attribute, value in (off | on).items()},
            )
        self._require_sealed_in(key)
        secret = random_secret(KEY_BYTES)
        try:
            nonce = random_bytes(_NONCE_BYTES)
            with secret.view() as view:
                # The binding takes bytes: a copy that only the collector frees (docs/security.md).
                body = key.encrypt(bytes(view), **self._mechanism(nonce, name))
            link_new(self._path(name), bytes((_FORMAT,)) + nonce + body)
        except BaseException:
            secret.wipe()
            raise
        return secret

    def _unwrap(self, session: Any, name: str, wrapped: bytes) -> SecretBytes:
        key = self._find(session, name)
        if key is None:
            raise _missing(self._path(name))
        self._require_sealed_in(key)
        nonce, body = wrapped[1 : 1 + _NONCE_BYTES], wrapped[1 + _NONCE_BYTES :]
        return SecretBytes(bytearray(key.decrypt(body, **self._mechanism(nonce, name))))

    def _mechanism(self, nonce: bytes, name: str) -> dict[str, Any]:
        import pkcs11
        from pkcs11.mechanisms import GCMParams

        # A key in the token encrypts one value in its life, so its nonce never repeats.
        aad = _MAGIC + self._id + name.encode()
        return {
            "mechanism": pkcs11.Mechanism.AES_GCM,
            "mechanism_param": GCMParams(nonce=nonce, aad=aad, tag_bits=_TAG_BITS),
        }

    def _find(self, session: Any, name: str) -> Any:
        import pkcs11

        found = list(session.get_objects(self._template() | {pkcs11.Attribute.LABEL: self._label(name)}))
        if len(found) > 1:
            raise KeeperError(
                f"the token holds more than one key {self._label(name)!r}: remove those that are not ours"
            )
        return found[0] if found else None

    def _keys(self, session: Any) -> Iterator[Any]:
        yield from list(session.get_objects(self._template()))

    def _template(self) -> dict[Any, Any]:
        import pkcs11

        return {pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY, pkcs11.Attribute.ID: self._id}

    def _require_present(self, session: Any) -> None:
        """Refuse unless the token shows our lasting key: one that went away shows no keys at all."""
        if self._find(session, _LONG_TERM) is None:
            raise _missing(self._path(_LONG_TERM))

    def _require_sealed_in(self, key: Any) -> None:
        import pkcs11

        names = ("EXTRACTABLE", "SENSITIVE", "NEVER_EXTRACTABLE", "ALWAYS_SENSITIVE")
        extractable, sensitive, never, always = (key[pkcs11.Attribute[name]] for name in names)
        if extractable or not (sensitive and never and always):
            raise KeeperError(f"the token's key {key.label!r} can be or could be taken out of it: it protects nothing")

    # --- the folder -------------------------------------------------------------------------------

    def _read_id(self) -> bytes:
        """Return what tells this folder's keys from others in the same token."""
        path = self._folder.path / _ID_NAME
        with contextlib.suppress(FileExistsError):
            if read_file(path) is None:
                link_new(path, random_bytes(_ID_BYTES))
        content = read_file(path)
        if content is None or len(content) != _ID_BYTES:
            raise KeeperError(f"{path} is damaged; restore it from its backup")
        return bytes(content)

    def _label(self, name: str) -> str:
        return f"{self._address.object_name}/{self._id.hex()}/{name}"

    def _path(self, name: str) -> Path:
        return self._folder.path / f"{name}.wrapped"

    def _wrapped(self, name: str) -> bytes | None:
        content = read_file(self._path(name))
        if content is None:
            return None
        if len(content) != _WRAPPED_BYTES or content[0] != _FORMAT:
            raise KeeperError(f"{self._path(name)} is damaged: restore it from its backup")
        return bytes(content)


def look_at_token(uri: str) -> str | None:
    """
    Open the token that a URI names and return what `Pkcs11Keeper.promise` would; nothing is made in it.

    Raises:
        ConfigError: the URI cannot be used.
        KeeperError: the token is gone, or refuses the PIN.
        MissingExtraError: python-pkcs11 is not installed.
    """
    address = parse_address(uri)
    library = open_library(address.module_path)
    return library.call(address, lambda _session, facts: _promise_of(facts), timeout_s=_OPEN_TIMEOUT_S)


def _promise_of(facts: TokenFacts) -> str | None:
    for name in _SOFTWARE_TOKENS:
        if name in facts.manufacturer or name in facts.model:
            return (
                f"the token is {name}, software that keeps its keys in files, of which a medium may keep what was "
                "erased: forward secrecy at rest is not promised; use a hardware token, or the file keeper on tmpfs"
            )
    return None


def _missing(path: Path) -> AbsentError:
    return AbsentError(
        f"the HSM is gone, or its key of {path.name} was destroyed: the token shows no key for it; nothing is sealed "
        "without it"
    )


def _name_of(bucket: int) -> str:
    if bucket < 0:
        raise KeeperError(f"bucket indexes count from 0, got {bucket}")
    return f"{_BUCKET}{bucket}"


def _bucket_of(name: str) -> int | None:
    """Return the bucket in a label's or a file's name, None if it is another's."""
    number = name.removesuffix(".wrapped").removeprefix(_BUCKET)
    return int(number) if name.startswith(_BUCKET) and number.isascii() and number.isdecimal() else None
