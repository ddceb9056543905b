"""The command that repeats this one with a correction."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from gateway.cli.client.session import connection_words

if TYPE_CHECKING:
    from gateway.cli.options.shared import ConnectionOptions


class Repeat:
    """The command line of `doctor` with the options of this run, for copying."""

    def __init__(self, call: ConnectionOptions, uid: int | None) -> None:
        self._target = call.target
        self._words = connection_words(call)
        self._job = [str(uid)] if uid else []

    def __call__(self, *more: str) -> str:
        """Return the command with further options, which replace those of the same names."""
        kept = _without(self._words, *more)
        return self._command(self._target, *kept, *more)

    def to(self, host: str, port: int) -> str:
        """Return the command for another host."""
        return self._command(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", *self._words)

    def plain(self) -> str:
        """Return the command without TLS."""
        kept = _without(self._words, "--ca-file", "--cert-file", "--key-file")
        return self._command(self._target, *(word for word in kept if word != "--tls"))

    def _command(self, target: str, *words: str) -> str:
        return shlex.join(["jobgateway", "doctor", *self._job, "--target", target, *words])


def _without(words: tuple[str, ...], *options: str) -> list[str]:
    """Return the words without these options and their values."""
    kept = [*words]
    for option in options:
        if option.startswith("--") and option != "--tls" and option in kept:
            del kept[kept.index(option) : kept.index(option) + 2]
    return kept
