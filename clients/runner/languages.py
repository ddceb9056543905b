"""The languages: the commands in `client.json` that build, check and start each client."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from clients.runner.scenarios import CLIENTS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping


class Package(BaseModel):
    """The package of a language, which `make packages` builds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    build: list[str]
    artifacts: dict[str, list[str]]
    tests: list[str]
    example: list[str]


class Manifest(BaseModel):
    """The contents of a `client.json` (clients/README.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tools: list[str]
    build: list[str]
    check: list[str]
    programs: dict[str, str]
    race: dict[str, str] = {}
    package: Package
    reads_service_config: bool = False


class CommandFailed(Exception):
    """A command of a language failed; the message has the command and its output."""


@dataclass(frozen=True)
class Language:
    """A folder of `clients/` that has a `client.json`."""

    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.name

    def test_files(self) -> list[Path]:
        """Return the files of the tests, which no artifact may contain.

        Raises:
            ValueError: No file matches one of the patterns in `client.json`.

        """
        found: list[Path] = []
        for pattern in self.manifest.package.tests:
            matching = sorted(self.folder.glob(pattern))
            if not matching:
                raise ValueError(f"{self.name}: no test matches {pattern}")
            found += matching
        return found

    def missing(self) -> list[str]:
        """Return the tools that are not on the PATH."""
        return [tool for tool in self.manifest.tools if not shutil.which(tool, path=environment()["PATH"])]

    async def build(self, *, check: bool) -> float:
        """Build the client, then run its formatter and linter if `check` is true.

        Returns:
            The duration of the build in seconds.

        Raises:
            CommandFailed: A command failed.

        """
        start = time.monotonic()
        for command in self.manifest.build:
            await self.shell(command)
        seconds = time.monotonic() - start
        for command in self.manifest.check if check else ():
            await self.shell(command)
        return seconds

    async def shell(
        self, command: str, *, folder: Path | None = None, variables: Mapping[str, str] | None = None
    ) -> str:
        """Run a command in `folder` (default: that of the language), and return its output, standard error included.

        Raises:
            CommandFailed: The command failed.

        """
        process = await asyncio.create_subprocess_shell(
            command,
            cwd=folder or self.folder,
            env={**environment(), **(variables or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        text = output.decode(errors="replace")
        if process.returncode:
            raise CommandFailed(f"{self.name}: {command}\n{text}")
        return text


def environment() -> dict[str, str]:
    """Return the environment of a language's commands: the tools of this Python come first on the PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path}


def add_require_all(parser: argparse.ArgumentParser) -> None:
    """Add the option that makes a missing toolchain a failure."""
    parser.add_argument(
        "--require-all",
        action="store_true",
        default=os.environ.get("CI") == "true",
        help="fail if a toolchain is missing (default with CI=true)",
    )


def load() -> list[Language]:
    """Return all languages, sorted by name."""
    found = sorted(CLIENTS.glob("*/client.json"))
    return [Language(each.parent, Manifest.model_validate(json.loads(each.read_text()))) for each in found]
