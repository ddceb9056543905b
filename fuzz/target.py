"""`python -m fuzz.target NAME [libFuzzer's arguments]`: one target under atheris."""

from __future__ import annotations

import importlib
import sys

import atheris


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    name, *arguments = sys.argv[1:]
    with atheris.instrument_imports(include=["gateway", "email"]):
        target = importlib.import_module(f"fuzz.{name}")
    atheris.Setup([name, *arguments], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
