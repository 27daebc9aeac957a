"""Structured logs: one JSON object per line on stderr, without pictures, their names or tokens.

Who has the service in a terminal gets plain lines.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Any

from distill.errors import printable

LOGGER = logging.getLogger("distill.serve")
LEVELS = ("debug", "info", "warning", "error")


class JsonLines(logging.Formatter):
    """A record as a line: time, level, event, what came with it, and an error's traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {
            "time": when.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "process": record.process,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class PlainLines(logging.Formatter):
    """The same for a person who looks on: time, event, and what came with it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and an error's traceback below it."""
        when = datetime.datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        fields = {k: v for k, v in getattr(record, "fields", {}).items() if k != "request_id"}
        told = " ".join(f"{key}={value}" for key, value in fields.items())
        level = "" if record.levelno <= logging.INFO else f"{record.levelname}: "
        line = printable(f"{when} {level}{record.getMessage()} {told}".rstrip())
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def start_logs(level: str) -> None:
    """Sends what this package says to stderr, and the errors of uvicorn; plainly to a terminal."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainLines() if sys.stderr.isatty() else JsonLines())
    for logger, least in ((LOGGER, level.upper()), (logging.getLogger("uvicorn"), "ERROR")):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(least)


def log(level: int, event: str, **fields: Any) -> None:
    """Logs an event with what belongs to it."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, event, extra={"fields": fields})
