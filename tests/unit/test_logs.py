from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from offshelf import logs


class Log:
    """A logger of its own, apart from the one of the test run, and what it wrote."""

    def __init__(self) -> None:
        self._written = io.StringIO()
        handler = logging.StreamHandler(self._written)
        handler.setFormatter(logs.JSONFormatter("echo"))
        self.logger = logging.Logger("offshelf.somewhere")  # noqa: LOG001  # not in the tree of loggers, on purpose
        self.logger.addHandler(handler)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines written so far."""
        return [json.loads(line) for line in self._written.getvalue().splitlines()]


@pytest.fixture
def log() -> Log:
    """Make a logger that writes as a service does."""
    return Log()


def test_a_line_says_when_who_and_what(log: Log) -> None:
    """An operator reads one line of JSON an event, with time, level, service, module and the facts."""
    log.logger.info("a unit of %d images", 7, extra={"unit": "u-1", "seconds": 1.5})
    (line,) = log.lines
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "service": "echo",
        "logger": "offshelf.somewhere",
        "message": "a unit of 7 images",
        "unit": "u-1",
        "seconds": 1.5,
    }


def test_the_request_id_is_in_the_lines_of_its_request(log: Log) -> None:
    """All lines of one request are found by its id."""
    token = logs.request_id.set("abc-1")
    log.logger.warning("inside")
    logs.request_id.reset(token)
    log.logger.warning("outside")
    inside, outside = log.lines
    assert inside["request_id"] == "abc-1"
    assert "request_id" not in outside


def test_secrets_are_hidden(log: Log) -> None:
    """A token that slips into the facts of an event is not written."""
    log.logger.info("started", extra={"token": "t0ps3cret", "S3_SECRET_KEY": "t0ps3cret", "port": 1})
    (line,) = log.lines
    assert line["token"] == line["S3_SECRET_KEY"] == "(hidden)"
    assert line["port"] == 1


def test_an_exception_stays_in_one_line(log: Log) -> None:
    """A traceback is part of its event, not lines of its own."""
    error = ValueError("two\nlines")
    log.logger.error("failed", exc_info=error)
    (line,) = log.lines
    assert "ValueError: two\nlines" in line["exception"]


def test_facts_that_json_does_not_know_are_written_as_text(log: Log) -> None:
    """An event with a path or an exception among its facts is written all the same."""
    log.logger.info("odd", extra={"fact": ValueError("why")})
    assert log.lines[0]["fact"] == "why"


def test_a_configured_process_logs_to_standard_error_from_its_level_on() -> None:
    """A service writes nothing but JSON to standard error, warnings of libraries too, and details only when asked."""
    program = (
        "import logging, warnings; from offshelf import logs; logs.configure('echo', 'info');"
        "logging.getLogger('a').debug('a detail'); logging.getLogger('b').info('an event'); warnings.warn('old')"
    )
    done = subprocess.run([sys.executable, "-W", "always", "-c", program], check=True, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.stdout == ""
    assert [line["logger"] for line in lines] == ["b", "py.warnings"]
