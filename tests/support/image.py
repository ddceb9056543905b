"""Execute the build stage of deploy/Dockerfile in a folder, without a container engine.

Not covered: the base image, USER and the read-only root file system.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.support.paths import ROOT

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
INSTALLED = "/opt/jobgateway"


class Instruction(NamedTuple):
    """One line of a Dockerfile, with its continuations."""

    name: str
    argument: str


def stages(text: str) -> list[list[Instruction]]:
    """Return the instructions of each stage, without those before the first FROM."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    found: list[list[Instruction]] = []
    for line in filter(None, map(str.strip, lines)):
        name, _, argument = line.partition(" ")
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append(Instruction(name, argument.strip()))
    return found


def in_context(name: str) -> bool:
    """Return True if .dockerignore lets `name` (relative to the root) into the build. The last pattern decides."""
    included = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#") and fnmatch.fnmatchcase(name, line.removeprefix("!")):
            included = line.startswith("!")
    return included


class BuiltImage:
    """The result of the build stage in `folder`, and the start command of the last stage."""

    def __init__(self, folder: Path, wheels: list[Path]) -> None:
        self._folder = folder
        build, last = stages(DOCKERFILE.read_text())
        self.installed = folder / INSTALLED.lstrip("/")
        self._build(build, wheels)
        settings = {each.name: each.argument for each in last}
        self.entrypoint: list[str] = json.loads(settings["ENTRYPOINT"])
        self.command: list[str] = json.loads(settings["CMD"])
        pairs = (pair.split("=", 1) for pair in settings["ENV"].split())
        self.environment = {name: self._here(value).replace("$PATH", os.defpath) for name, value in pairs}

    def executable(self) -> str:
        """Return the entry point as found on the image's PATH."""
        found = shutil.which(self.entrypoint[0], path=self.environment["PATH"])
        assert found is not None
        assert Path(found).is_relative_to(self.installed)
        return found

    def _here(self, text: str) -> str:
        return text.replace(INSTALLED, str(self.installed))

    def _build(self, instructions: list[Instruction], wheels: list[Path]) -> None:
        context = {"requirements.lock": ROOT / "requirements.lock", **{f"dist/{wheel.name}": wheel for wheel in wheels}}
        work = self._folder
        # The `python` of the image is the interpreter of these tests, outside their virtual environment.
        python = self._folder / "bin" / "python"
        python.parent.mkdir()
        python.write_text(f'#!/bin/sh\nexec "{Path(sys.base_prefix) / "bin" / "python3"}" "$@"\n')
        python.chmod(0o755)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
        environment["PATH"] = f"{python.parent}:{os.environ['PATH']}"
        for name, argument in instructions:
            if name == "WORKDIR":
                work = self._folder / argument.lstrip("/")
                work.mkdir(parents=True, exist_ok=True)
            elif name == "COPY":
                *patterns, target = argument.split()
                for pattern in patterns:
                    taken = [each for each in context if fnmatch.fnmatchcase(each, pattern) and in_context(each)]
                    assert taken, f"COPY {pattern} finds nothing"
                    for each in taken:
                        shutil.copy(context[each], work / target)
            elif name == "RUN":
                subprocess.run(["/bin/sh", "-ec", self._here(argument)], cwd=work, env=environment, check=True)  # noqa: S603 - our own Dockerfile
            else:
                assert name == "FROM", f"{name} is not supported in the build stage"
