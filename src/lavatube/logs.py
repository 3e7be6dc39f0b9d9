"""The log of a process: one event a line on stderr, as text for people or as JSON for what collects it."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

Source = Literal["front", "weights", "engine"]


def log_to_stderr(level: str, form: str, source: Source) -> logging.Handler:
    """`form` is text or json. Whoever calls may put a filter on the handler that knows more of a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(source) if form == "json" else _text(source))
    logging.basicConfig(handlers=[handler], level=level.upper())
    return handler


def _text(source: Source) -> logging.Formatter:
    where = "%(request_id)s" if source == "front" else f"{source}:"
    return logging.Formatter(f"%(asctime)s %(levelname)s {where} %(message)s", defaults={"request_id": "-"})


class JsonLines(logging.Formatter):
    """An object a line; what a caller gave as `extra={"facts": {…}}` stands beside the message."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "source": self._source,
            "request_id": getattr(record, "request_id", "-"),
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
