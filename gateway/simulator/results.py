"""The results of simulated jobs, built as bytes: large results cost no encoding, and invalid ones are possible."""

from __future__ import annotations

from gateway.simulator.parameters import Parameters

_BIG_INTEGERS = b"[9007199254740993,18446744073709551617,-9223372036854775809,1700000000123456789]"


def result_json(parameters: Parameters) -> bytes:
    """Return the result of a job as JSON (with `invalid_utf8`, JSON with an invalid byte).

    With `result_bytes` it has exactly that many bytes, unless its other contents need more.
    """
    if bytes(parameters.result):
        return bytes(parameters.result)
    parts = [b'"data":{"sum":3}']
    if parameters.big_integers:
        parts.append(b'"table":{"ids":' + _BIG_INTEGERS + b"}")
    if parameters.lone_surrogate:
        parts.append(b'"web":{"html":"\\ud800"}')
    if parameters.invalid_utf8:
        parts.append(b'"download":{"name":"\xff"}')
    if depth := parameters.result_depth:
        parts.append(b'"geometry":' + b'{"a":' * depth + b"1" + b"}" * depth)
    if parameters.result_bytes:
        parts.append(_padding(parameters.result_bytes - len(_joined(parts))))
    return _joined(parts)


def _joined(parts: list[bytes]) -> bytes:
    return b"{" + b",".join(part for part in parts if part) + b"}"


def _padding(size: int) -> bytes:
    """Return a member that makes an object `size` bytes longer, or nothing if `size` is too small for one."""
    head, tail = b'"image":"', b'"'
    length = size - len(b"," + head + tail)
    return head + b"x" * length + tail if length >= 0 else b""
