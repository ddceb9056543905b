"""The display of one job on a terminal, with stepped time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

import grpc
import pytest
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import GatewayError, Retry

from gateway.cli.display.event_display import ProgressDisplay, WaitDisplay, wait_display
from gateway.cli.output.formatting import duration
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

EPOCH = 1_000_000
# The characters of rich's spinner.
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


def state(message: str, percent: float | None = None) -> pb.JobEvent:
    progress = pb.Progress(message=message, percentage=percent)
    return pb.JobEvent(uid=42, job=pb.Job(uid=42, status=pb.JOB_STATUS_RUNNING, progress=progress))


def end(status: pb.JobStatus.ValueType = pb.JOB_STATUS_SUCCESS, error: pb.JobError | None = None) -> pb.JobEvent:
    return pb.JobEvent(uid=42, job=pb.Job(uid=42, status=status, done=True, error=error))


class Shown:
    """A display on a terminal, whose time and events a test steps."""

    def __init__(self, columns: int, *, sent_here: bool = True, waits: bool = False) -> None:
        self.now = 100.0
        self.terminal = Terminal(columns)
        self.console = self.terminal.console(lambda: self.now)
        self.display = WaitDisplay(self.console, 42) if waits else ProgressDisplay(self.console, sent_here=sent_here)

    def lines(self) -> list[str]:
        """Return the screen without the spinner."""
        return [line.lstrip(SPINNER) if line[:1] in SPINNER else line for line in self.terminal.lines()]

    def after(self, seconds: float, event: pb.JobEvent, *, age: float | None = None) -> list[str]:
        """Show an event whose state was reported `age` seconds ago, and return the screen."""
        self.now += seconds
        if event.HasField("job"):
            event.job.observe_time.FromNanoseconds(round((EPOCH + self.now) * 1e9))
            if age is not None:
                event.job.progress.report_time.FromNanoseconds(round((EPOCH + self.now - age) * 1e9))
        self.display.event(event)
        return self.lines()

    def __enter__(self) -> Self:
        self.terminal.__enter__()
        self.display.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.display.__exit__()
        self.console.file.close()
        self.terminal.__exit__()


@pytest.fixture(params=[50, 80, 120])
def columns(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def shown(columns: int) -> Iterator[Shown]:
    with Shown(columns) as shown:
        yield shown


@pytest.fixture
def wide() -> Iterator[Shown]:
    with Shown(80) as shown:
        yield shown


def lost() -> Retry:
    return Retry(GatewayError(grpc.StatusCode.UNAVAILABLE, "connection reset"), wait=5.0, new_connection=True)


BAR = {
    50: "  job 42 mixing the conc…   40%  20 s  ETA 30 s",
    80: "  job 42 mixing the concrete  ━━━━━━╺━━━━━━━━   40%       20 s  ETA 30 s",
    120: "  job 42 mixing the concrete" + 27 * " " + "━━━━━━━━━━━━╺━━━━━━━━━━━━━━━━━   40%       20 s  ETA 30 s",
}


def test_the_bar_shrinks_before_the_text(shown: Shown, columns: int) -> None:
    shown.after(0, state("", 0))
    assert shown.after(20, state("mixing the concrete", 40)) == [BAR[columns]]
    assert shown.after(60, end()) == ["   1 m 00 s  mixing the concrete", "job 42 succeeded in 1 m 20 s"]
    assert b"\x1b[31m" not in shown.terminal.raw(), "red"


def test_steps_stay_with_their_durations(wide: Shown) -> None:
    for number in range(7):
        wide.after(0.5, state(f"step {number}"))
    history = ["  and 2 earlier steps", *(f"      0.5 s  step {number}" for number in range(2, 6))]
    assert wide.lines() == [*history, "  job 42 step 6" + 59 * " " + "3 s"]
    assert wide.after(12, end()) == [
        "  and 3 earlier steps",
        *history[2:],
        "       12 s  step 6",
        "job 42 succeeded in 15 s",
    ]


def test_one_earlier_step_is_singular(wide: Shown) -> None:
    for number in range(6):
        wide.after(0.5, state(f"step {number}"))
    assert wide.lines()[0] == "  and 1 earlier step"


@pytest.mark.parametrize("elapsed", [5, 50, 500])
def test_the_bar_stays_where_it_is(wide: Shown, elapsed: float) -> None:
    wide.after(0, state("", 0))
    with_estimate = wide.after(elapsed, state("mixing", 40))[0]
    wide.display.retrying(lost())
    in_outage = wide.lines()[0]
    assert "ETA" in with_estimate
    assert "ETA" not in in_outage
    assert in_outage == with_estimate.partition("  ETA")[0]
    assert with_estimate.index("━") == 17


def test_a_long_message_is_whole_when_it_has_finished(shown: Shown) -> None:
    long = " ".join(["word"] * 40)
    assert "…" in shown.after(0, state(long))[0]
    whole = " ".join(line.strip() for line in shown.after(2, state("short")))
    assert f"2.0 s  {long} job 42 short" in whole


def test_an_outage_is_one_line_until_it_is_over(shown: Shown) -> None:
    shown.after(0, state("mixing"))
    for waited, line in (
        (0, "  gateway unreachable for 0 s, next try in 5 s"),
        (3, "  gateway unreachable for 3 s, next try in 2 s"),
        (4, "  gateway unreachable for 7 s, trying now"),
    ):
        shown.now += waited
        if not waited:
            shown.display.retrying(lost())
        shown.display.refresh()
        assert shown.lines()[1:] == [line]
    failing = pb.JobEvent(uid=42, heartbeat=pb.Heartbeat(consecutive_failures=1, last_failure="UPSTREAM_TIMEOUT"))
    line = " ".join(each.strip() for each in shown.after(1, failing)[1:])
    assert line == "upstream failing (UPSTREAM_TIMEOUT) for 0 s; still trying"
    assert len(shown.after(1, pb.JobEvent(uid=42, heartbeat=pb.Heartbeat()))) == 1


def test_no_event_changes_a_line_while_it_is_drawn() -> None:
    with Shown(80) as shown:
        shown.after(0, state("mixing"))
        other = threading.Thread(target=lambda: shown.display.event(state("pouring")))

        def clock() -> float:
            if threading.current_thread() is threading.main_thread() and not other.ident:
                other.start()
                # Time enough to change the line, if nothing held the event back.
                other.join(0.1)
            return shown.now

        shown.console.get_time = clock
        before = len(shown.terminal.raw())
        shown.display.refresh()
        other.join()
        drawn = shown.terminal.raw()[before:].decode()
        assert drawn.index("job 42") < drawn.index("mixing") < drawn.index("pouring")


def test_the_elapsed_time_is_that_of_the_job() -> None:
    with Shown(80, sent_here=False) as shown:
        # The job reported this five minutes before the command began.
        assert shown.after(0, state("mixing", 50), age=300)[0].endswith("50%   5 m 00 s")
        # Half of the remaining half took 10 s.
        assert shown.after(10, state("mixing", 75), age=0)[0].endswith("75%   5 m 10 s  ETA 5 m 10 s")
        assert shown.after(5, end())[-1] == "job 42 succeeded in at least 5 m 15 s"


def test_a_repeated_submission_has_no_exact_duration() -> None:
    with Shown(80) as shown:
        shown.after(0, state("mixing"))
        shown.display.replayed(42)
        lines = shown.after(2, end())
        assert lines[0] == "job 42 was sent earlier with this --request-id; no second job was created"
        assert lines[-1] == "job 42 succeeded in at least 2.0 s"


def test_a_job_that_had_ended_before_has_no_duration() -> None:
    with Shown(80, sent_here=False) as shown:
        error = pb.JobError(type="error_code", message="the wall is too thin")
        assert shown.after(3, end(pb.JOB_STATUS_ERROR, error)) == ["job 42 failed (error_code): the wall is too thin"]
        assert b"\x1b[31m" in shown.terminal.raw(), "red"


def test_progress_that_goes_backwards_has_no_estimate(wide: Shown) -> None:
    wide.after(0, state("", 0))
    assert "ETA" in wide.after(10, state("a", 60))[-1]
    assert "ETA" not in wide.after(10, state("a", 30))[-1]
    assert "ETA 37 s" in wide.after(10, state("a", 45))[-1]


def test_wait_shows_its_time_an_outage_and_the_end() -> None:
    with Shown(80, waits=True) as shown:
        shown.now += 61
        shown.display.refresh()
        assert shown.lines() == [" waiting for job 42 to end  1 m 01 s"]
        failing = pb.JobEvent(uid=42, heartbeat=pb.Heartbeat(consecutive_failures=1, last_failure="UPSTREAM_TIMEOUT"))
        shown.after(0, state("mixing", 10))
        shown.after(0, failing)
        shown.now += 4
        shown.display.refresh()
        assert shown.lines() == [
            " waiting for job 42 to end  1 m 05 s",
            "  upstream failing (UPSTREAM_TIMEOUT) for 4 s; still trying",
        ]
        shown.display.retrying(lost())
        assert shown.lines()[1] == "  gateway unreachable for 0 s, next try in 5 s"
        shown.after(1, state("pouring", 20))
        assert shown.after(15, end()) == ["job 42 succeeded in at least 20 s"]


def test_wait_writes_no_moving_lines_into_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with wait_display(42) as display:
        display.event(state("mixing", 10))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 m 00 s"),
        (151, "2 m 31 s"),
        (3600 + 299, "1 h 04 m"),
        (3 * 86_400 + 4 * 3600, "3 d 04 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
