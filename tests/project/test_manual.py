"""The man pages. `scripts/reference.py --check` compares them with the commands."""

from __future__ import annotations

import re
import subprocess

import pytest

from scripts import cli_reference
from tests.support.manifests import tool
from tests.support.paths import ROOT

MANUAL = ROOT / "docs" / "reference" / "man"
PAGES = sorted(MANUAL.iterdir())


def test_each_command_has_a_page_that_the_first_page_names() -> None:
    names = {"jobgateway", *(f"jobgateway-{each.name.replace(' ', '-')}" for each in cli_reference.commands())}
    assert names == {each.stem for each in PAGES}
    first = (MANUAL / "jobgateway.1").read_text().replace("\\-", "-")
    assert set(re.findall(r"(jobgateway-[\w-]+)\\fR\(1\)", first)) == names - {"jobgateway"}


def test_a_page_has_the_options_of_its_command() -> None:
    pages = cli_reference.manual()
    assert r"\fB\-\-output\fR, \fB\-o\fR \fItext\fR|\fIjson\fR|\fIname\fR" in pages["jobgateway-get.1"]
    # The settings of `serve` are read later than its other options.
    assert r"\fB\-\-max\-calls\fR \fINUMBER\fR" in pages["jobgateway-serve.1"]
    assert r"\fB\-\-version\fR" in pages["jobgateway.1"]


def test_each_group_of_commands_has_one_heading() -> None:
    for text, heading in ((cli_reference.page(), r"^## .+"), (cli_reference.manual()["jobgateway.1"], r"^\.SS .+")):
        found = re.findall(heading, text, re.MULTILINE)
        assert len(found) == len(set(found)) == 4


@pytest.mark.tools
def test_the_pages_have_no_mistakes_for_mandoc() -> None:
    checked = subprocess.run(  # noqa: S603 - a tool of CI
        [*tool(["mandoc"]), "-T", "lint", "-W", "warning", *map(str, PAGES)],
        capture_output=True,
        text=True,
        check=False,
    )
    # A date would change at each release, or lie.
    assert [each for each in checked.stdout.splitlines() if "missing date" not in each] == []
    assert checked.stdout.count("missing date") == len(PAGES)


@pytest.mark.tools
def test_an_example_in_a_page_can_be_copied() -> None:
    render = [*tool(["mandoc"]), "-T", "ascii", "-O", "width=120", str(MANUAL / "jobgateway-run.1")]
    done = subprocess.run(render, capture_output=True, text=True, check=True)  # noqa: S603 - a tool of CI
    shown = re.sub(r".\x08", "", done.stdout)
    assert "echo '{\"duration\": 2}' |\n" in shown
    assert "jobgateway run --workspace 1 --entity 7 --method succeed \\\n" in shown
