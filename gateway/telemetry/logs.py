"""Logs: one line per event on standard error, as JSON or as text.

A thread writes the lines (`telemetry/log_writer.py`), so that nothing waits for a slow or missing reader.
"""

from __future__ import annotations

import atexit
import io
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec
import structlog

import gateway
from gateway.telemetry.log_writer import LineWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence
    from types import TracebackType

GRPC = "grpc._cython.cygrpc"
JSON, TEXT = "json", "text"
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
STANDARD_ERROR = 2
# The width of a terminal that does not know its own.
DEFAULT_COLUMNS = 80
# Peers without a credential can cause these lines, so at most one per kind and minute is written.
SELDOM_SECONDS = 60.0
MAX_KINDS = 256
LAST_LINE_SECONDS = 1.0

# Limits for text that libraries write to standard error: characters of a line, and lines of a traceback.
MAX_LINE_CHARACTERS = 1_000
MAX_PLACES = 100

# With a separator, so that a package whose name starts with this one does not match.
_PACKAGE = f"{Path(gateway.__file__).parent}{os.sep}"

_encode = msgspec.json.Encoder(enc_hook=repr).encode

_log = structlog.get_logger()

_writer: LineWriter | None = None
_fd = STANDARD_ERROR


def on_terminal() -> bool:
    """Return whether a person reads standard error."""
    return os.isatty(_fd)


def columns() -> int:
    """Return the width of the terminal at standard error."""
    return os.get_terminal_size(_fd).columns or DEFAULT_COLUMNS


def colours() -> bool:
    """Return whether standard error shows colours: a terminal does, unless `NO_COLOR` is set."""
    return on_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def default_format() -> str:
    """Return the format of a process without a setting: `text` on a terminal, else `json`."""
    return TEXT if on_terminal() else JSON


def configure(log_format: str | None = None, level: str = "info", fd: int = STANDARD_ERROR) -> None:
    """Send all logs of the process to standard error, and those of libraries from WARNING.

    Args:
        log_format: `json` or `text`; None selects the one for standard error.
        level: The lowest level that is written: `debug`, `info`, `warning` or `error`.
        fd: The file descriptor of standard error.
    """
    global _writer, _fd
    _fd = fd
    line: structlog.typing.Processor
    text: structlog.typing.Processor
    lowest = LEVELS[level]
    if (log_format or default_format()) == JSON:
        stamps: list[structlog.typing.Processor] = []
        line, text = _json_line, _json_text
    else:
        stamps = [structlog.stdlib.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]
        # The default tracebacks show local variables, such as tokens.
        console = structlog.dev.ConsoleRenderer(colors=colours(), exception_formatter=structlog.dev.plain_traceback)
        line, text = _encoded(console), console

    def notice(lost: int) -> bytes:
        event: MutableMapping[str, Any] = {"event": "log.lines_lost", "lines": lost}
        for stamp in stamps:
            event = stamp(None, "warning", event)  # type: ignore[assignment] # a mapping, as it was
        return bytes(line(None, "warning", event)) + b"\n"  # type: ignore[arg-type] # of bytes

    writer = _writer = LineWriter(fd, notice)
    structlog.configure(
        processors=[_seldom(), *stamps, line],
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        logger_factory=lambda *_: _Logger(writer),
        cache_logger_on_first_use=True,
    )
    handler = _Handler(writer)
    handler.addFilter(_Library(lowest))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder(["repeated"]), *stamps],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, text],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    atexit.register(flush, LAST_LINE_SECONDS)


def take_over() -> None:
    """Log everything that Python and its libraries would write to standard error themselves.

    These are warnings, and exceptions of threads, finalizers and the process. Writing them directly could block or
    fail. Call it after `configure`.
    """
    logging.captureWarnings(capture=True)
    sys.stderr = _StandardError()
    sys.excepthook = _log_process_error
    threading.excepthook = _log_thread_error
    sys.unraisablehook = _log_finalizer_error


