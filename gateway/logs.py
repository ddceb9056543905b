"""Logs: one line per event on standard error, as JSON or as text."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping

GRPC = "grpc._cython.cygrpc"

_encode = msgspec.json.Encoder(enc_hook=repr).encode

_log = structlog.get_logger()


def configure(log_format: str) -> None:
    """Sets up structlog for the process, and what libraries log from WARNING; `log_format` is `json` or `text`."""
    line: structlog.typing.Processor
    text: structlog.typing.Processor
    to: Callable[..., object]
    # With standard error closed, Python has none.
    out = sys.stderr or sys.stdout
    if log_format == "json":
        stamps: list[structlog.typing.Processor] = []
        line, text = _json_line, _json_text
        to = structlog.BytesLoggerFactory(file=out.buffer)
    else:
        stamps = [structlog.stdlib.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]
        # Its richer tracebacks show local variables, and a token is one.
        line = text = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
        to = structlog.WriteLoggerFactory(file=out)
    structlog.configure(
        processors=[*stamps, line],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=to,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.addFilter(_without_values)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *stamps],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, text],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _json_line(_: object, level: str, event: MutableMapping[str, Any]) -> bytes:
    # In one go, which takes half as long as structlog's own processors and renderer: there is a line for each call.
    now = datetime.now(UTC)
    event["level"] = level
    event["timestamp"] = now
    try:
        return msgspec.json.format(_encode(event), indent=0)
    except UnicodeEncodeError:
        # A library's exception may hold half a character, which is JSON only where it is escaped.
        event["timestamp"] = now.isoformat().replace("+00:00", "Z")
        return json.dumps(event, default=repr).encode()


def _json_text(logger: object, level: str, event: MutableMapping[str, Any]) -> str:
    return _json_line(logger, level, event).decode()


def unforeseen(_: object, context: Mapping[str, Any]) -> None:
    """What the event loop calls for an exception that nobody waits for, as `loop.set_exception_handler` has it."""
    error = context.get("exception")
    _log.error("something failed that nobody waits for", exception=None if error is None else where(error))


def where(error: BaseException) -> str:
    """The places in the code that an exception passed, and its type: its text may quote anybody."""
    return "".join([*traceback.format_tb(error.__traceback__), type(error).__name__])


def _without_values(record: logging.LogRecord) -> bool:
    # Libraries quote headers and addresses, and a token may be one: what is said is kept, and not of what.
    error = record.exc_info[1] if record.exc_info else None
    if record.name == GRPC:
        # It puts them into the text itself: metadata, and what an exception says.
        record.msg = "an error within grpc"
    record.msg = record.msg if error is None else f"{record.msg}\n{where(error)}"
    record.args = ()
    record.exc_info = record.exc_text = None
    return True
