"""Logs: one line per event on standard error, as JSON or as text."""

from __future__ import annotations

import logging
import sys

import structlog

UNDECODED = "Invalid encoding on"


def configure(log_format: str) -> None:
    """Sets up structlog for the process, and what libraries log from WARNING; `log_format` is `json` or `text`."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    # Its richer tracebacks show local variables, and a token is one.
    text = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer() if log_format == "json" else text
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    # It quotes metadata that it cannot decode, and a token may be one.
    logging.getLogger("grpc._cython.cygrpc").addFilter(lambda record: not record.getMessage().startswith(UNDECODED))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
