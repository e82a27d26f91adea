"""
One PKCS#11 module in this process: one thread makes every call to it, one after the other.

python-pkcs11 is not thread-safe, and a call into a vendor's module cannot be interrupted.  So callers wait for the
thread with a deadline.  A call that hangs keeps the thread: until it returns every further call is refused at once, and
what it returns late is wiped.  If it never returns, only a new process reaches the token again; until then the worker
goes on with what it holds in memory, and refuses what needs the keeper.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import hashlib
import os
import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from qflare.errors import KeeperError, MissingExtraError, QflareError
from qflare.secret import SecretBytes
from qflare.stores.keeper.pin import read_pin

if TYPE_CHECKING:
    from collections.abc import Callable

    from qflare.stores.keeper.address import TokenAddress

T = TypeVar("T")
CALL_TIMEOUT_S: Final = 0.9
"""A clear refusal within a second."""
_FORKED: Final = (
    "the PKCS#11 module was loaded before this process was forked, and must not be used in it: open the manager after "
    "the fork, in each worker"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFacts:
    """What a token says of itself."""

    manufacturer: str
    model: str


@dataclass(slots=True)
class _Opened:
    session: Any
    facts: TokenFacts


class AbsentError(KeeperError):
    """The token shows no key where there must be one: destroyed, or the token went away."""


class Library:
    """A module, its thread and its sessions; made by `open_library`, for the life of the process."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._process_id = os.getpid()
        self._gate = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[concurrent.futures.Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._hanging: concurrent.futures.Future[Any] | None = None
        self._sessions: dict[tuple[str, str | None], _Opened] = {}
        """By token: a process logs in to each once, whatever keys it looks for there."""
        self._is_broken = False
        self._is_kept = False
        self._refused_pins: set[bytes] = set()
        # A daemon: a call that never returns must not keep the process from ending.
        threading.Thread(target=self._run, name="qflare-pkcs11", daemon=True).start()

    @property
    def is_forked(self) -> bool:
        """Whether this process inherited the module by a fork."""
        return os.getpid() != self._process_id

    def call(
        self,
        address: TokenAddress,
        work: Callable[[Any, TokenFacts], T],
        *,
        wipe: Callable[[T], None] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> T:
        """
        Run *work* with an open session of the token, in the module's thread.

        Args:
            address: Which token.
            work: Takes the session and the token's facts; run a second time, with a fresh session, if the first one
                fails in the module, so it looks before it makes anything.
            wipe: Called with a result that came too late; give it for secrets.
            timeout_s: Longest wait, the queue included.

        Raises:
            KeeperError: the token is gone, refuses, or does not answer in time; or this process was forked.
        """
        if self.is_forked:
            raise KeeperError(_FORKED)
        end = time.monotonic() + timeout_s
        # Other callers of this process are in front; nobody waits behind a call that hangs.
        if self._is_hanging() or not self._gate.acquire(timeout=timeout_s):
            raise KeeperError(self._silent())
        try:
            if self._is_hanging():
                raise KeeperError(self._silent())
            job: concurrent.futures.Future[T] = concurrent.futures.Future()
            self._jobs.put((job, lambda: self._attempt(address, work)))
            try:
                return job.result(timeout=max(0.0, end - time.monotonic()))
            except TimeoutError:
                self._hanging = job
                if wipe is not None:
                    job.add_done_callback(lambda late: None if late.exception() is not None else wipe(late.result()))
                raise KeeperError(self._silent()) from None
        finally:
            self._gate.release()

    def _is_hanging(self) -> bool:
        return self._hanging is not None and not self._hanging.done()

    def _silent(self) -> str:
        return (
            f"the HSM behind {self._path} does not answer in time; nothing is sealed without it. If it stays so after "
            "the HSM is well again, restart this worker"
        )

    # --- inside the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            job, work = self._jobs.get()
            try:
                result = work()
            except BaseException as failure:  # noqa: BLE001 - handed to the caller
                job.set_exception(failure)
            else:
                job.set_result(result)
                del result
            del job, work

    def _attempt(self, address: TokenAddress, work: Callable[[Any, TokenFacts], T]) -> T:
        import pkcs11

        failure = ""
        for is_last in (False, True):
            try:
                opened = self._open(address)
                return work(opened.session, opened.facts)
            except AbsentError:
                # A module whose token was taken away may show an empty one for ever: it is asked anew.
                self._is_broken = True
                self._sessions.clear()
                if is_last:
                    raise
            except QflareError:
                raise
            except pkcs11.PKCS11Error as error:
                # What a module says when its token went away differs by vendor: any failure asks for a fresh start.
                failure = type(error).__name__
                self._is_broken = True
                self._sessions.clear()
        raise KeeperError(
            f"the HSM behind {self._path} is gone or refuses ({failure}); nothing is sealed without it. It is asked "
            "again at the next call"
        )

    def _open(self, address: TokenAddress) -> _Opened:
        opened = self._sessions.get((address.token, address.serial))
        if opened is not None:
            return opened
        import pkcs11

        # Loading initializes a module that is not; one that failed begins anew, or it never sees its token again.
        module = pkcs11.lib(self._path)
        if not self._is_kept:
            # Never unloaded, not even when the interpreter ends: a call that hangs is still in its code, and the
            # process would end by SIGSEGV. The token forgets the session with the process.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(module))
            self._is_kept = True
        if self._is_broken:
            module.reinitialize()
            self._is_broken = False
        wanted = {"token_label": address.token}
        if address.serial is not None:
            wanted["token_serial"] = address.serial.encode()  # type: ignore[assignment]
        try:
            token = module.get_token(**wanted)
        except (pkcs11.NoSuchToken, pkcs11.MultipleTokensReturned) as error:
            self._is_broken = True
            raise KeeperError(
                f"the module {self._path} shows {'no' if isinstance(error, pkcs11.NoSuchToken) else 'more than one'} "
                f"token {address.token!r}; nothing is sealed without it"
            ) from None
        facts = TokenFacts(manufacturer=str(token.manufacturer_id), model=str(token.model))
        opened = _Opened(self._log_in(token, address), facts)
        self._sessions[address.token, address.serial] = opened
        return opened

    def _log_in(self, token: Any, address: TokenAddress) -> Any:
        import pkcs11

        with read_pin(address.pin_source) as pin, pin.view() as view:
            # A PIN that was refused is not tried again: tokens lock themselves after a few wrong ones.
            fingerprint = hashlib.sha3_256(b"QFLARE-PIN" + os.fsencode(address.token) + bytes(view)).digest()
            refusal = KeeperError(f"the token {address.token!r} refuses the PIN; correct it in {address.pin_source}")
            if fingerprint in self._refused_pins:
                raise refusal
            try:
                return token.open(rw=True, user_pin=bytes(view).decode())
            except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange, pkcs11.PinLocked, UnicodeDecodeError):
                self._refused_pins.add(fingerprint)
                raise refusal from None


_libraries: dict[str, Library] = {}
_registry = threading.Lock()


def open_library(path: str) -> Library:
    """
    Return this process's only `Library` of a module; the module itself is loaded at the first call.

    Raises:
        MissingExtraError: python-pkcs11 is not installed.
        KeeperError: the module was loaded before this process was forked.
    """
    try:
        import pkcs11  # noqa: F401 - asked for before anything is started
    except ImportError:
        raise MissingExtraError(feature="the PKCS#11 keeper", extra="hsm", package="python-pkcs11") from None
    with _registry:
        held = _libraries.get(path)
        if held is None:
            held = _libraries[path] = Library(path)
    if held.is_forked:
        raise KeeperError(_FORKED)
    return held


def wipe_secret(secret: SecretBytes) -> None:
    """Wipe what came too late."""
    secret.wipe()
