"""The version of this program, and of the parts that a report of a fault needs."""

import platform
from importlib import metadata


def version_line() -> str:
    """Return the name and the version of this program, then the versions of Python and grpcio."""
    parts = f"Python {platform.python_version()}, grpcio {metadata.version('grpcio')}"
    return f"jobgateway {metadata.version('jobgateway')} ({parts})"
