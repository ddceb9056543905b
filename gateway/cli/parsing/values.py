"""The conversion of the values of options, without pydantic, whose import takes as long as that of gRPC.

Typer converts every value with pydantic, also the default None. This is done here for the kinds that we have.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import typer
from typer._param_types import coerce_cli_choice, coerce_cli_path

from gateway.cli.parsing.switches import is_on

_WHOLE = re.compile(r"[+-]?[0-9]+")
# Longer ones are out of all ranges, and Python refuses to convert the longest.
_MAX_DIGITS = 100


def convert_quickly(params: list[Any]) -> None:
    """Make parameters convert their values here, as far as their kinds are known."""
    for each in params:
        each.get_runtime_param = _Conversion(each).itself


class _Conversion:
    """The conversion of one parameter, in the place of Typer's `RuntimeParam`."""

    def __init__(self, param: Any) -> None:
        self._typer = param.get_runtime_param
        self._info = param.type_descriptor.parameter_info
        self._convert = self._converter(param.type_descriptor)

    def itself(self) -> "_Conversion":
        """Return this object, as Typer asks for it."""
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the value of a parameter.

        Raises:
            BadParameter: It is not of the kind, or out of the range.

        """
        is_list = param.multiple or param.nargs == -1
        if value is None:
            return () if is_list else None
        if self._convert is None:
            return self._typer().coerce(value, param=param, ctx=ctx)
        try:
            return [self._convert(each) for each in value] if is_list else self._convert(value)
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx, param=param) from error

    def _converter(self, descriptor: Any) -> Callable[[Any], Any] | None:
        kind = get_args(descriptor.annotation)[0] if descriptor.is_list else descriptor.annotation
        if self._info.parser is not None:
            return self._info.parser  # type: ignore[no-any-return]
        if descriptor.choices is not None:
            return lambda value: coerce_cli_choice(
                value, choices=descriptor.choices, case_sensitive=descriptor.case_sensitive
            )
        known: dict[Any, Callable[[Any], Any]] = {
            str: str,
            bool: _switch,
            int: self._number(_whole),
            float: self._number(_real),
            Path: self._path,
        }
        return known.get(kind)

    def _path(self, value: Any) -> Any:
        # Python reads an empty text as the current folder.
        if value == "":
            raise ValueError("it is empty; name a file")
        return coerce_cli_path(Path(value), self._info, path_type=Path)

    def _number(self, parse: Callable[[Any], float]) -> Callable[[Any], float]:
        low, high = self._info.min, self._info.max

        def number(value: Any) -> float:
            parsed = parse(value)
            # As comparisons that must hold, because NaN fails each.
            if (low is not None and not parsed >= low) or (high is not None and not parsed <= high):
                limits = f"from {low} to {high}" if None not in (low, high) else f"at least {low}"
                raise ValueError(f"{value} must be {limits}")
            return parsed

        return number


def _switch(value: Any) -> bool:
    return is_on(value) if isinstance(value, str) else bool(value)


def _whole(value: Any) -> int:
    if isinstance(value, int):
        return value
    if not _WHOLE.fullmatch(value) or len(value) > _MAX_DIGITS:
        raise ValueError(f"{value} is not a whole number")
    return int(value)


def _real(value: Any) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{value} is not a number") from None
