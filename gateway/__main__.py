"""The command `jobgateway`, also as `python -m gateway`."""

import _signal  # type: ignore[import-not-found]

# Before any other import, so that Ctrl-C during one of them leaves no traceback.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import os
import sys

from gateway.cli import stdio
from gateway.server import signals


def main() -> None:
    """Run the command line, and exit with its code."""
    # Before anything opens a file.
    stdio.open_missing()
    if sys.argv[1:2] == ["serve"]:
        # Before the imports, which take most of a second. Other commands can be interrupted during their imports.
        signals.block()
    else:
        stdio.leave_on_interrupt()
        stdio.guard()
    # gRPC reads this at its import. Otherwise its log would mix with the output of the commands.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from gateway.cli.app import run

    run()


if __name__ == "__main__":
    main()
