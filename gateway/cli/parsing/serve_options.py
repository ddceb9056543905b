"""The options of `serve`: one for each setting, generated from `gateway/config.py`.

They are generated when `serve` needs them, so that other commands do not wait for the import of the settings.
"""

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.parsing.command import Command

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


class ServeCommand(Command):
    """A command with an option for each setting, besides its own options."""

    _settings: list[Any] | None = None

    def get_params(self, ctx: Any) -> list[Any]:
        """Return all options."""
        if self._settings is None:
            self._settings = _options()
        return [*self.params, *self._settings, *(each for each in [self.get_help_option(ctx)] if each)]

    def invoke(self, ctx: Any) -> Any:
        """Run the command, which finds the settings with `given_settings`."""
        settings = {each.name: ctx.params.pop(each.name) for each in self._settings or []}
        ctx.obj = {name: _text(value) for name, value in settings.items() if value is not None}
        return super().invoke(ctx)


def given_settings(context: typer.Context) -> dict[str, str]:
    """Return the settings that were given as options, as they would be in the environment, by their fields."""
    return dict(context.obj)


def _text(value: str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else value


def _options() -> list[Any]:
    from gateway.config import Settings

    def serve(**_: object) -> None:
        """Carry the options."""

    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(name, field))
        for name, field in Settings.model_fields.items()
    ]
    serve.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # Typer reads both
    serve.__annotations__ = {each.name: each.annotation for each in parameters}
    app = typer.Typer(add_completion=False)
    app.command()(serve)
    return list(typer.main.get_command(app).params)


def _annotation(name: str, field: "FieldInfo") -> Any:
    flag = f"--{name.replace('_', '-')}"
    is_switch = field.annotation is bool
    from gateway.config import choices

    words = list(choices(name))
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if is_switch else flag,
        metavar=None if is_switch else metavar(name),
        help=_help(name, field),
        show_default=False,
        autocompletion=(lambda: words) if words and not is_switch else None,
        # `gateway/config.py` reads the variables, because it reports all mistakes together.
        allow_from_autoenv=False,
        rich_help_panel="Settings",
    )
    return Annotated[bool | None if is_switch else str | None, option]


def metavar(name: str) -> str:
    """Return the word for the value of a setting, by its name."""
    ends = {
        "url": "URL",
        "listen": "HOST:PORT",
        "seconds": "SECONDS",
        "file": "FILE",
        "format": "FORMAT",
        "level": "LEVEL",
    }
    return ends.get(name.rpartition("_")[2], "NUMBER")


def _help(name: str, field: "FieldInfo") -> str:
    from gateway.config import PREFIX

    text = f"{(field.description or '').replace('`', '')} [env var: {PREFIX}{name.upper()}]"
    if field.default is None or field.is_required():
        return text
    return f"{text} [default: {_text(field.default) if isinstance(field.default, bool) else field.default}]"
