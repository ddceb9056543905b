"""Run `jobgateway doctor` against anything, and look at its results."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from typing import Any

from typer.testing import CliRunner

from gateway.cli.app import app
from tests.support.gateways import TOKEN
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "operations" / "doctor.md").read_text()


def _without_numbers(text: str) -> str:
    return re.sub(r"\d[\d.:]*", "0", text)


@dataclass(frozen=True)
class Diagnosis:
    """The results of one run, by the name of the check."""

    code: int
    found: dict[str, dict[str, Any]]

    def __getitem__(self, check: str) -> str:
        """Return the outcome and the text of a check."""
        each = self.found[check]
        return f"{each['outcome']} {each['text']}"

    @property
    def failed(self) -> list[str]:
        """The checks that failed or warned."""
        return [name for name, each in self.found.items() if each["outcome"] in ("fail", "warn")]

    def is_documented(self, check: str) -> bool:
        """Return True if docs/operations/doctor.md has the text of a check, with any numbers."""
        return _without_numbers(self.found[check]["text"]) in _without_numbers(PAGE)

    def paste(self, check: str) -> list[str]:
        """Return the lines to copy."""
        lines: list[str] = self.found[check]["paste"]
        return lines


async def doctor(target: str, *options: object, token: str | None = TOKEN, hold: float = 0) -> Diagnosis:
    """Run the command in a thread, because it blocks while the gateway serves it."""
    words = ["doctor", "--target", target, "--hold", hold, "-o", "json", *options]

    def run() -> Diagnosis:
        result = CliRunner().invoke(app, list(map(str, words)), env={"JOBGATEWAY_TOKEN": token}, catch_exceptions=False)
        assert token is None or token not in result.output
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert "summary" in lines.pop(), result.output
        return Diagnosis(result.exit_code, {line["check"]: line for line in lines})

    return await asyncio.to_thread(run)
