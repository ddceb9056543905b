"""The clients: how each is built, checked and started, as its `client.json` says."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from clients.runner.scenarios import CLIENTS


class Manifest(BaseModel):
    """A `client.json`; clients/README.md explains it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tools: list[str]
    build: list[str]
    check: list[str]
    programs: dict[str, str]
    reads_service_config: bool = False


class CommandFailed(Exception):
    """A command of a language ended with an error; the text has the command and what it wrote."""


@dataclass(frozen=True)
class Language:
    """One folder of `clients/`."""

    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """Its name, which is that of the folder."""
        return self.folder.name

    def missing(self) -> list[str]:
        """The tools that are not there."""
        return [tool for tool in self.manifest.tools if not shutil.which(tool, path=environment()["PATH"])]

    async def build(self, *, check: bool) -> float:
        """Builds the client, and then runs its formatter and linter where `check` says so.

        Returns the seconds that it took to build.

        Raises:
            CommandFailed: one of the commands failed.

        """
        start = time.monotonic()
        for command in self.manifest.build:
            await self._shell(command)
        seconds = time.monotonic() - start
        for command in self.manifest.check if check else ():
            await self._shell(command)
        return seconds

    async def _shell(self, command: str) -> None:
        process = await asyncio.create_subprocess_shell(
            command,
            cwd=self.folder,
            env=environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if process.returncode:
            raise CommandFailed(f"{self.name}: {command}\n{output.decode(errors='replace')}")


def environment() -> dict[str, str]:
    """The environment of a language's commands: this Python's tools come first on the PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path}


def load() -> list[Language]:
    """All languages, by name."""
    found = sorted(CLIENTS.glob("*/client.json"))
    return [Language(each.parent, Manifest.model_validate(json.loads(each.read_text()))) for each in found]
