"""
Packages of `qflare[demo]`: a missing one is an error that names the extra, at the import and not later.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from qflare.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def demo_package(package: str, *, feature: str = "the demo") -> Iterator[None]:
    """
    Turn a failing import of *package* inside the block into an error that names the remedy.

    Args:
        package: The name pip knows it by, such as ``scikit-learn``.
        feature: What needs it, as the start of the message.

    Raises:
        MissingExtraError: The import in the block found no such package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        # WHY: a broken installation inside the package is another fault; its own message says more than ours.
        if error.name is not None and error.name.split(".")[0] not in {package, _MODULES.get(package)}:
            raise
        raise MissingExtraError(feature=feature, extra="demo", package=package) from None


_MODULES = {"scikit-learn": "sklearn"}
