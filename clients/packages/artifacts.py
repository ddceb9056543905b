"""The contents of an artifact, compared with the patterns of its manifest."""

from __future__ import annotations

import tarfile
import zipfile
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path


def names(artifact: Path) -> list[str]:
    """Return the names of all files in an archive or a folder.

    Raises:
        ValueError: The file is no archive that this function reads.

    """
    if artifact.is_dir():
        return sorted(str(path.relative_to(artifact)) for path in artifact.rglob("*") if path.is_file())
    if zipfile.is_zipfile(artifact):
        with zipfile.ZipFile(artifact) as archive:
            return sorted(name for name in archive.namelist() if not name.endswith("/"))
    if tarfile.is_tarfile(artifact):
        with tarfile.open(artifact) as archive:
            # A link is not the file that it promises: installers reject those that leave the archive.
            return sorted(
                member.name + (f" -> {member.linkname}" if member.linkname else "")
                for member in archive
                if not member.isdir()
            )
    raise ValueError(f"{artifact.name}: neither a folder nor a zip or tar archive")


def size(artifact: Path) -> int:
    """Return the size of a file, or of all files of a folder, in bytes."""
    files = artifact.rglob("*") if artifact.is_dir() else [artifact]
    return sum(path.stat().st_size for path in files if path.is_file())


def unexpected(found: Sequence[str], patterns: Sequence[str]) -> Iterator[str]:
    """Yield the differences between file names and patterns. In a pattern, `*` also matches `/`."""
    for name in found:
        if not any(fnmatchcase(name, pattern) for pattern in patterns):
            yield f"{name} is not expected"
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in found):
            yield f"no file matches {pattern}"


def test_code(found: Iterable[str], tests: Iterable[PurePath]) -> Iterator[str]:
    """Yield the file names of an artifact that are those of tests, whatever their suffix and their folder are.

    They also include the nested classes of a Java class: `ClientTest$1.class`.
    """
    stems = {path.stem for path in tests}
    for name in found:
        if PurePath(name).stem.partition("$")[0] in stems:
            yield f"{name} is test code"
