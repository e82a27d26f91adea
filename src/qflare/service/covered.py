"""
What the calls that change something have in common: no success before a signed head covers it (decision 0082).

A change is committed first, for a revocation takes effect at once and waits for no signer; its answer then waits for a
signed head of the log as it stands.  Where none comes in time the change stands and the answer is `UncoveredError`.
Every public call that writes an entry is declared here, or stands under a receipt of its own; a test lists them all.
"""

from __future__ import annotations

from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

from qflare.errors import QflareError, RestoredError, UncoveredError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from qflare.manager.log import Log


class HasLog(Protocol):
    """Whose calls are declared."""

    async def _log(self) -> Log: ...


Call = TypeVar("Call", bound="Callable[..., Coroutine[Any, Any, Any]]")

HOW: Final = "answered_under"
"""Attribute of a declared call that says how its answer comes under a signed head."""
HEAD: Final = "a head"
TOLD_ONCE: Final = "a head, and a signer that was asked before"

_UNNAMED: Final = "look at what stands before it is repeated: it was given no call id"


def covered(call: Call) -> Call:
    """Have *call* succeed only once a signed head covers what it did."""
    return _declared(call, HEAD)


def covered_many(call: Call) -> Call:
    """As `covered`, for a call with one result or error an item: those that were done get the error."""
    return _declared(call, HEAD, is_many=True)


def told_once(discard: Callable[[Any], None], *, remedy: str, is_many: bool = False) -> Callable[[Call], Call]:
    """
    As `covered`, for a call whose result is a secret that is told once, and which asks for a signer before it begins.

    So nothing is made that nobody may be told.  If the signer is lost in between, the secret is wiped untold.

    Args:
        discard: Wipes a result.
        remedy: How what was made is replaced.
        is_many: Whether there is one result or error an item.
    """
    return lambda call: _declared(call, TOLD_ONCE, discard=discard, remedy=remedy, is_many=is_many)


def leave(_text: str) -> None:
    """Discard a text, which nothing wipes: it is dropped with its last reference."""


def _declared(
    call: Call,
    how: str,
    *,
    discard: Callable[[Any], None] = lambda _: None,
    remedy: str = "",
    is_many: bool = False,
) -> Call:
    takes_call_id = "call_id" in signature(call).parameters

    @wraps(call)
    async def answered(self: HasLog, *args: object, **kwargs: object) -> object:
        result = await call(self, *args, **kwargs)
        given = kwargs.get("call_id")
        # A traceback keeps this frame: on no way out may it hold a secret, the caller's or what was to be told.
        del args, kwargs
        errors = [item if isinstance(item, QflareError) else None for item in (result if is_many else (result,))]
        if is_many and None not in errors:
            return result
        try:
            await (await self._log()).cover()
        except BaseException as failure:
            untold = result if is_many else (result,)
            del result
            for error, item in zip(errors, untold, strict=True):
                if error is None:
                    discard(item)
            del untold, item
            if not isinstance(failure, QflareError) or isinstance(failure, RestoredError):
                raise
            # Of another kind where the manager closed meanwhile, before a head could be waited for.
            reason = failure.reason if isinstance(failure, UncoveredError) else str(failure)
            told = f"{remedy}: its secret was told to nobody" if remedy else ""
            named = bytes(given) if isinstance(given, bytes | bytearray | memoryview) else None
            if takes_call_id and named is None:
                # One that is drawn now would name another change.
                told = told or _UNNAMED
            answer = UncoveredError(reason, call_id=named, remedy=told)
            if not is_many:
                raise answer from None
            return tuple(error or answer for error in errors)
        return result

    setattr(answered, HOW, how)
    return cast("Call", answered)
