"""Record `jobgateway demo` as docs/images/demo.svg."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "demo.svg"
COLUMNS = 100


def main() -> None:
    """Run the demo, and write its output as a picture."""
    environment = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    command = [str(Path(sys.executable).parent / "jobgateway"), "demo"]
    done = subprocess.run(  # noqa: S603 - our own command
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )
    # The ports are different each time.
    text = re.sub(r"127\.0\.0\.1:\d+/", "127.0.0.1:8080/", done.stdout)
    text = re.sub(r"127\.0\.0\.1:\d+(?!/|\d)", "127.0.0.1:50051", text)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(f"$ jobgateway demo\n{text.rstrip()}"))
    PICTURE.write_text(console.export_svg(title="jobgateway demo", unique_id="demo"))


if __name__ == "__main__":
    main()
