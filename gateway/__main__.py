"""The command `jobgateway`, also as `python -m gateway`."""

import _signal  # type: ignore[import-not-found]

# Before any other import, so that Ctrl-C during one of them leaves no traceback.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import os
import sys

from gateway.cli import stdio
from gateway.server import signals


def has_tls(arguments: list[str]) -> bool:
    """Return whether `serve` will listen with TLS, before anything has read its settings."""
    flag = "--tls-cert-file"
    return "JOBGATEWAY_TLS_CERT_FILE" in os.environ or any(each.split("=")[0] == flag for each in arguments)


def is_server(arguments: list[str]) -> bool:
    """Return whether the command will serve, instead of printing something about it."""
    return arguments[:1] == ["serve"] and not {"--check", "--help", "-h"} & set(arguments)


def main() -> None:
    """Run the command line, and exit with its code."""
    # Before anything opens a file.
    stdio.open_missing()
    if is_server(sys.argv[1:]):
        # Before the imports, which take most of a second. Other commands can be interrupted during their imports.
        signals.block()
        if has_tls(sys.argv) and "GRPC_VERBOSITY" not in os.environ:
            # `server/handshakes.py` reads this trace.
            os.environ |= {"GRPC_VERBOSITY": "INFO", "GRPC_TRACE": "handshaker"}
    else:
        stdio.leave_on_interrupt()
        stdio.guard()
    # gRPC reads this at its import. Otherwise its log would mix with the output of the commands.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from gateway.cli.app import run

    run()


if __name__ == "__main__":
    main()
