"""The address of a gateway as people write it, checked before a call, because gRPC names few mistakes in it."""

from __future__ import annotations

import re

_LAST_PORT = 65_535
_MOST_DIGITS = 5
_LONGEST_SHOWN = 100
_EXAMPLE = "gateway.example:50051"
_TLS_SCHEMES = ("https", "grpcs")
# Further names that gRPC resolves itself. `dns:` is removed, because it is its default.
_RESOLVED_BY_GRPC = re.compile(r"(?:unix|unix-abstract|vsock|ipv4|ipv6|xds):")
_DNS = re.compile(r"dns:(?:///)?")
_IPV6 = re.compile(r"[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*")
_URL_ADDRESS = re.compile(r"(\[[^\]]*\]|[^:]*):?(.*)")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HOST = re.compile(r"[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]")


class TargetUnusable(Exception):
    """The target is not the address of a gateway. The text names the mistake and the fix."""


def check_target(target: str) -> None:
    """Check a target for gRPC.

    Raises:
        TargetUnusable: It is neither HOST:PORT nor another name that gRPC resolves.

    """
    if not _RESOLVED_BY_GRPC.match(target):
        host_and_port(target)


def host_and_port(target: str) -> tuple[str, int]:
    """Return the host, without brackets, and the port.

    Raises:
        TargetUnusable: The target is not HOST:PORT.

    """
    if _RESOLVED_BY_GRPC.match(target):
        raise _wrong(target, "is not HOST:PORT", f"write one, such as {_EXAMPLE}")
    address = _DNS.sub("", _without_secrets(target), count=1)
    scheme, found, rest = address.partition("://")
    if found:
        raise _url(target, scheme, rest)
    if not address.strip():
        raise _wrong(target, "is empty", f"write HOST:PORT, such as {_EXAMPLE}")
    if re.search(r"\s", address):
        raise _wrong(target, "has a space", f"write HOST:PORT without one, such as {_EXAMPLE}")
    if "@" in address:
        raise _wrong(target, "has a user", f"write HOST:PORT, such as {_or_example(address.rpartition('@')[2])}")
    host, slash, _ = address.partition("/")
    if slash:
        raise _wrong(target, "has a path", f"write HOST:PORT, such as {_or_example(host)}")
    if re.search(r"[?#]", target):
        raise _wrong(target, "has a query", f"write HOST:PORT, such as {_or_example(address)}")
    return _split(target, address)


def _split(target: str, address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if _IPV6.fullmatch(address):
        fix = f"[{address}]:50051" if host.endswith(":") else f"[{host}]:{port} or [{address}]:50051"
        raise _wrong(target, "has an IPv6 address without brackets", f"write {fix}")
    if not colon or port.endswith("]"):
        raise _wrong(target, "has no port", f"write HOST:PORT, such as {_or_example(f'{address}:50051')}")
    if not host:
        raise _wrong(target, "has no host", f"write HOST:PORT, such as {_or_example(f'localhost:{port}')}")
    if not _HOST.fullmatch(host):
        raise _wrong(target, "has a host that is neither a name nor an IP address", f"write one, as in {_EXAMPLE}")
    if not _is_port(port):
        raise _wrong(target, f"has no port from 1 to {_LAST_PORT}", f"write one, such as {host}:50051")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _url(target: str, scheme: str, rest: str) -> TargetUnusable:
    host, port = _URL_ADDRESS.findall(rest.rpartition("@")[2].partition("/")[0])[0]
    secure = scheme.lower() in _TLS_SCHEMES
    host = host if _HOST.fullmatch(host) else "HOST"
    port = port if _is_port(port) else "443" if secure else "50051"
    return _wrong(target, "is a URL", f"write {host}:{port}{' and add --tls' if secure else ''}")


def _is_port(port: str) -> bool:
    return port.isascii() and port.isdigit() and len(port) <= _MOST_DIGITS and 0 < int(port) <= _LAST_PORT


def _or_example(address: str) -> str:
    """Return an address if it is right, and otherwise an example."""
    host, _, port = address.rpartition(":")
    return address if _HOST.fullmatch(host) and _is_port(port) else _EXAMPLE


def _without_secrets(target: str) -> str:
    """Return a target without a password and a query, which may have a token.

    People do not escape their passwords, so a user ends at the last @.
    """
    found = _SCHEME.match(target)
    scheme = found[0] if found else ""
    user, at, address = target[len(scheme) :].rpartition("@")
    if re.search(r"[?#]", user):
        # It may be a password with this character, or a query with an @.
        return f"{scheme}***"
    return f"{scheme}{'***@' if at else ''}{re.split('[?#]', address, maxsplit=1)[0]}"


def _wrong(target: str, problem: str, fix: str) -> TargetUnusable:
    return TargetUnusable(f"--target {_without_secrets(target)[:_LONGEST_SHOWN]!r} {problem}; {fix}")
