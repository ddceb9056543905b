"""The input of a job from the command line, a file or standard input, as unchanged JSON."""

import json
import os
import sys
from pathlib import Path

from gateway.cli.files import MAX_PARAMS_BYTES, read_bounded
from gateway.cli.options import STANDARD_STREAM
from gateway.strict_json import reject_constant


class ParamsInvalid(Exception):
    """The input cannot be sent."""


def read_params(pairs: list[str], text: str | None, file: Path | None) -> bytes | None:
    """Return the JSON to send, or None if no input was given.

    Args:
        pairs: Members of an object, each as `KEY=VALUE`.
        text: The JSON itself.
        file: A file with the JSON; `-` is standard input.

    Raises:
        ParamsInvalid: The input was given in more than one way, or is not JSON.

    """
    if bool(pairs) + (text is not None) + (file is not None) > 1:
        raise ParamsInvalid("the input is given twice; give it in one way only: --param, --params or --params-file")
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
            raise ParamsInvalid(f"--param {pair} is not KEY=VALUE; write a name, = and a value")
        if key in members:
            raise ParamsInvalid(f"--param {key} is given twice; give it once")
        members[key] = _member(value)
    # The values stay as they were written, so that no number is rounded.
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
    """Check a document without converting its numbers, because those of Python have limits.

    Raises:
        ValueError: It is not JSON.

    """
    try:
        json.loads(document, parse_int=str, parse_float=str, parse_constant=reject_constant)
    except RecursionError:
        return  # the gateway has its own limit of nesting
