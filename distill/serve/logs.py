"""Structured logs: one JSON object per line on stderr, without pictures, their names or tokens."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Any

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


def start_logs(level: str) -> None:
    """Sends what this package says to stderr, and the errors of uvicorn."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for logger, least in ((LOGGER, level.upper()), (logging.getLogger("uvicorn"), "ERROR")):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(least)


def log(level: int, event: str, **fields: Any) -> None:
    """Logs an event with what belongs to it."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, event, extra={"fields": fields})
