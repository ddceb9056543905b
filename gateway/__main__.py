"""The command `jobgateway`, also as `python -m gateway`."""

import _signal  # type: ignore[import-not-found]

# Before any other import, so that Ctrl-C during one of them leaves no traceback.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import gc
import os
import sys
from pathlib import Path

from gateway.cli.output import stdio
from gateway.cli.parsing.switches import is_on
from gateway.server import signals


def has_tls(arguments: list[str]) -> bool:
    """Return whether `serve` will listen with TLS, before anything has read its settings."""
    if "JOBGATEWAY_TLS_CERT_FILE" in os.environ or any(each.split("=")[0] == "--tls-cert-file" for each in arguments):
        return True
    config = os.environ.get("JOBGATEWAY_SERVE_CONFIG")
    for each, following in zip(arguments, [*arguments[1:], None], strict=True):
        option, _, value = each.partition("=")
        if option == "--config":
            config = value or following
    if not config:
        return False
    from gateway.errors import ConfigError
    from gateway.toml_file import TomlFile

    try:
        return "tls_cert_file" in TomlFile.read(Path(config)).values
    except (OSError, ConfigError):
        # The command reports it.
        return False


def is_server(arguments: list[str]) -> bool:
    """Return whether the command will serve, instead of printing something about it."""
    if arguments[:1] != ["serve"] or {"--check", "--help", "-h"} & set(arguments):
        return False
    try:
        return not is_on(os.environ.get("JOBGATEWAY_SERVE_CHECK") or "false")
    except ValueError:
        # The command reports it.
        return False


def main() -> None:
    """Run the command line, and exit with its code."""
    # Before anything opens a file.
    stdio.open_missing()
    if is_server(sys.argv[1:]):
        # Before the imports, which take half a second. Other commands can be interrupted during their imports.
        signals.block()
        # `server/garbage.py` collects later. Imports leave little garbage, and Python would visit their objects often.
        gc.disable()
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
