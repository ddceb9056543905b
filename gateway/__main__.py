"""The command `jobgateway`, also as `python -m gateway`."""

import os


def main() -> None:
    """Run the command line; leaves the process with its exit code."""
    # What gRPC logs by itself would stand among what the commands say. It reads this when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from gateway.cli.app import app

    app(prog_name="jobgateway")


if __name__ == "__main__":
    main()
