"""The two documents: the login and the page itself; every word of them is rendered here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.service import correlation
from qflare.service.markup import Markup, element, joined

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qflare.service.page.visits import Visit

_COLUMNS: Final = (
    (("incidents", "Incidents"), ("responses", "Responses"), ("warnings", "Newest warnings")),
    (("fleet", "Fleet"), ("handshakes", "Handshakes"), ("buckets", "Buckets")),
)
"""Beside each other where there is room, below each other where there is not."""
_PLACES: Final = (
    ("/", "Overview"),
    ("/devices", "Devices"),
    ("/incidents", "Incidents"),
    ("/responses", "Responses"),
)
_SKIP: Final = element("a", "To the content", href="#main", class_="skip")
_BELOW: Final = (("events", "Newest events"),)
_MORE: Final = {
    "incidents": ("All incidents", "/incidents"),
    "responses": ("All responses", "/responses"),
    "fleet": ("All devices, and search", "/devices"),
}
"""Where the list is that a part shows the beginning of."""
NAME_FIELD: Final = "name"
SECRET_FIELD: Final = "secret"  # noqa: S105 - a form field's name
TOKEN_FIELD: Final = "token"  # noqa: S105


def login(*, token: str, problem: str | None = None, name: str = "") -> bytes:
    """Return the login form; *problem* says why the last one was not taken."""
    form = element(
        "form",
        element("p", problem, class_="verdict bad", role="alert", id="problem") if problem else "",
        element("input", type="hidden", name=TOKEN_FIELD, value=token),
        element("label", "Operator", for_="name"),
        element(
            "input",
            id="name",
            name=NAME_FIELD,
            value=name,
            autocomplete="username",
            autocapitalize="none",
            spellcheck="false",
            maxlength=255,
            required="",
            autofocus="",
            aria_describedby="problem" if problem else None,
        ),
        element("label", "Secret", for_="secret"),
        element(
            "input",
            id="secret",
            name=SECRET_FIELD,
            type="password",
            autocomplete="current-password",
            maxlength=256,
            required="",
            aria_describedby="hint",
        ),
        element("p", "As ", element("code", "qflare operator add"), " printed it, once.", class_="soft", id="hint"),
        element("button", "Log in", type="submit"),
        method="post",
        action="/login",
        class_="login",
    )
    return _document("QFLARE: log in", element("main", element("h1", "QFLARE"), form, id="main"), is_live=False)


def page(visit: Visit, *, tenant: str, parts: Mapping[str, Markup], mark: str) -> bytes:
    """Return the page with its parts as they are now; the script asks for what comes after *mark*."""
    main = element(
        "main",
        element(
            "noscript",
            element("p", "Without JavaScript this page shows how things were when it was loaded: reload it."),
        ),
        element("div", parts["status"], id="part-status"),
        element(
            "div",
            *[element("div", *[_section(*each, parts) for each in column]) for column in _COLUMNS],
            class_="columns",
        ),
        *[_section(*each, parts) for each in _BELOW],
        _log(parts["log"]),
        id="main",
        tabindex="-1",
        data_mark=mark,
    )
    live = element("p", "Connecting…", id="live", class_="soft")
    said = element("p", id="said", class_="unseen", role="status", aria_live="polite")
    body = joined(_SKIP, _header(visit, tenant, place="/", under=live), main, said)
    return _document(f"QFLARE: {tenant}", body, is_live=True)


def listing(visit: Visit, *, tenant: str, place: str, title: str, content: Markup) -> bytes:
    """Return a document that stands still, such as a page of a list; *place* is the address of its kind."""
    main = element("main", element("h2", title, class_="title"), content, id="main", tabindex="-1")
    body = joined(_SKIP, _header(visit, tenant, place=place), main)
    return _document(f"QFLARE: {tenant}, {title.lower()}", body, is_live=False)


def _header(visit: Visit, tenant: str, *, place: str, under: Markup | None = None) -> Markup:
    """Return whose page it is, the ways to its documents, who looks, and the way out."""
    ways = [
        element("li", element("a", name, href=path, aria_current="page" if path == place else None))
        for path, name in _PLACES
    ]
    return element(
        "header",
        element("div", element("p", "QFLARE", class_="eyebrow"), element("h1", tenant, class_="name"), under or ""),
        element(
            "form",
            element("input", type="hidden", name=TOKEN_FIELD, value=visit.form_token),
            element("span", visit.name, class_="name"),
            " ",
            element("button", "Log out", type="submit"),
            method="post",
            action="/logout",
            class_="logout",
        ),
        element("nav", element("ul", *ways), class_="places", aria_label="Places"),
    )


def failed(text: str) -> bytes:
    """Return a page that says what does not work, and under which id the server's log has it."""
    request = correlation.current()
    main = element(
        "main",
        element("h1", "QFLARE"),
        element("p", text, class_="verdict bad", role="alert"),
        element("p", "Request id ", element("code", request), class_="soft") if request else "",
        id="main",
    )
    return _document("QFLARE", main, is_live=False)


def _section(name: str, title: str, parts: Mapping[str, Markup]) -> Markup:
    return element(
        "section",
        element("h2", title, id=f"title-{name}"),
        element("div", parts[name], id=f"part-{name}"),
        # Outside of the part, which is replaced: whoever is on it keeps their place.
        element("p", element("a", _MORE[name][0], href=_MORE[name][1])) if name in _MORE else "",
        aria_labelledby=f"title-{name}",
    )


def _log(part: Markup) -> Markup:
    """Return the log's head, the button that checks it, and what that does not check."""
    return element(
        "section",
        element("h2", "Log", id="title-log"),
        element("div", part, id="part-log"),
        element("p", element("button", "Verify in this browser", type="button", id="verify", disabled="")),
        element("p", id="verdict", class_="verdict", role="status", aria_live="polite"),
        element("ol", id="steps", class_="steps"),
        element("h3", "What the button checks, and what not"),
        element(
            "p",
            "Checked in this browser, with SHA-256 alone: that each of the warnings and events shown above leads to "
            "the root of the newest signed head, and that this head continues the one this browser saw before.",
        ),
        element(
            "p",
            element("strong", "Not checked: the head's signature. "),
            "It is ML-DSA-44, which browsers do not have. Nor does the button protect against this server itself, "
            "which serves the script that checks. Both are done from another machine, with the public key alone: ",
            element("code", "qflare audit verify"),
            ".",
        ),
        aria_labelledby="title-log",
    )


def _document(title: str, body: Markup, *, is_live: bool) -> bytes:
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("link", rel="icon", href="/icon.svg", type="image/svg+xml"),
        element("link", rel="stylesheet", href="/page.css"),
        element("script", src="/page.js", type="module") if is_live else "",
    )
    return ("<!DOCTYPE html>\n" + element("html", head, element("body", body), lang="en") + "\n").encode()
