from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.telemetry import logs
from gateway.telemetry.logs import _Kinds
from tests.support.paths import ROOT

PROGRAM = """
import logging
import sys
import structlog
from gateway.telemetry import logs

logs.configure(*sys.argv[1:])
log = structlog.get_logger()
"""


def written(log_format: str, statements: str, *level: str) -> list[str]:
    """Return the lines that `statements` log in another process."""
    command = [sys.executable, "-c", PROGRAM + statements, log_format, *level]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, encoding="utf-8")  # noqa: S603
    return done.stderr.splitlines()


def logged(statements: str, *level: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written("json", statements, *level)]


def test_a_line_has_its_event_its_level_and_its_fields() -> None:
    (line,) = logged("log.warning('is full', places=3, who='Zoë', of={'a': [1.5, None]})")
    assert datetime.fromisoformat(line.pop("timestamp")).tzinfo == UTC
    assert line == {"event": "is full", "level": "warning", "places": 3, "who": "Zoë", "of": {"a": [1.5, None]}}


def test_a_line_can_be_searched_for_a_name_with_its_value() -> None:
    (line,) = written("json", "log.info('call', code='OK', uid=None, seconds=0.5)")
    assert line.startswith('{"event": "call", "level": "info", "timestamp": "')
    assert line.endswith('Z", "code": "OK", "uid": null, "seconds": 0.5}')


def test_values_that_are_not_json_are_shown_by_repr() -> None:
    (line,) = logged("log.info('call', of=1j)")
    assert line["of"] == "1j"


def test_a_lone_surrogate_does_not_lose_the_line() -> None:
    line, usual = logged(r"log.error('call', exception='\ud800', of=KeyError(1)); log.error('call', of=KeyError(1))")
    assert (line["event"], line["exception"], line["of"]) == ("call", "\ud800", "KeyError(1)")
    assert usual["of"] == "KeyError(1)"
    assert len(line["timestamp"]) == len(usual["timestamp"])
    assert line["timestamp"][10] == "T"
    assert line["timestamp"][-1] == "Z"


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ((), ["i", "w", "e", "library"]),
        (("debug",), ["d", "i", "w", "e", "library"]),
        (("warning",), ["w", "e", "library"]),
        (("error",), ["e"]),
    ],
)
def test_lines_below_the_level_are_not_written(level: tuple[str, ...], expected: list[str]) -> None:
    statements = "log.debug('d'); log.info('i'); log.warning('w'); log.error('e'); logging.error('library')"
    assert [line["event"] for line in logged(statements, *level)] == expected


@pytest.mark.parametrize("level", ["warning", "error"])
def test_a_line_of_a_library_has_no_values(level: str) -> None:
    (line,) = logged(f"logging.info('hello'); logging.{level}('%s is lost', 'secret')")
    assert line.pop("timestamp")
    # Peers without a credential can cause such lines, and alerts look for errors.
    assert line == {"event": "%s is lost", "level": "warning", "logger": "root"}


def test_text_has_the_same_fields() -> None:
    (ours, theirs) = written("text", "log.warning('is full', places=3); logging.error('is lost')")
    assert ours.endswith("places=3")
    assert "[warning  ] is full" in ours
    assert "[warning  ] is lost" in theirs
    assert all(datetime.fromisoformat(line.split()[0]).tzinfo == UTC for line in (ours, theirs))


def on_a_terminal(**environment: str) -> bytes:
    """Return what a process whose standard error is a terminal logs without a format."""
    terminal, other_end = os.openpty()
    program = PROGRAM.replace("*sys.argv[1:]", "") + "log.warning('is full', places=3)"
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    with os.fdopen(terminal, "rb", buffering=0) as reader, os.fdopen(other_end, "wb") as writer:
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, stderr=writer, check=True, env=kept | environment)  # noqa: S603
        return reader.read(4096)


def test_a_terminal_gets_text_in_colour() -> None:
    line = on_a_terminal(TERM="xterm")
    assert b"\x1b[" in line
    assert b"is full" in line
    assert not line.startswith(b"{")


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_wants_no_colour_gets_none(environment: dict[str, str]) -> None:
    line = on_a_terminal(**environment)
    assert b"\x1b" not in line
    assert line.rstrip().endswith(b"places=3")


def test_other_outputs_than_terminals_get_json() -> None:
    program = PROGRAM.replace("*sys.argv[1:]", "") + "log.info('is full')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True)  # noqa: S603
    assert json.loads(done.stderr)["event"] == "is full"


