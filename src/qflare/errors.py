"""
The one error tree: everything QFLARE raises is a `QflareError`.

Messages state the fact and the remedy, never a secret.  Attributes carry the details, so that nobody parses messages.
All authentication failures are one class with one message and no inner cause: what differs is counted, not told.
"""

from __future__ import annotations

from typing import Final

_AUTHENTICATION_MESSAGE: Final = "authentication failed"


class QflareError(Exception):
    """Root of every error that QFLARE raises."""


# --- the caller's mistakes -------------------------------------------------------------------------------------------


class UsageError(QflareError, ValueError):
    """The caller passed something that cannot work; the message names the remedy."""


class LengthError(UsageError):
    """A value has the wrong size in bytes."""

    def __init__(self, name: str, *, expected: str | int, actual: int) -> None:
        """Record which value, what was expected and what came, both in bytes."""
        super().__init__(f"{name} must be {expected} bytes, got {actual}")
        self.name = name
        self.expected = expected
        self.actual = actual


class BatchError(UsageError):
    """A batch has an impossible number of rows, or its columns disagree."""


class ConfigError(UsageError):
    """A setting, path or address cannot be used; the message says which and what to do."""


class UnsupportedAlgorithmError(UsageError):
    """The named algorithm is not offered; `supported` lists what is."""

    def __init__(self, name: str, supported: tuple[str, ...], *, reason: str = "") -> None:
        """Record the refused *name* and the *supported* ones."""
        why = f" ({reason})" if reason else ""
        super().__init__(f"algorithm {name!r} is not supported{why}; supported: {', '.join(supported)}")
        self.name = name
        self.supported = supported


class MissingExtraError(QflareError, ImportError):
    """A feature needs a package of an extra that is not installed."""

    def __init__(self, *, feature: str, extra: str, package: str) -> None:
        """Name the *feature*, the *extra* that brings it and the missing *package*."""
        if package.startswith("qflare."):
            # One of our own: the wheel for devices has no server in it, and no extra brings one.
            message = f"{feature} needs {package}, which the wheel for devices leaves out: install the whole wheel"
        else:
            message = f"{feature} needs the package {package!r}: install it with  pip install 'qflare[{extra}]'"
        super().__init__(message)
        self.feature = feature
        self.extra = extra
        self.package = package


# --- cryptography ----------------------------------------------------------------------------------------------------


class CryptoError(QflareError):
    """A cryptographic operation did not succeed."""


class AuthenticationError(CryptoError):
    """A signature, tag or ciphertext is not authentic; deliberately without detail."""

    def __init__(self) -> None:
        """Carry the one message that every authentication failure has."""
        super().__init__(_AUTHENTICATION_MESSAGE)


class ServerIdentityError(AuthenticationError):
    """
    What came is not what the pinned server's CERT vouches for; the message says why.

    Unlike other authentication failures it tells: everything compared is public, and whoever reads it needs the remedy.
    """

    def __init__(self, message: str) -> None:
        """Say what was expected, what came, and the remedy."""
        CryptoError.__init__(self, message)


class KeyCheckError(CryptoError):
    """A public or private key fails the input checks of FIPS 203, section 7.2 or 7.3."""


class NativeError(CryptoError):
    """The C core reported a failure; `status` is its code."""

    def __init__(self, operation: str, status: int, meaning: str) -> None:
        """Record the *operation*, the C *status* and its *meaning*."""
        super().__init__(f"{operation} failed in the C core: {meaning} (status {status})")
        self.operation = operation
        self.status = status


class EntropyError(CryptoError):
    """The system's random source failed; no key was made."""


class SelfTestError(CryptoError, ImportError):
    """The C core or the liboqs under it did not pass the self-test at load."""


# --- the protocol ----------------------------------------------------------------------------------------------------


class ProtocolError(QflareError):
    """A peer's message cannot be accepted."""


class DecodeError(ProtocolError):
    """Bytes are not a well-formed message, record, descriptor or state file."""


class OtherLogError(DecodeError):
    """A checkpoint, a proof or an export is of another log than the one at hand; it says nothing about this one."""


class UnexpectedMessageError(ProtocolError):
    """A well-formed message came at a moment or in a place where it makes no sense."""


class ReplayError(ProtocolError):
    """A message or record was accepted before."""


class RefusedError(ProtocolError):
    """
    The server refused (N5: the same answer for every reason), or a device's own check failed.

    `reason` is a value of `qflare.model.refusal.Refusal` and `step` names what was asked, both where they are known:
    inside the server.  Neither ever goes to the peer.
    """

    def __init__(self, message: str = "refused", *, reason: str | None = None, step: str | None = None) -> None:
        """Record the true *reason* and the *step*, for counters and the log."""
        super().__init__(message)
        self.reason = reason
        self.step = step


