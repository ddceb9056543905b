"""The input of a job, from the command line, a file or standard input, as JSON that nothing was done to."""

import json
import os
import sys
from pathlib import Path

from gateway.cli.files import MAX_PARAMS_BYTES, read_bounded
from gateway.cli.options import STANDARD_STREAM
from gateway.strict_json import reject_constant


class ParamsInvalid(Exception):
    """The input cannot be sent; the text says why."""


def read_params(pairs: list[str], text: str | None, file: Path | None) -> bytes | None:
    """The JSON to send, or None where no way to give it was used.

    The ways are `pairs` of the form `KEY=VALUE`, each a member of an object; the JSON itself as a `text`; and a `file`
    that has it, where `-` is standard input. Raises `ParamsInvalid` where more than one was used, or what came is not
    JSON.
    """
    if bool(pairs) + (text is not None) + (file is not None) > 1:
        raise ParamsInvalid("give the input in one way only: --param, --params or --params-file")
    if pairs:
        return _object(pairs)
    if text is not None:
        return _checked("--params", os.fsencode(text))
    if file is not None:
        return _checked(f"--params-file {file}", _contents(file))
    return None


def _contents(file: Path) -> bytes:
    if file == STANDARD_STREAM:
        return sys.stdin.buffer.read()
    try:
        return read_bounded(file, MAX_PARAMS_BYTES)
    except OSError as error:
        raise ParamsInvalid(f"--params-file {file} cannot be read: {error.strerror}") from error


def _checked(source: str, document: bytes) -> bytes:
    try:
        _parse(document)
    except ValueError as error:
        raise ParamsInvalid(f"{source} is not JSON: {error}") from error
    return document


def _object(pairs: list[str]) -> bytes:
    members: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise ParamsInvalid(f"--param {pair} is not KEY=VALUE")
        if key in members:
            raise ParamsInvalid(f"--param {key} is given twice")
        members[key] = _member(value)
    # The values are put together as they were written, so that no number is rounded on its way.
    return os.fsencode("{" + ", ".join(f"{_quoted(key)}: {value}" for key, value in members.items()) + "}")


def _member(value: str) -> str:
    try:
        _parse(value)
    except ValueError:
        return _quoted(value)
    return value


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _parse(document: str | bytes) -> None:
    """Checks a document without turning its numbers into Python's, which have limits.

    Raises `ValueError` where it is not JSON.
    """
    try:
        json.loads(document, parse_int=str, parse_float=str, parse_constant=reject_constant)
    except RecursionError:
        return  # it is nested too deep for Python, and the gateway has a limit of its own
