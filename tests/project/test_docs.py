"""Compare the docs with the repository: links, log events, names of tests, and figures."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "clients").glob("*.md"),
        *(ROOT / "benchmarks").rglob("*.md"),
    ]
)
ALERTS = (ROOT / "docs" / "operations" / "alerts.md").read_text()
SECURITY = (ROOT / "docs" / "security.md").read_text()


def has_test(name: str) -> bool:
    module, _, test = name.partition("::")
    path = ROOT / "tests" / f"{module}.py"
    return path.exists() and bool(re.search(rf"^(async )?def {test}\(", path.read_text(), re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_link_has_a_file_and_a_heading(document: Path) -> None:
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", document.read_text()):
        target = (document.parent / link).resolve() if link else document
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}


def warnings_and_errors() -> set[str]:
    """Return the events that the gateway logs as a warning or an error, and `call`, whose level varies."""
    # `telemetry/logs.py` writes the second one without structlog.
    events = {"call", "log.lines_lost"}
    for path in (ROOT / "gateway").rglob("*.py"):
        if not {"simulator", "cli"} & set(path.relative_to(ROOT).parts):
            events |= set(re.findall(r'\blog\b.*\.(?:warning|error)\(\s*"([^"]+)"', path.read_text()))
            events |= set(re.findall(r'\b_log\.(?:warning|error)\(\s*"([^"]+)"', path.read_text()))
    return events


def test_each_warning_and_error_is_documented_with_an_action() -> None:
    section = ALERTS.partition("## Log events that need action\n")[2]
    documented = re.findall(r"^\| `([^`]+)` \| (?:warning|error) \| [^|]{20,} \| [^|]{8,} \|$", section, re.MULTILINE)
    assert len(documented) == len(set(documented))
    assert set(documented) == warnings_and_errors()


@pytest.mark.slow
def test_the_sizing_script_works() -> None:
    command = [sys.executable, "scripts/sizing.py", "--watches", "3", "--interval", "0.05", "--seconds", "0.5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own script
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^idle process: \d+ MB$", done.stdout, re.MULTILINE)) == 2
    assert re.search(r"^each of 3 watches of a job each: -?\d+ kB$", done.stdout, re.MULTILINE)


def test_the_benchmark_plot_shows_the_last_results() -> None:
    results = (ROOT / "benchmarks" / "results" / "results.json").read_bytes()
    plot = (ROOT / "docs" / "images" / "benchmark-targets.svg").read_text()
    assert hashlib.sha256(results).hexdigest() in plot, "run `python -m benchmarks.plots`"


def test_the_threat_model_names_existing_tests() -> None:
    named = set(re.findall(r"`((?:\w+/)*test_\w+::test_\w+)`", SECURITY))
    assert len(re.findall(r"`(?:\w+/)*test_", SECURITY)) == SECURITY.count("::") >= len(named) > 20
    assert not [each for each in named if not has_test(each)]


def test_names_of_tests_are_shorter_than_60_characters() -> None:
    names = [
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"\bdef (test_\w+)", path.read_text())
    ]
    assert not [name for name in names if len(name) >= 60]