TAKEN_OVER = "logs.take_over(); import threading, traceback, warnings\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statements", "event", "level"),
    [
        ("warnings.warn('secret')", "a warning of Python", "warning"),
        (
            "threading.Thread(target=int, args=('secret',)).start()",
            "task.defect",
            "warning",
        ),
        ("class A:\n def __del__(self): int('secret')\nA()", "task.defect", "warning"),
        (
            "try:\n int('secret')\nexcept ValueError:\n traceback.print_exc()",
            "library.stderr",
            "warning",
        ),
        ("print('secret', file=sys.stderr)", "library.stderr", "warning"),
        ("sys.excepthook(ValueError, ValueError('secret'), None)", "process.defect", "error"),
    ],
)
def test_lines_by_python_itself_contain_no_values(statements: str, event: str, level: str) -> None:
    (line,) = logged(TAKEN_OVER + statements)
    assert (line["event"].partition("\n")[0], line["level"]) == (event, level)
    assert "secret" not in line["event"]


def test_a_kind_of_line_is_written_once_and_the_rest_is_counted() -> None:
    lines = logged("for _ in range(3): log.warning('is full', seldom=True); logging.error('%s is lost', _)")
    assert [line["event"] for line in lines] == ["is full", "%s is lost"]


def test_the_next_line_counts_those_left_out() -> None:
    first, last = logged("""
from unittest import mock
now = 0.0
with mock.patch("time.monotonic", lambda: now):
    for now in (0.0, 1.0, 2.0, 61.0):
        log.warning("is full", seldom=True)
""")
    assert ("repeated" in first, last["repeated"]) == (False, 2)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["auth.credential", "rpc.call", "upstream.json", "clock", "telemetry.metrics"])
def test_a_defect_of_any_package_is_an_error_each_time(package: str) -> None:
    # An AttributeError that passes a function of the package, on its way through a library's thread.
    lines = logged(f"""
logs.take_over()
import importlib, inspect, threading, types
module = importlib.import_module("gateway.{package}")
code = compile("def fail(): raise KeyError", module.__file__, "exec")
exec(code, namespace := {{}})
for _ in range(2):
    thread = threading.Thread(target=namespace["fail"])
    thread.start()
    thread.join()
try:
    namespace["fail"]()
except KeyError:
    logging.getLogger("asyncio").exception("it failed")
""")
    assert [line["level"] for line in lines] == ["error"] * 3


def test_a_package_with_a_similar_name_is_a_library() -> None:
    (line,) = logged("""
logs.take_over()
import gateway, threading
exec(compile("def fail(): raise KeyError", gateway.__path__[0] + "_of_others/a.py", "exec"), namespace := {})
threading.Thread(target=namespace["fail"]).start()
""")
    assert line["level"] == "warning"


@pytest.mark.slow
def test_endless_text_on_standard_error_is_not_kept() -> None:
    (line,) = logged("""
logs.take_over()
import tracemalloc
tracemalloc.start()
for _ in range(20_000):
    sys.stderr.write("x" * 100)
for _ in range(20_000):
    sys.stderr.write('\\n  File "a", line 1')
sys.stderr.write("\\nKeyError: secret\\n")
held, _ = tracemalloc.get_traced_memory()
log.info("held", bytes=held)
""")[-1:]
    assert line["bytes"] < 100_000


class YieldingKey(str):
    """A key that lets another thread run at each lookup."""

    __slots__ = ()

    def __hash__(self) -> int:
        time.sleep(0)
        return super().__hash__()


def test_lines_left_out_are_counted_over_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    passed: list[int | None] = []

    def ask(kinds: _Kinds) -> None:
        passed.append(kinds.left_out(YieldingKey("a")))

    for _ in range(20):
        kinds = _Kinds()
        threads = [threading.Thread(target=ask, args=(kinds,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        monkeypatch.setattr(time, "monotonic", lambda: logs.SELDOM_SECONDS)
        assert kinds.left_out("a") == 7
        monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    assert (passed.count(0), passed.count(None)) == (20, 140)


def test_kinds_of_the_last_minute_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    kinds = _Kinds()
    for number in range(logs.MAX_KINDS):
        assert kinds.left_out(f"old {number}") == 0
    assert [kinds.left_out(f"new {number}") for number in range(3)] == [0, None, None]
    now = logs.SELDOM_SECONDS
    assert [kinds.left_out(f"new {number}") for number in range(3)] == [0, 0, 0]
    assert kinds.left_out("new 0") is None
