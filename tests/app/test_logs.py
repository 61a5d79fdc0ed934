from __future__ import annotations

import contextvars
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator

import pytest

from app import logs

log = logging.getLogger("bertpress.test")


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    """`configure` changes the process: put it back."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    logging.captureWarnings(False)
    root.setLevel(level)
    root.handlers[:] = handlers


def written(form: logs.Format, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    logging.getLogger().handlers.clear()  # pytest's own
    logs.configure(level, form, stream)
    return stream


def test_a_json_line_says_what_when_and_who() -> None:
    stream = written("json")
    log.info("loaded %s", "tiny/1")
    line = json.loads(stream.getvalue())
    assert line.keys() == {"time", "level", "logger", "message"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert (line["level"], line["logger"], line["message"]) == ("info", "bertpress.test", "loaded tiny/1")


def test_fields_stand_beside_the_message() -> None:
    stream = written("json")
    log.info("answered", extra=logs.fields(status=200, duration_ms=1.5, odd=object))
    line = json.loads(stream.getvalue())
    assert (line["status"], line["duration_ms"], line["odd"]) == (200, 1.5, "<class 'object'>")


@pytest.mark.parametrize("form", ["json", "text"])
def test_lines_of_a_request_carry_its_id_and_others_none(form: logs.Format) -> None:
    stream = written(form)

    def request() -> None:
        logs.REQUEST_ID.set("abc-1")
        log.info("inside")

    contextvars.copy_context().run(request)
    log.info("outside")
    inside, outside = stream.getvalue().splitlines()
    assert "abc-1" in inside
    assert "request_id" not in outside


def test_an_exception_is_one_json_line() -> None:
    stream = written("json")
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        log.exception("failed", stack_info=True)
    (line,) = stream.getvalue().splitlines()
    assert "ZeroDivisionError: division by zero" in json.loads(line)["exception"]
    assert "test_an_exception" in json.loads(line)["stack"]


def test_a_line_break_in_a_message_stays_in_its_json_line() -> None:
    stream = written("json")
    log.info("a\nb")
    assert len(stream.getvalue().splitlines()) == 1


def test_what_is_not_utf8_is_a_line_too() -> None:
    stream = written("json")
    log.info("cannot read %s", "models/\udcff")
    assert json.loads(stream.getvalue())["message"] == "cannot read models/\udcff"


def test_text_reads_from_left_to_right() -> None:
    stream = written("text")
    log.warning("slow", extra=logs.fields(status=200))
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        log.exception("failed", extra=logs.fields(step=3))
    first, second, *rest = stream.getvalue().splitlines()
    assert re.fullmatch(r"\S+Z WARNING bertpress.test slow status=200", first)
    assert second.endswith("ERROR bertpress.test failed step=3")
    assert rest[0].startswith("Traceback") and rest[-1] == "ZeroDivisionError: division by zero"


def test_less_than_the_level_is_silent() -> None:
    stream = written("text", "error")
    log.info("quiet")
    log.error("loud")
    assert len(stream.getvalue().splitlines()) == 1


def test_warnings_are_lines_too() -> None:
    stream = written("json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)  # catch_warnings put Python's own printer back
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    line = json.loads(stream.getvalue())
    assert line["logger"] == "py.warnings"
    assert "DeprecationWarning: old" in line["message"]


def test_handlers_that_are_there_are_left_alone() -> None:
    old, new = written("text"), io.StringIO()
    logs.configure("info", "text", new)
    log.info("once")
    assert (old.getvalue().count("once"), new.getvalue()) == (1, "")
