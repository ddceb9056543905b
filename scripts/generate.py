"""Write generated/ from proto/, or with --check list the files that are stale, missing or left over."""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
GENERATED = ROOT / "generated"


def generate(into: Path) -> None:
    """Compile all proto files of `PROTO` into the folder `into`."""
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    # The mypy plugins are installed next to this interpreter, which may not be on the PATH.
    plugins = [
        f"--plugin=protoc-gen-{name}={Path(sys.executable).parent / f'protoc-gen-{name}'}"
        for name in ("mypy", "mypy_grpc")
    ]
    outputs = [f"--{name}_out={into}" for name in ("python", "grpc_python", "mypy", "mypy_grpc")]
    well_known = str(files("grpc_tools") / "_proto")
    code = protoc.main(["protoc", f"-I{PROTO}", f"-I{well_known}", *plugins, *outputs, *sources])
    if code != 0:
        sys.exit(f"protoc: exit code {code}; see its message above")
    for folder in {path.parent for path in into.rglob("*.py")}:
        (folder / "py.typed").touch()
        while folder != into:
            (folder / "__init__.py").touch()
            folder = folder.parent


def differences(expected: Path, actual: Path) -> list[str]:
    """Return a line for each file that is missing from `actual`, left over in it, or different."""
    names = [
        {str(path.relative_to(root)) for path in root.rglob("*") if path.suffix != ".pyc" and path.is_file()}
        for root in (expected, actual)
    ]
    wanted, found = names
    changed = filecmp.cmpfiles(expected, actual, sorted(wanted & found), shallow=False)[1]
    return (
        [f"missing: {name}" for name in sorted(wanted - found)]
        + [f"left over: {name}" for name in sorted(found - wanted)]
        + [f"stale: {name}" for name in changed]
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if generated/ is stale")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        if check:
            stale = differences(fresh, GENERATED)
            sys.exit("\n".join([*stale, "run `make generate` and commit the result"]) if stale else 0)
        shutil.rmtree(GENERATED, ignore_errors=True)
        shutil.copytree(fresh, GENERATED)


if __name__ == "__main__":
    main()
