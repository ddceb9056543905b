"""The command `jobgateway`, also as `python -m gateway`."""

import os
import sys

from gateway import signals


def main() -> None:
    """Run the command line; leaves the process with its exit code."""
    if sys.argv[1:2] == ["serve"]:
        # Before the imports, which take most of a second. The other commands are to be interrupted in theirs.
        signals.hold_back()
    # What gRPC logs by itself would stand among what the commands say. It reads this when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from gateway.cli.app import app

    app(prog_name="jobgateway")


if __name__ == "__main__":
    main()
