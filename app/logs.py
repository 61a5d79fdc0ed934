"""How a log line looks: text for a person, or one JSON object a line for a collector.

Both carry the id of the request in which a line was written. What a client sent is in neither, unless
`log_texts` asks for it.
"""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import orjson

Format = Literal["text", "json"]

REQUEST_ID: ContextVar[str | None] = ContextVar("bertpress_request_id", default=None)
"""Set by the edge in the task of each request; never reset, because the task ends with the request."""


TEXTS = logging.getLogger("bertpress.texts")
"""What clients ask about. Silent unless `configure` is told otherwise."""
TEXTS.disabled = True


def configure(level: str, form: Format, stream: TextIO, *, log_texts: bool = False) -> None:
    """Send every line, Python's warnings too, to one stream; where the root logger has handlers, to those."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(True)
    TEXTS.disabled = not log_texts


def fields(**values: Any) -> dict[str, Any]:
    """`extra=fields(...)`: values that a line carries beside its message."""
    return {"bertpress_fields": values}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message; request_id and fields where there are any."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_request_id(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        try:
            return orjson.dumps(line, default=str).decode()
        except orjson.JSONEncodeError:  # half a surrogate pair, as in the name of a file that is not UTF-8
            return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, logger, message, then name=value."""

    def __init__(self) -> None:
        super().__init__("%(bertpress_time)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """The line as far as the fields; a traceback follows below it."""
        record.bertpress_time = _time(record)
        pairs = {**_request_id(), **_fields(record)}
        return " ".join([super().formatMessage(record), *(f"{name}={pairs[name]}" for name in pairs)])


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _request_id() -> dict[str, str]:
    # Handlers run in the thread and task that logged, so this is the request's own.
    request_id = REQUEST_ID.get()
    return {"request_id": request_id} if request_id is not None else {}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = getattr(record, "bertpress_fields", {})
    return found
