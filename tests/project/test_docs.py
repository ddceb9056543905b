"""Compare the docs with the repository: links, files, log events, names of tests, and figures."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.rpc import call, stream
from gateway.rpc.codec import content
from gateway.server import defaults
from gateway.submit import memory_store, store, submitter
from gateway.upstream import transport
from gateway.watch import recent
from tests.support.paths import ROOT

DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "clients").glob("*.md"),
        *(ROOT / "benchmarks").rglob("*.md"),
        *(ROOT / "deploy").rglob("*.md"),
    ]
)
README = (ROOT / "README.md").read_text()
OVERVIEW = (ROOT / "docs" / "internals" / "overview.md").read_text()
SETTINGS = (ROOT / "docs" / "reference" / "settings.md").read_text()
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


def modules() -> set[str]:
    """Return the paths of the gateway's modules, without `__init__`."""
    paths = (ROOT / "gateway").rglob("*.py")
    return {str(path.relative_to(ROOT / "gateway")) for path in paths if path.name != "__init__.py"}


def modules_in(page: str) -> list[str]:
    """Return the names in the first column of the table of modules."""
    table = page.partition("| module | responsibility |\n")[2].partition("\n\n")[0]
    return [each for row in table.splitlines() for each in re.findall(r"`([^`]+)`", row.partition(" | ")[0])]


def test_the_overview_lists_each_module_once() -> None:
    named = modules_in(OVERVIEW)
    packages = {each for each in named if each.endswith("/")}
    alone = [each for each in modules() if not each.startswith(tuple(packages))]
    assert sorted(named) == sorted([*alone, *packages])


@pytest.mark.parametrize(("page", "package"), [("watching", "watch"), ("submissions", "submit")])
def test_a_page_lists_each_module_of_its_package(page: str, package: str) -> None:
    named = modules_in((ROOT / "docs" / "internals" / f"{page}.md").read_text())
    assert sorted(f"{package}/{each}" for each in named) == sorted(
        each for each in modules() if each.startswith(f"{package}/")
    )


def test_files_named_by_the_internals_exist() -> None:
    places = ["", "gateway", "tests", *(str(each.parent) for each in ROOT.glob("*/*/__init__.py"))]
    for page in (ROOT / "docs" / "internals").glob("*.md"):
        for name in re.findall(r"`([\w/]+\.(?:py|yaml|proto|toml))`", page.read_text()):
            assert any((ROOT / place / name).exists() for place in places), f"{page.name}: {name}"


def test_the_overview_lists_observers_and_users_of_prometheus() -> None:
    sources = {each: (ROOT / "gateway" / each).read_text() for each in modules() if not each.startswith("simulator/")}
    observers = {
        each for each, source in sources.items() if re.search(r"^class \w*Observer\(Protocol\)", source, re.MULTILINE)
    }
    users = {
        each
        for each, source in sources.items()
        if re.search(r"^\s*(from|import) (prometheus|opentelemetry)", source, re.MULTILINE)
    }
    section = OVERVIEW.partition("## Telemetry\n")[2].partition("\n\n**A metric")[0]
    named = set(re.findall(r"`([\w/]+\.py)`", section)) - {"server/gateway.py"}
    assert named == observers | {each for each in users if not each.startswith("telemetry/")}


def megabytes(size: int) -> str:
    return f"{size >> 30} GiB" if size >= 1 << 30 else f"{size >> 20} MiB"


def test_the_fixed_limits_have_the_figures_of_the_code() -> None:
    """Compare the rows whose figures are constants."""
    section = SETTINGS.partition("## Fixed limits\n")[2].partition("\n## ")[0]
    found = {
        cells[0]: " ".join(cells[1:]) for row in section.splitlines() if len(cells := row.strip("| ").split(" | ")) == 3
    }
    response = megabytes(defaults.MAX_RESPONSE_BYTES)
    expected = {
        "polls in flight": f"{defaults.POLL_SLOTS}, {defaults.POLL_SLOTS * 3 // 4} per credential",
        "submissions in flight": f"{submitter.MAX_IN_FLIGHT:,}, {submitter.MAX_IN_FLIGHT * 3 // 4} per credential",
        "one request": megabytes(defaults.MAX_REQUEST_BYTES),
        "metadata of a call": f"{defaults.MAX_METADATA_BYTES >> 10} KiB",
        "all requests over 1 MiB": megabytes(defaults.LARGE_REQUESTS_BYTES),
        "one upstream response": response,
        "all upstream responses over 1 MiB": megabytes(defaults.LARGE_RESPONSES_BYTES),
        "all messages over 256 KiB to clients": megabytes(defaults.LARGE_MESSAGES_BYTES),
        "time to read a result that others wait for": f"{stream.SLOW_CONSUMER_GRACE_SECONDS:g} seconds",
        "a result in one message (`CONTENT_FORMAT_JSON`)": megabytes(content.MAX_ONE_MESSAGE_BYTES),
        "remembered `request_id`s": f"for {store.KEEP_RECORD_SECONDS / 3600:g} hours: {memory_store.MAX_RECORDS:,}",
        "connecting to the upstream": f"{defaults.CONNECT_SECONDS:g} seconds",
        "a whole response to a read": f"{defaults.TOTAL_TIMEOUT_FACTOR} times",
        "idle upstream connections": f"{defaults.READ_IDLE_SECONDS:g} seconds for reads, "
        f"{transport.UNREPEATABLE_IDLE_SECONDS:g} seconds for a `DELETE`, {defaults.SUBMIT_IDLE_SECONDS:g} second",
        "the end of a job that was just read": f"{recent.KEEP_RESULT_SECONDS:g} seconds per credential, "
        f"{megabytes(recent.KEEP_BYTES)}",
        "a deadline": f"{call.MAX_DEADLINE_SECONDS / 86_400:g} days",
    }
    assert not {name: text for name, text in expected.items() if not found[name].startswith(text)}
    assert f"Idle connections close after at most {defaults.READ_IDLE_SECONDS:g} seconds" in SETTINGS
    assert f"**Results of up to {response}**" in README


def warnings_and_errors() -> set[str]:
    """Return the events that the gateway logs as a warning or an error, at least sometimes."""
    # The level of the first three varies, and `telemetry/logs.py` writes the others without structlog.
    events = {"call", "watch.ended", "tls.handshake_failed", "log.lines_lost", "start.failed", "upstream.probed"}
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
