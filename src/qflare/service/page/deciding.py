"""
One response of the page, and what an operator decides about it: with their secret again, not by the login alone.

A login lasts for hours and a screen may be left; a response may shut a device out for good.  So who confirms, refuses
or undoes one proves anew who they are, as on the command line, and two persons are two secrets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.clock import utc
from qflare.errors import KeyNotFoundError
from qflare.model.response import REASON_BYTES_MAX, REVERSIBLE, ResponseState
from qflare.service.markup import Markup, element, joined
from qflare.service.page.exchange import RequestError
from qflare.service.page.items import response_address, response_item
from qflare.service.page.lists import ID_FIELD, identifier, one_line
from qflare.service.page.views import SECRET_FIELD, TOKEN_FIELD, listing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from qflare.model.response import Response
    from qflare.service.page.logins import Logins
    from qflare.service.page.look import Look
    from qflare.service.page.visits import Visit

ACT_FIELD: Final = "act"
REASON_FIELD: Final = "reason"
CONFIRM: Final = "confirm"
DISMISS: Final = "dismiss"
UNDO: Final = "undo"
_NAMES: Final = {CONFIRM: "Confirm", DISMISS: "Refuse", UNDO: "Undo"}


async def response(visit: Visit, look: Look, query: Mapping[str, str], *, problem: str | None = None) -> bytes:
    """
    Return one response, with what the operator may decide about it; *problem* says why the last was not done.

    Raises:
        RequestError: the tenant has none of that id.
    """
    found = await _find(look, query)
    now = utc((await look._engine()).foundation.clock.now_s())  # noqa: SLF001 - as the look itself
    content = joined(
        element("p", problem, class_="verdict bad", role="alert", id="problem") if problem else "",
        element("ol", response_item(found, now=now), class_="list"),
        _form(found, visit, now, has_problem=problem is not None),
    )
    title = f"Response: {found.action.value}"
    return listing(visit, tenant=await look.name(), place="/responses", title=title, content=content)


async def decide(visit: Visit, look: Look, logins: Logins, fields: Mapping[str, str]) -> str:
    """
    Do what a response's form says in the name of the visit's operator, and return where it is shown.

    Raises:
        ConflictError: what it did was changed since, or the bounds do not allow it now.
        IllegalTransitionError: it is over, or the device is in no state for it.
        RequestError: the secret is wrong, the form is not one of ours, or the tenant has none of that id.
        UsageError: the operator wants it already, and another is needed.
    """
    found, act = await _find(look, fields), fields.get(ACT_FIELD, "")
    if act not in _NAMES:
        raise RequestError(400, "the form does not say what to do")
    reason = one_line(fields.get(REASON_FIELD, ""), name="a reason")
    if act != CONFIRM and not reason:
        raise RequestError(409, "say why: the log keeps it with your name")
    await logins.require_secret(visit, fields.get(SECRET_FIELD, ""))
    if act == CONFIRM:
        await look.manager.confirm_response(found.response_id, by=visit.name)
    elif act == DISMISS:
        await look.manager.dismiss_response(found.response_id, by=visit.name, reason=reason)
    else:
        await look.manager.undo_response(found.response_id, by=visit.name, reason=reason)
    return response_address(found.response_id)


async def _find(look: Look, fields: Mapping[str, str]) -> Response:
    response_id = identifier(fields, ID_FIELD)
    try:
        if response_id is not None:
            return await look.manager.find_response(response_id)
    except KeyNotFoundError:
        pass
    raise RequestError(404, "there is no such response")


def _acts(found: Response, now: datetime) -> tuple[str, ...]:
    if found.state is ResponseState.PROPOSED and found.expires_at > now:
        return CONFIRM, DISMISS
    if found.state is ResponseState.APPLIED and found.action in REVERSIBLE:
        return (UNDO,)
    return ()


def _form(found: Response, visit: Visit, now: datetime, *, has_problem: bool) -> Markup:
    acts = _acts(found, now)
    if not acts:
        return element("p", "There is nothing to decide about it.", class_="soft")
    why = "Why, if you refuse it" if DISMISS in acts else "Why"
    return element(
        "form",
        element("input", type="hidden", name=TOKEN_FIELD, value=visit.form_token),
        element("input", type="hidden", name=ID_FIELD, value=found.response_id.hex()),
        element("label", why, for_="reason"),
        element(
            "input",
            id="reason",
            name=REASON_FIELD,
            maxlength=REASON_BYTES_MAX,
            autocomplete="off",
            aria_describedby="problem" if has_problem else None,
        ),
        element("label", f"The secret of {visit.name}, again", for_="secret"),
        element(
            "input",
            id="secret",
            name=SECRET_FIELD,
            type="password",
            autocomplete="current-password",
            maxlength=256,
            required="",
            aria_describedby="problem" if has_problem else None,
        ),
        element(
            "p",
            *[
                element(
                    "button",
                    _NAMES[act],
                    type="submit",
                    name=ACT_FIELD,
                    value=act,
                    class_="quiet" if act == DISMISS else None,
                )
                for act in acts
            ],
            class_="acts",
        ),
        method="post",
        action="/response",
        class_="login",
    )
