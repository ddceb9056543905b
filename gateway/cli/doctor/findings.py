"""The results of the checks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """The outcome of a check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: The name of the check.
        outcome: Its outcome.
        text: What was observed, as one line.
        fix: What to do, as one line; empty if there is nothing to do.
        paste: Commands or settings for the fix, a line each, which can be copied as they are.

    """

    check: str
    outcome: Outcome
    text: str
    fix: str = ""
    paste: tuple[str, ...] = ()


def ok(check: str, text: str) -> Finding:
    """Return the result of a check that found nothing wrong."""
    return Finding(check, Outcome.OK, text)


def skipped(check: str, text: str) -> Finding:
    """Return the result of a check that was not made."""
    return Finding(check, Outcome.SKIP, text)
