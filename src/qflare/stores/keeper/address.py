"""
How a keeper is named in a setting: ``file:``, or a PKCS#11 URI (RFC 7512) that says which token and where its PIN is.

``pkcs11:token=qflare;object=fleet-1?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/qflare/pin``

The PIN itself is never part of it: settings are shown, copied and inherited.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from qflare.errors import ConfigError

FILE: Final = "file:"
PKCS11: Final = "pkcs11:"
_PATH_NAMES: Final = frozenset({"token", "serial", "object"})
_QUERY_NAMES: Final = frozenset({"module-path", "pin-source"})
_OBJECT_BYTES_MAX: Final = 64
_EXAMPLE: Final = "pkcs11:token=NAME?module-path=/usr/lib/…/module.so&pin-source=file:/path/of/the/pin"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenAddress:
    """One token behind one PKCS#11 module; holds no secret."""

    module_path: str
    """The vendor's library."""
    token: str
    """The token's label."""
    serial: str | None
    """Its serial number, where labels are not unique."""
    object_name: str
    """What the labels of our keys begin with."""
    pin_source: str
    """``file:/path``, or ``fd:N`` for a descriptor that this process inherited."""


def is_pkcs11(keeper: str | None) -> bool:
    """
    Tell which keeper a setting names.

    Raises:
        ConfigError: it names neither.
    """
    if keeper is None or keeper == FILE:
        return False
    if keeper.startswith(PKCS11):
        return True
    scheme = keeper.partition(":")[0][:32]
    raise ConfigError(f"setting keeper must be {FILE!r} or a PKCS#11 URI such as {_EXAMPLE}, got one of {scheme!r}")


def parse_address(uri: str) -> TokenAddress:
    """
    Read a PKCS#11 URI.

    Raises:
        ConfigError: a part is missing, unknown, repeated or empty; values are not repeated in the message, for a PIN
            may be among them.
    """
    path, _, query = uri.removeprefix(PKCS11).partition("?")
    # A PIN in the setting is refused by name, before anything could be done with it.
    if "pin-value" in {pair.partition("=")[0].strip() for pair in query.split("&")}:
        raise ConfigError("setting keeper must not hold the PIN: name a file of mode 600 as pin-source")
    values = _pairs(path, ";", _PATH_NAMES) | _pairs(query, "&", _QUERY_NAMES)
    for name in ("token", "module-path", "pin-source"):
        if name not in values:
            raise ConfigError(f"setting keeper lacks {name}=…; write it like {_EXAMPLE}")
    object_name = values.get("object", "qflare")
    if len(object_name.encode()) > _OBJECT_BYTES_MAX or "/" in object_name:
        raise ConfigError(f"setting keeper: object=… is at most {_OBJECT_BYTES_MAX} bytes without '/'")
    if not values["module-path"].startswith("/"):
        raise ConfigError("setting keeper: module-path=… must be an absolute path")
    source = values["pin-source"]
    if source.startswith("/"):
        source = f"file:{source}"
    kind, _, rest = source.partition(":")
    if not (kind == "file" and rest.startswith("/")) and not (kind == "fd" and rest.isascii() and rest.isdecimal()):
        raise ConfigError("setting keeper: pin-source=… must be file:/path/of/a/file or fd:N")
    return TokenAddress(
        module_path=values["module-path"],
        token=values["token"],
        serial=values.get("serial"),
        object_name=object_name,
        pin_source=source,
    )


def _pairs(text: str, separator: str, known: frozenset[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in filter(None, text.split(separator)):
        name, equals, value = pair.partition("=")
        if name not in known:
            raise ConfigError(
                f"setting keeper: a part of the PKCS#11 URI is not understood; known are {', '.join(sorted(known))}"
            )
        if name in found or not equals or not value:
            raise ConfigError(f"setting keeper: {name}=… must stand once and have a value")
        try:
            found[name] = unquote_to_bytes(value).decode()
        except UnicodeDecodeError:
            raise ConfigError(f"setting keeper: {name}=… is not UTF-8") from None
    return found
