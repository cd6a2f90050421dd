"""Logs as lines of JSON on standard error.

Configured once, by the composition root of a process; every module then logs with `logging.getLogger(__name__)` and
passes facts as `extra={...}`.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from contextvars import ContextVar
from typing import Final

request_id: Final[ContextVar[str]] = ContextVar("request_id", default="")
"""Id of the request that the current code serves; empty outside of one. It follows work into tasks and threads."""

_STANDARD_FIELDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRET_WORDS: Final = ("token", "secret", "password", "authorization", "credential", "access_key")


class JSONFormatter(logging.Formatter):
    """One record as one line of JSON.

    Parameters
    ----------
    service
        Name of the process, in every line.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Give the line: the fixed fields first, then what was passed as `extra`; values of secret names are hidden."""
        time = dt.datetime.fromtimestamp(record.created, tz=dt.UTC)
        line: dict[str, object] = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if current := request_id.get():
            line["request_id"] = current
        for key, value in vars(record).items():
            if key not in _STANDARD_FIELDS and key not in line:
                secret = any(word in key.lower() for word in _SECRET_WORDS)
                line[key] = "(hidden)" if secret else value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure(service: str, level: str) -> None:
    """Send all logs of this process to standard error, and Python's warnings with them.

    Parameters
    ----------
    service
        Name of the process, in every line.
    level
        The least level that is written: "debug", "info", "warning" or "error".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
