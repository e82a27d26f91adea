"""
What the processes of `qflare serve` log, to stderr: lines for people, or one JSON object a line for machines.

Both have the same facts and never more: fields that a caller gave a record beside its message are not written.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Final

from qflare.clock import utc
from qflare.errors import ConfigError
from qflare.service import correlation
from qflare.service.config import is_debug, read_settings

_FORMATS: Final = (None, "text", "json")
_MS: Final = 1000
_NO_ID: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """
    How `qflare serve` logs.

    Raises:
        ConfigError: there is no such format.
    """

    log_format: str | None = None
    """`json` writes one JSON object a line; unset, or `text`, lines for people."""

    def __post_init__(self) -> None:
        """Refuse what there is not."""
        if self.log_format not in _FORMATS:
            raise ConfigError(f"setting log_format is json or text, got {self.log_format!r}")


class TextFormatter(logging.Formatter):
    """Lines for people; those of a request have its id."""

    def __init__(self) -> None:
        """Say when, which process, how grave, who, for whom, what."""
        super().__init__("%(asctime)s %(process)d %(levelname)s %(name)s [%(request)s]: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        record.request = correlation.current() or _NO_ID
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, whatever stands in a message."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        milliseconds = int(record.created * _MS)
        time = utc(milliseconds // _MS).strftime("%Y-%m-%dT%H:%M:%S")
        facts: dict[str, object] = {
            "time": f"{time}.{milliseconds % _MS:03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        request = correlation.current()
        if request is not None:
            facts["request"] = request
        if record.exc_info is not None and record.exc_info[0] is not None:
            facts["error"] = record.exc_info[0].__name__
            # Without the values of variables, which may be secrets.
            facts["traceback"] = self.formatException(record.exc_info)
        return json.dumps(facts, ensure_ascii=True)


def set_up_logging(settings: LogSettings | None = None) -> None:
    """
    Write what happens to stderr, as QFLARE_LOG_FORMAT says; QFLARE_DEBUG shows more.

    Raises:
        ConfigError: there is no such format.
    """
    its = settings or read_settings(LogSettings)
    level = logging.DEBUG if is_debug() else logging.INFO
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if its.log_format == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler])
    # Python's own warnings are lines like all others, not text between them.
    logging.captureWarnings(True)
    # The address line comes from us; what uvicorn says about its own steps is of no use to an operator.
    logging.getLogger("uvicorn").setLevel(level if is_debug() else logging.WARNING)
