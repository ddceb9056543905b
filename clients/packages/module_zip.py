"""Write the zip file of a Go module: `module_zip.py FOLDER MODULE VERSION FILE...`, without tests."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path


def main(folder: str, module: str, version: str, *names: str) -> None:
    """Write `FOLDER/MODULE@VERSION.zip`, in which each name begins with `MODULE@VERSION/`."""
    with zipfile.ZipFile(Path(folder) / f"{module}@{version}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            for path in sorted([Path(name), *Path(name).rglob("*")]):
                if path.is_file() and not path.name.endswith("_test.go"):
                    archive.write(path, f"{module}@{version}/{path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