def lost_lines() -> int:
    """Return the number of log lines that could not be written since the start."""
    return _writer.lost if _writer else 0


def start_failed(problems: Sequence[str], log_format: str | None = None) -> None:
    """Write a line for each problem that prevents the start, and wait for at most a second until they are written."""
    # The log may not be configured yet, and standard error may be blocked or full.
    writer = _writer or LineWriter(STANDARD_ERROR, lambda _: b"")
    for problem in problems:
        if (log_format or default_format()) == JSON:
            line = _json_line(None, "error", {"event": "start.failed", "message": problem})
        else:
            line = problem.encode(errors="backslashreplace")
        writer.write(line + b"\n")
    writer.flush(LAST_LINE_SECONDS)


def show(text: str) -> None:
    """Write text to standard error as it is, if the log is configured."""
    if _writer:
        _writer.write(text.encode(errors="backslashreplace"))


def flush(timeout: float) -> None:
    """Wait at most `timeout` seconds until all lines are written."""
    if _writer:
        _writer.flush(timeout)


class _Logger:
    """The end of structlog's chain: it accepts encoded lines of every level."""

    __slots__ = ("_write",)

    def __init__(self, writer: LineWriter) -> None:
        self._write = writer.write

    def msg(self, line: bytes) -> None:
        self._write(line + b"\n")

    debug = info = warning = error = critical = exception = msg


class _Handler(logging.Handler):
    """Writes the lines of libraries."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - the record of a library must not cause an error here
            line = json.dumps({"event": "library.line_unreadable", "exception": type(error).__name__})
        self._writer.write(line.encode(errors="replace") + b"\n")


class _StandardError(io.TextIOBase, TextIO):
    """`sys.stderr` for libraries that write there themselves, as grpc does with tracebacks.

    The text may quote clients and the upstream, so only the places of a traceback and the type of its exception are
    logged.
    """

    encoding = "utf-8"

    def __init__(self) -> None:
        super().__init__()
        self._rest = ""
        self._places: deque[str] = deque(maxlen=MAX_PLACES)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return _fd

    def write(self, text: str) -> int:
        first, *more = text.split("\n")
        self._rest += first[: MAX_LINE_CHARACTERS - len(self._rest)]
        for line in more:
            self._line(self._rest)
            self._rest = line[:MAX_LINE_CHARACTERS]
        return len(text)

    def _line(self, line: str) -> None:
        if line.startswith('  File "'):
            self._places.append(line)
        elif line[:1].strip() and not line.startswith("Traceback "):
            kind = line.partition(":")[0] if self._places else None
            exception = "\n".join([*self._places, kind]) if kind else None
            self._places.clear()
            _log.warning("library.stderr", exception=exception, seldom=True)


class _Library(logging.Filter):
    """Removes values from lines of libraries, and lets one warning per kind and minute pass.

    `repeated` is the number of lines of the kind that were left out before.
    """

    def __init__(self, lowest: int) -> None:
        super().__init__()
        self._lowest = lowest
        self._kinds = _Kinds()

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        # An error that passed the gateway's code is its defect, unless grpc logs it: handlers raise none.
        is_defect = error is not None and record.name != GRPC and passed_gateway(error)
        _remove_values(record, error)
        if is_defect:
            return True
        record.levelno = min(record.levelno, logging.WARNING)
        record.levelname = logging.getLevelName(record.levelno)
        if record.levelno < self._lowest:
            return False
        left_out = self._kinds.left_out(f"{record.name} {record.msg}")
        if left_out:
            record.repeated = left_out
        return left_out is not None


class _Kinds:
    """Kinds of lines that were written in the last minute. Thread-safe."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._left_out: dict[str, int] = {}
        # Reentrant, because a finalizer may log while this thread is in `left_out`.
        self._mutex = threading.RLock()

    def left_out(self, kind: str) -> int | None:
        """Return how many lines of this kind were left out before this one, or None if this one is to be left out."""
        now = time.monotonic()
        with self._mutex:
            if kind not in self._until:
                # Kinds are places in code, but a library may put a value into its text.
                self._remove_old(now)
                kind = kind if len(self._until) < MAX_KINDS else "another"
            if now < self._until.get(kind, now):
                self._left_out[kind] += 1
                return None
            self._until[kind] = now + SELDOM_SECONDS
            left_out = self._left_out.get(kind, 0)
            self._left_out[kind] = 0
            return left_out

    def _remove_old(self, now: float) -> None:
        if len(self._until) >= MAX_KINDS:
            # A copy, because a finalizer may add a kind.
            for kind, until in list(self._until.items()):
                if until <= now:
                    self._until.pop(kind, None)
                    self._left_out.pop(kind, None)


