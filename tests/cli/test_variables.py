"""The environment variable of each option."""

import inspect
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.cli.options import variables
from gateway.cli.options.shared import ConnectionOptions, JobOptions, QuickCallOptions, expanded
from gateway.config import PREFIX, Settings


def root() -> Any:
    group: Any = typer.main.get_command(app)
    return typer.Context(group, info_name="jobgateway", **group.context_settings)


def commands(context: Any) -> Iterator[Any]:
    """Yield the context of each command."""
    yield context
    for name in getattr(context.command, "commands", {}):
        inner = context.command.get_command(context, name)
        yield from commands(typer.Context(inner, info_name=name, parent=context))


@pytest.mark.parametrize("path", [each.command_path for each in commands(root())])
def test_each_option_has_a_variable_in_its_help(path: str) -> None:
    (context,) = (each for each in commands(root()) if each.command_path == path)
    shown = CliRunner().invoke(app, [*path.split()[1:], "--help"], env={"COLUMNS": "300"}).stdout
    shown = " ".join(shown.replace("│", " ").split())
    for option in context.command.params:
        if option.param_type_name == "option":
            variable = variables.of_option(option, context)
            # JOBGATEWAY_VERSION may be set for another purpose.
            assert (variable is None) == ("--version" in option.opts), option.opts
            assert variable is None or f"[env var: {variable}" in shown, (option.opts, shown)


def test_a_variable_is_the_same_option_everywhere() -> None:
    names: dict[str, set[str]] = {}
    for option, variable in variables.of_options(root()):
        names.setdefault(variable, set()).add(option)
    assert {variable: options for variable, options in names.items() if len(options) > 1} == {}
    assert {"JOBGATEWAY_TARGET", "JOBGATEWAY_CONTEXT", "JOBGATEWAY_OUTPUT", "JOBGATEWAY_WAIT_TIMEOUT"} <= set(names)


def test_no_variable_of_an_option_is_a_setting() -> None:
    settings = {PREFIX + name.upper() for name in Settings.model_fields}
    assert settings & {variable for _, variable in variables.of_options(root())} == set()


def test_serve_knows_the_variables_of_other_commands() -> None:
    known = {"JOBGATEWAY_TOKEN", "JOBGATEWAY_TARGET", "JOBGATEWAY_DEV_LISTEN", "JOBGATEWAY_CONFIG_SET_TARGET"}
    assert {each for each in known if variables.is_of_client(root(), each)} == known
    assert not variables.is_of_client(root(), "JOBGATEWAY_MAX_CALL")


def test_a_new_option_has_a_variable_automatically() -> None:
    given: list[object] = []

    def command(call: QuickCallOptions, job: JobOptions, new: Annotated[int, typer.Option()] = 1) -> None:
        given.extend((call.deadline, job.workspace, job.events, job.poll_result, new))

    own = typer.Typer(context_settings={"auto_envvar_prefix": "JOBGATEWAY_COMMAND"})
    own.command()(expanded(command))
    environment = {
        "JOBGATEWAY_DEADLINE": "2.5",
        "JOBGATEWAY_WORKSPACE": "from-variable",
        "JOBGATEWAY_ENTITY": "7",
        "JOBGATEWAY_EVENT": "one two",
        "JOBGATEWAY_POLL_RESULT": "true",
        "JOBGATEWAY_COMMAND_NEW": "5",
    }
    result = CliRunner().invoke(own, ["--workspace", "from-option"], env=environment)
    assert result.exit_code == 0, result.output
    assert given == [2.5, "from-option", ["one", "two"], True, 5]


def test_a_wrong_value_of_a_variable_names_the_option() -> None:
    result = CliRunner().invoke(app, ["get", "5"], env={"JOBGATEWAY_DEADLINE": "soon"})
    assert result.exit_code == 2
    assert "--deadline" in result.stderr
    assert result.stderr.count("\n") == 1


def test_help_and_version_have_no_variable() -> None:
    names = ("JOBGATEWAY_VERSION", "JOBGATEWAY_HELP", "JOBGATEWAY_CONFIG_HELP", "JOBGATEWAY_CONFIG_PATH_HELP")
    result = CliRunner().invoke(app, ["config", "path"], env=dict.fromkeys(names, "1"))
    assert (result.exit_code, result.stdout.count("\n")) == (0, 1)


def test_config_set_stores_no_variable_of_other_commands() -> None:
    set_context = root().command.commands["config"].commands["set"]
    stored = {each.name for each in set_context.params} - {"name"}
    options = inspect.signature(ConnectionOptions).parameters
    # A new option of the connection must have its place in a context.
    assert stored == set(options) - {"context", "chosen", "sources", "takes_token"}
    shared = {f"{PREFIX}{name.upper()}" for name in stored}
    context = typer.Context(set_context, info_name="set", parent=root())
    assert shared & {str(variables.of_option(each, context)) for each in set_context.params[1:]} == set()


def test_the_output_of_a_command_is_one_variable_for_all() -> None:
    outputs = [each for each in variables.of_options(root()) if each[0] == "--output"]
    assert set(outputs) == {("--output", "JOBGATEWAY_OUTPUT")}
    # The jobs', ping, doctor, config list and config show.
    assert len(outputs) == 10
