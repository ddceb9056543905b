"""Logs: one line per event on standard error, as JSON or as text."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping

GRPC = "grpc._cython.cygrpc"

# Made once, which json.dumps does for each line.
_to_json = json.JSONEncoder(default=repr).encode

_log = structlog.get_logger()


def configure(log_format: str) -> None:
    """Sets up structlog for the process, and what libraries log from WARNING; `log_format` is `json` or `text`."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Its richer tracebacks show local variables, and a token is one.
    text = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    in_json = structlog.processors.JSONRenderer(serializer=lambda event, **_: _to_json(event))
    renderer: structlog.typing.Processor = in_json if log_format == "json" else text
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_without_values)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


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
