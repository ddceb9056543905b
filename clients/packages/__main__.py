"""Build the client packages, check their contents, and run the example of each from its artifact."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

import structlog
from rich.console import Console
from rich.table import Table

from clients.packages import artifacts, example
from clients.runner import languages
from clients.runner.languages import CommandFailed, Language, Package


async def main() -> int:
    """Build, check and report; return the exit code."""
    arguments = _arguments()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("language", "artifact", "bytes", "files", "seconds")
    failures: list[str] = []
    async with example.servers() as target:
        for language in languages.load():
            package = language.manifest.package
            if arguments.names and language.name not in arguments.names:
                continue
            start = time.monotonic()
            if missing := language.missing():
                found = [f"install {', '.join(missing)}"] if arguments.require_all else []
                console.print(f"{language.name}: skipped; install {', '.join(missing)}", style="yellow")
            else:
                found = await _problems(language, package, target, table, console if arguments.list else None)
                table.add_row(language.name, "", "", "", f"{time.monotonic() - start:.1f}", end_section=True)
            failures += [f"{language.name}: {each}" for each in found]
    console.print(table)
    for failure in failures:
        console.print(failure, markup=False, highlight=False, style="red")
    return 1 if failures or not table.row_count else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="LANGUAGE", help="the packages to build (default: all)")
    parser.add_argument("--list", action="store_true", help="print the names of all files")
    languages.add_require_all(parser)
    return parser.parse_args()


async def _problems(
    language: Language, package: Package, target: str, table: Table, listing: Console | None
) -> list[str]:
    found: list[str] = []
    try:
        for command in package.build:
            await language.shell(command)
        for pattern, patterns in package.artifacts.items():
            matching = sorted(language.folder.glob(pattern))
            if len(matching) != 1:
                found.append(f"{len(matching)} artifacts match {pattern}")
                continue
            (artifact,) = matching
            names = artifacts.names(artifact)
            differences = [*artifacts.unexpected(names, patterns), *artifacts.test_code(names, language.test_files())]
            found += [f"{artifact.name}: {each}" for each in differences]
            table.add_row(language.name, artifact.name, f"{artifacts.size(artifact):,}", str(len(names)), "")
            if listing:
                listing.print("\n".join([artifact.name, *(f"  {name}" for name in names)]), highlight=False)
        if not found:
            found = await example.run(language, package.example, target)
    except CommandFailed as error:
        found.append(str(error))
    return found


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
