"""The values of options, and the lines for those that are wrong."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner

from gateway.cli.app import app as jobgateway
from gateway.cli.parsing.command import Command


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


app = typer.Typer()


@app.command(cls=Command)
def show(
    numbers: Annotated[list[int], typer.Argument(min=1, metavar="NUMBER")],
    seconds: Annotated[float | None, typer.Option(min=0.5, max=9)] = None,
    words: Annotated[list[str] | None, typer.Option("--word")] = None,
    file: Path | None = None,
    colour: Colour = Colour.RED,
    kind: Literal["a", "b"] = "a",
    switch: Annotated[bool | None, typer.Option(envvar="SWITCH")] = None,
) -> None:
    typer.echo((numbers, seconds, words, file, colour, kind, switch))


def test_values_have_the_types_of_their_options() -> None:
    given = "1 2 --seconds 1.5 --word x --word y --file z --colour blue --kind b --switch"
    result = CliRunner().invoke(app, given.split())
    expected = ([1, 2], 1.5, ["x", "y"], Path("z"), Colour.BLUE, "b", True)
    assert result.output == f"{expected}\n"


def test_options_that_were_not_given_have_their_defaults() -> None:
    result = CliRunner().invoke(app, ["+07"])
    assert result.output == f"{([7], None, None, None, Colour.RED, 'a', None)}\n"


@pytest.mark.parametrize(("text", "value"), [("true", True), ("0", False)])
def test_a_switch_is_read_from_its_variable(text: str, value: bool) -> None:
    result = CliRunner().invoke(app, ["1"], env={"SWITCH": text})
    assert result.output.endswith(f"{value})\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("get x", "Invalid value for 'UID': x is not a whole number"),
        ("get 1.0", "Invalid value for 'UID': 1.0 is not a whole number"),
        (
            "get \N{ARABIC-INDIC DIGIT FIVE}",
            "Invalid value for 'UID': \N{ARABIC-INDIC DIGIT FIVE} is not a whole number",
        ),
        ("get 0", "Invalid value for 'UID': 0 must be from 1 to 9223372036854775807"),
        (f"get {'9' * 5000}", f"Invalid value for 'UID': {'9' * 5000} is not a whole number"),
        (
            "get 5 --deadline nan",
            "Invalid value for '--deadline' (env var: 'JOBGATEWAY_DEADLINE'): nan must be from 0.1 to 31622400",
        ),
        (
            "get 5 --deadline soon",
            "Invalid value for '--deadline' (env var: 'JOBGATEWAY_DEADLINE'): soon is not a number",
        ),
        (
            "send --workspace 1 --entity 0",
            "Invalid value for '--entity' (env var: 'JOBGATEWAY_ENTITY'): 0 must be from 1 to 9223372036854775807",
        ),
        (
            "doctor -o yaml",
            "Invalid value for '--output' / '-o' (env var: 'JOBGATEWAY_OUTPUT'): 'yaml' is not one of 'text', 'json'",
        ),
        (
            "send --params-file=",
            "Invalid value for '--params-file' (env var: 'JOBGATEWAY_PARAMS_FILE'): it is empty; name a file",
        ),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_is_right(arguments: str, line: str) -> None:
    command = arguments.split()[0]
    result = CliRunner().invoke(jobgateway, arguments.split())
    see = "" if "; " in line else f"; see jobgateway {command} --help"
    assert (result.exit_code, result.stderr) == (2, f"{line}{see}\n")


def test_a_switch_that_is_neither_on_nor_off_is_one_line() -> None:
    result = CliRunner().invoke(jobgateway, ["get", "5"], env={"JOBGATEWAY_TLS": "maybe"})
    problem = "Invalid value for '--tls' (env var: 'JOBGATEWAY_TLS'): maybe must be true or false"
    assert (result.exit_code, result.stderr) == (2, f"{problem}; see jobgateway get --help\n")


def test_a_mistyped_command_is_a_line_with_the_right_one() -> None:
    result = CliRunner().invoke(jobgateway, ["gett", "5"])
    assert (result.exit_code, result.stderr) == (2, "No such command 'gett'; did you mean 'get'?\n")


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [
        (["get", "abc", "-o", "json"], None),
        (["get", "1", "-ojson", "--bogus"], "text"),
        (["run", "--workspace", "1", "--output=json"], None),
        (["ping", "--bogus", "--output", "json"], None),
        (["config", "list", "more", "-o", "json"], None),
        (["gett", "-o", "json"], None),
        (["get"], "json"),
        (["doctor", "abc"], "json"),
        (["config", "show", "--context", "nowhere"], "json"),
    ],
)
def test_with_json_wrong_usage_is_an_object_too(arguments: list[str], variable: str | None) -> None:
    result = CliRunner().invoke(jobgateway, arguments, env={"JOBGATEWAY_OUTPUT": variable})
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert (error["code"], error["message"] + "\n") == ("USAGE", result.stderr)


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [
        (["get", "abc", "-o", "json", "-o", "text"], None),
        (["get", "abc", "-o", "text"], "json"),
        (["get", "abc", "--", "-o", "json"], None),
        (["serve", "--bogus"], "json"),
    ],
)
def test_without_json_wrong_usage_is_a_line_only(arguments: list[str], variable: str | None) -> None:
    result = CliRunner().invoke(jobgateway, arguments, env={"JOBGATEWAY_OUTPUT": variable})
    assert (result.exit_code, result.stdout) == (2, "")