class SessionExpiredError(ProtocolError):
    """The session, ticket or token has ended; the remedy is a new handshake or token."""


class SessionUsedUpError(SessionExpiredError):
    """The session has carried as many records or bytes as one may (R9); the remedy is a new handshake."""


class StaleBucketError(ProtocolError):
    """A message names a bucket outside the accepted window (R1)."""


class LogForkError(ProtocolError):
    """The audit log shows two roots for one size, or shrank: an alarm (H9)."""


# --- states of keys --------------------------------------------------------------------------------------------------


class KeyStateError(QflareError):
    """A key, device or session is not in a state that allows the call."""


class KeyNotFoundError(KeyStateError):
    """No such key, device, session, mapping or token."""


class KeyRevokedError(KeyStateError):
    """The key or device was revoked or suspended."""


class IllegalTransitionError(KeyStateError):
    """The requested change of state is not allowed from the present one."""


class SecondPersonError(KeyStateError):
    """Two operators must want this, and one alone asked for it; the message says how it is proposed."""


class AlreadyExistsError(KeyStateError):
    """A device, tenant or token of that name exists already."""


class EvidenceError(QflareError):
    """
    The audit log does not verify; `index` is the first bad entry where one is known.

    Where only a range is known to hold the first bad entry, `index` is its first entry and `last` its last one.
    """

    def __init__(self, message: str, *, index: int | None = None, last: int | None = None) -> None:
        """Record what does not hold, and the first bad *index* or the range from it to *last*."""
        super().__init__(message)
        self.index = index
        self.last = index if last is None else last


# --- stores ----------------------------------------------------------------------------------------------------------


class StoreError(QflareError):
    """The database or a key store could not do what was asked; `sqlstate` and `constraint` where known."""

    def __init__(self, message: str, *, sqlstate: str | None = None, constraint: str | None = None) -> None:
        """Record the SQLSTATE and the *constraint*; never the row, which PostgreSQL puts into DETAIL."""
        super().__init__(message)
        self.sqlstate = sqlstate
        self.constraint = constraint


class StoreUnavailableError(StoreError):
    """
    The store cannot be reached or did not answer in time; retrying later may help.

    `outcome_unknown` says that what was asked may have been done all the same: the answer was lost.  Asking again with
    the same message, the same keys or the same call id is safe: it is done once (docs/operations.md).
    """

    def __init__(
        self,
        message: str,
        *,
        sqlstate: str | None = None,
        constraint: str | None = None,
        outcome_unknown: bool = False,
    ) -> None:
        """Record whether the change may stand although its answer was lost."""
        super().__init__(message, sqlstate=sqlstate, constraint=constraint)
        self.outcome_unknown = outcome_unknown


class SignerUnavailableError(StoreUnavailableError):
    """The signer of the log's heads does not answer; retrying later may help, and nothing was answered without it."""


class UncoveredError(SignerUnavailableError):
    """
    What was asked is done and durable, but no signed head of the log covers it yet, so that it is not answered.

    It stands exactly once, and the next head that is signed covers it.  Repeated under the same call id, once a head
    can be signed, the call does nothing a second time and succeeds.
    """

    def __init__(self, reason: str, *, call_id: bytes | None = None, remedy: str = "") -> None:
        """Carry the *reason* why none could be signed; *remedy* says what to do where it is not to repeat the call."""
        named = "" if call_id is None else f" with call id {call_id.hex()}"
        then = remedy or f"repeat it{named}, which does nothing twice, or look at what stands"
        super().__init__(
            f"done and durable, but no signed head of the log covers it yet: {reason}; once one can be signed, {then}"
        )
        self.reason = reason


class ConflictError(StoreError):
    """A named constraint refused the change."""


class SchemaMismatchError(StoreError):
    """The database's schema is missing, too old or too new."""


class KeeperError(StoreError):
    """The keeper of the sealing keys cannot be read or written, or a key is gone."""


class SignerRefusedError(KeeperError):
    """The signer of the log's heads will not sign this: the message says why, and what to do."""


class RestoredError(KeeperError):
    """The database is an older copy than the one that was in use, or another; nothing was changed in it."""

    def __init__(self, fact: str) -> None:
        """Carry the *fact* that shows it, and the remedy."""
        super().__init__(
            f"the database is a restored copy: {fact}; if that is meant, accept it with  qflare restore --accept , "
            "which ends every session and says so in the log"
        )
        self.fact = fact


class OverloadedError(StoreError):
    """A bounded queue is full; retry later."""
