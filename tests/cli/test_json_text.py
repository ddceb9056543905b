"""JSON on a terminal: only its white space changes."""

from __future__ import annotations

import json
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.output.json_text import escaped, pretty_json
from gateway.cli.output.terminal import show_result
from tests.support.terminal import Terminal

DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(DOCUMENTS, st.booleans())
def test_the_layout_is_that_of_json(document: object, ascii_only: bool) -> None:
    compact = json.dumps(document, ensure_ascii=ascii_only, separators=(",", ":"))
    if ascii_only:
        assert pretty_json(compact.encode()) == json.dumps(document, indent=2)
    else:
        shown = pretty_json(compact.encode(errors="replace"))
        assert json.loads(shown) == json.loads(compact.encode(errors="replace")) or "NaN" in shown


def test_no_token_changes_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = "0.1000000000000000055511151231257827 1.0000000000000000001 1e400 1E5 -0.0 12345678901234567890.5 NaN"
    members = [f'"{index % 2}" :{number}' for index, number in enumerate([*numbers.split(), '"\\u0041\\n\\/"', "[ ]"])]
    with Terminal(80) as terminal, os.fdopen(os.dup(terminal.fd), "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        show_result(("{" + ",\r\n".join(members) + "}").encode(), "")
        assert terminal.lines() == [
            "{",
            *(f'  "{index % 2}": {number},' for index, number in enumerate(numbers.split())),
            '  "1": "\\u0041\\n\\/",',
            '  "0": []',
            "}",
        ]


@pytest.mark.parametrize(
    ("document", "shown"),
    [
        (b"a  b\r\nc\x9b", "a  b\nc\ufffd"),
        (b'["\xff", 1 ]', '["\ufffd", 1 ]'),
        (b"[" * 5000 + b"]" * 5000, "[" * 5000 + "]" * 5000),
    ],
)
def test_other_texts_than_json_keep_their_layout(document: bytes, shown: str) -> None:
    assert pretty_json(document) == shown


def test_numbers_of_any_length_are_indented() -> None:
    assert pretty_json(b"[" + b"1" * 5000 + b"]") == "[\n  " + "1" * 5000 + "\n]"


def test_control_characters_become_escapes() -> None:
    text = '"\x9b\u202e\u2028\x7f"'
    assert escaped(text) == '"\\u009b\\u202e\\u2028\\u007f"'
    assert pretty_json(f"[{text}]".encode()) == f"[\n  {escaped(text)}\n]"
