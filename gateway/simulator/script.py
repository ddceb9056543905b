"""The course of a simulated job: a pure function of its script, the elapsed time and the cancellation.

This module uses no clock, no HTTP and no JSON. Times are seconds since the job was created.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Ending(StrEnum):
    """The ways in which a job ends. The values are the `method_name`s that choose them."""

    SUCCEED = "succeed"
    FAIL = "fail"
    USER_ERROR = "user_error"
    TIMEOUT = "timeout"
    STOP = "stop"
    CANCEL = "cancel"
    EXPIRE = "expire"
    RELOAD = "reload"
    UNKNOWN_STATUS = "unknown_status"
    NEVER = "never"


@dataclass(frozen=True, kw_only=True)
class JobScript:
    """The course of a job, decided when it is created.

    Attributes:
        ending: how it ends after `duration`, unless it is cancelled or reaches `time_limit` before.
        duration: seconds, 0 or more. With `Ending.NEVER` it only sets the pace of the progress.
        time_limit: seconds after which it ends with `Ending.TIMEOUT`, if it is still running.
        steps: number of progress states, spread evenly over `duration`; 0 means no progress.
        ignores_cancel: a cancelled job continues.
        hides_end: the job shows only the status of its ending, and counts as running.

    """

    ending: Ending
    duration: float
    time_limit: float
    steps: int
    ignores_cancel: bool = False
    hides_end: bool = False


@dataclass(frozen=True, kw_only=True)
class State:
    """A job at one moment.

    Attributes:
        ending: how it ended, None while it runs. If the script hides its end, it is set although `ended` is False.
        ended: True if the job has ended.
        step: index of the latest progress state, None if the script has no steps.
        since: seconds between the start of the job and the start of this state.

    """

    ending: Ending | None
    ended: bool
    step: int | None
    since: float


def state_at(script: JobScript, elapsed: float, cancelled_at: float | None = None) -> State:
    """Return the state of a job `elapsed` seconds after it was created.

    The earliest of its own end, its time limit and its cancellation wins. If they coincide, the first in this
    order wins. `cancelled_at` is in seconds too, and None if the job was not cancelled.
    """
    ends = []
    if script.ending is not Ending.NEVER and not script.hides_end:
        ends.append((script.duration, script.ending))
    ends.append((script.time_limit, Ending.TIMEOUT))
    if cancelled_at is not None and not script.ignores_cancel:
        ends.append((cancelled_at, Ending.CANCEL))
    at, ending = min(ends, key=lambda end: end[0])
    if at <= elapsed:
        return State(ending=ending, ended=True, step=_step_at(script, at), since=at)
    if script.hides_end and elapsed >= script.duration:
        step = _step_at(script, script.duration)
        return State(ending=script.ending, ended=False, step=step, since=script.duration)
    reached = _step_at(script, elapsed)
    since = 0.0 if reached is None else reached * script.duration / script.steps
    return State(ending=None, ended=False, step=reached, since=since)


def _step_at(script: JobScript, elapsed: float) -> int | None:
    if script.steps == 0:
        return None
    if elapsed >= script.duration:
        return script.steps - 1
    return min(int(elapsed * script.steps / script.duration), script.steps - 1)
