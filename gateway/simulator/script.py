"""What a simulated job does over time: a pure function of its script, the time elapsed and the cancelling.

No clock, no HTTP and no JSON here; times are seconds since the job was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Ending(StrEnum):
    """How a job ends. The values are the `method_name`s that choose it."""

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
    """The whole life of a job, decided when it is made.

    Attributes:
        ending: how it ends of itself, after `duration`.
        duration: seconds, 0 or more. With `Ending.NEVER` only the progress is spread over it.
        time_limit: seconds after which it ends with `Ending.TIMEOUT`, if it still runs then.
        steps: number of progress states, spread evenly over `duration`; with 0 there is no progress.
        ignores_cancel: a cancelled job finishes all the same.
        hides_end: the ending shows as a status word only, and the job counts as running.

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
        ending: how it ended, None while it runs. Set without `ended` where the script hides its end.
        ended: whether the job is over.
        step: index of the progress state that was reached last, None where the script has no steps.
        since: seconds after the start of the job at which this state began.

    """

    ending: Ending | None
    ended: bool
    step: int | None
    since: float


def state_at(script: JobScript, elapsed: float, cancelled_at: float | None = None) -> State:
    """Return the state of a job `elapsed` seconds after it was made.

    Of its own end, its time limit and its cancelling (`cancelled_at`, in the same seconds, None where nobody
    cancelled it) the earliest wins, and in this order where they coincide.
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