def _seldom() -> structlog.typing.Processor:
    """Return a processor that lets one line with `seldom=True` pass per kind and minute.

    Lines with the same event, `reason` and `exception` are of one kind.
    """
    kinds = _Kinds()

    def pass_on(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if "seldom" in event:
            del event["seldom"]
            left_out = kinds.left_out(f"{event['event']} {event.get('reason')} {event.get('exception')}")
            if left_out is None:
                raise structlog.DropEvent
            if left_out:
                event["repeated"] = left_out
        return event

    return pass_on


def _encoded(console: structlog.typing.Processor) -> structlog.typing.Processor:
    def line(logger: Any, level: str, event: MutableMapping[str, Any]) -> bytes:
        # Like Python's standard error, because the text may hold a lone surrogate.
        return str(console(logger, level, event)).encode(errors="backslashreplace")

    return line


def _json_line(_: object, level: str, event: MutableMapping[str, Any]) -> bytes:
    # This takes half as long as structlog's processors and renderer, and each call writes a line.
    now = datetime.now(UTC)
    line = {"event": event["event"], "level": level, "timestamp": now, **event}
    try:
        return msgspec.json.format(_encode(line), indent=0)
    except UnicodeEncodeError:
        # The exception of a library may hold a lone surrogate, which JSON must escape.
        line["timestamp"] = now.isoformat().replace("+00:00", "Z")
        return json.dumps(line, default=repr).encode()


def _json_text(logger: object, level: str, event: MutableMapping[str, Any]) -> str:
    return _json_line(logger, level, event).decode()


def log_unhandled(_: object, context: Mapping[str, Any]) -> None:
    """Log an exception of a task that no one awaits; a handler for `loop.set_exception_handler`."""
    _log_defect(context.get("exception"))


def _log_process_error(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
    _log.error("process.defect", exception=traceback_of(error))


def _log_thread_error(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        _log_defect(args.exc_value)


def _log_finalizer_error(args: sys.UnraisableHookArgs) -> None:
    _log_defect(args.exc_value)


def _log_defect(error: BaseException | None) -> None:
    exception = None if error is None else traceback_of(error)
    if error is None or passed_gateway(error):
        _log.error("task.defect", exception=exception)
    else:
        # The failure is a library's own, and a peer without a credential may cause it.
        _log.warning("task.defect", exception=exception, seldom=True)


def traceback_of(error: BaseException) -> str:
    """Return the traceback and the type of an exception, without its text, which may quote clients or the upstream."""
    return "".join([*traceback.format_tb(error.__traceback__), type(error).__name__])


def passed_gateway(error: BaseException) -> bool:
    """Return whether an exception passed through the gateway's code, and not only through libraries."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code.co_filename.startswith(_PACKAGE) for frame, _ in frames)


def _remove_values(record: logging.LogRecord, error: BaseException | None) -> None:
    # Libraries log headers, and a token may be one: only the constant text is kept.
    if record.name == GRPC:
        # grpc formats the text itself, with metadata and the texts of exceptions.
        record.msg = "an error within grpc"
    elif record.name == "py.warnings":
        record.msg = "a warning of Python"
    record.msg = record.msg if error is None else f"{record.msg}\n{traceback_of(error)}"
    record.args = ()
    record.exc_info = record.exc_text = None
