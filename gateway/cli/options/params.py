"""The input of a job from the command line, a file or standard input, as JSON whose values are unchanged."""

import json
import os
from pathlib import Path

from gateway.cli.options.files import MAX_PARAMS_BYTES, FileTooLargeError, read_bounded, read_stdin
from gateway.cli.options.shared import STANDARD_STREAM
from gateway.strict_json import check_json, other_encoding, reject_constant, without_mark


class ParamsInvalid(Exception):
    """The input cannot be sent."""


def read_params(pairs: list[str], text: str | None, file: Path | None) -> bytes | None:
    """Return the JSON to send, or None if no input was given.

    Args:
        pairs: Members of an object, each as `KEY=VALUE`.
        text: The JSON itself.
        file: A file with the JSON; `-` is standard input.

    Raises:
        ParamsInvalid: The input was given in more than one way, or is not strict JSON in UTF-8.

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
    try:
        return read_stdin(MAX_PARAMS_BYTES) if file == STANDARD_STREAM else read_bounded(file, MAX_PARAMS_BYTES)
    except FileTooLargeError as error:
        raise ParamsInvalid(f"--params-file {file}: {error.strerror}") from error
    except OSError as error:
        problem = f"--params-file {file} cannot be read: {error.strerror}"
        raise ParamsInvalid(f"{problem}; check the path and its permissions") from error


def _checked(source: str, document: bytes) -> bytes:
    """Return a document without a byte order mark.

    Raises:
        ParamsInvalid: It is not strict JSON in UTF-8.

    """
    if encoding := other_encoding(document):
        raise ParamsInvalid(f"{source} is in {encoding}; save it in UTF-8")
    # Editors of Windows write the mark, and readers may ignore it (RFC 8259, section 8.1), as jq does.
    document = without_mark(document)
    if not document.strip():
        raise ParamsInvalid(f"{source} is empty; give a JSON value, or leave the option out")
    try:
        check_json(document)
    except ValueError as error:
        raise ParamsInvalid(f"{source}: {error}") from error
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
    joined = "{" + ", ".join(f"{_quoted(key)}: {value}" for key, value in members.items()) + "}"
    return _checked("--param", os.fsencode(joined))


def _member(value: str) -> str:
    """Return a value that is JSON as it is, and any other as a string."""
    try:
        json.loads(value, parse_int=str, parse_float=str, parse_constant=reject_constant)
    except ValueError:
        return _quoted(value)
    except RecursionError:
        pass
    return value


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
