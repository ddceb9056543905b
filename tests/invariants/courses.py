"""Random jobs and upstream failures, drawn from a seed. Both kinds of run use them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Course:
    """The course of a job: the times of its progress and of its end, in seconds after its start."""

    uid: int
    steps: tuple[tuple[float, int], ...]
    end: float
    result: bytes

    def at(self, elapsed: float) -> tuple[str, bool]:
        """Return the state after `elapsed` seconds as a text, and whether the job has ended."""
        if elapsed >= self.end:
            return "success", True
        value = 0
        for moment, step in self.steps:
            if moment <= elapsed:
                value = step
        return f"at {value}", False


def draw_course(dice: random.Random, uid: int, longest: float) -> Course:
    """Draw a course of up to `longest` seconds. Its progress sometimes decreases or repeats."""
    end = dice.uniform(0, longest)
    count = dice.randrange(0, 12)
    moments = sorted(dice.uniform(0, end) for _ in range(count))
    size = dice.choice([2, 2, 50, 300])
    result = b'{"r":"%b"}' % (bytes([97 + uid % 26]) * size)
    return Course(uid, tuple((moment, dice.randrange(0, 6)) for moment in moments), end, result)


@dataclass(frozen=True)
class Trouble:
    """A failure of the upstream that some credentials and jobs meet during some seconds.

    `credential` and `uid` are None if all are affected. `retry_after` belongs to a 429 or 503.
    """

    name: str
    began: float
    ended: float
    credential: str | None
    uid: int | None
    retry_after: float = 0.0

    def meets(self, now: float, credential: str, uid: int) -> bool:
        """Return whether a request at the time `now` fails."""
        mine = self.credential in (None, credential) and self.uid in (None, uid)
        return mine and self.began <= now < self.ended


PAGES = ("403 page", "404 page")
PASSING = ("429", "503", "502", "504", "500", "408", "499", "460", "lost", "timed out", "malformed", "hang", *PAGES)
REFUSALS = ("401", "403", "404", "410")
# So short that it affects only one read.
BLIP_SECONDS = 0.6


@dataclass
class Troubles:
    """The failures of a run, of the kinds `transient` and `REFUSALS`. If several apply, the last one counts."""

    transient: tuple[str, ...] = PASSING
    plan: list[Trouble] = field(default_factory=list)

    def draw(self, dice: random.Random, now: float, longest: float, credentials: list[str], uids: list[int]) -> None:
        """Add a failure that starts now and lasts up to `longest` seconds."""
        refused = dice.random() < 0.25
        name = dice.choice(REFUSALS if refused else self.transient)
        if refused and dice.random() < 0.6:
            self._draw_blips(dice, now, name, min(longest, BLIP_SECONDS), dice.choice(uids))
            return
        retry = name in ("429", "503") and dice.random() < 0.6
        self.plan.append(
            Trouble(
                name,
                now,
                now + dice.uniform(0, longest),
                dice.choice([None, *credentials]),
                dice.choice(uids) if refused else dice.choice([None, *uids]),
                dice.choice([1.0, longest / 3]) if retry else 0.0,
            )
        )

    def _draw_blips(self, dice: random.Random, now: float, name: str, lasts: float, uid: int) -> None:
        """Add refusals that end no watch: one alone, two that differ, or the same one again after successes."""
        self.plan.append(Trouble(name, now, now + lasts, None, uid))
        match dice.randrange(3):
            case 1:
                other = dice.choice([each for each in REFUSALS if each != name])
                self.plan.append(Trouble(other, now + lasts, now + lasts + 2 * BLIP_SECONDS, None, uid))
            case 2:
                # Many, because most of them fall between two reads.
                for number in range(1, 20):
                    later = now + lasts + 10 * number * BLIP_SECONDS
                    self.plan.append(Trouble(name, later, later + lasts, None, uid))

    def lag(self, dice: random.Random, now: float, credential: str, uid: int) -> None:
        """Show a job late to the credential that has just sent it."""
        name = dice.choice(REFUSALS)
        self.plan.append(Trouble(name, now, now + dice.uniform(0, 20.0), credential, uid))

    def of(self, now: float, credential: str, uid: int) -> Trouble | None:
        """Return the failure of a request at the time `now`, or None."""
        return next((each for each in reversed(self.plan) if each.meets(now, credential, uid)), None)
