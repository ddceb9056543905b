"""The address of a gateway as people write it, checked before a call, because gRPC names few mistakes in it."""

from __future__ import annotations

import re

_LAST_PORT = 65_535
_LONGEST_SHOWN = 100
_EXAMPLE = "gateway.example:50051"
_TLS_SCHEMES = ("https", "grpcs")
# Further names that gRPC resolves itself. `dns:` is removed, because it is its default.
_RESOLVED_BY_GRPC = re.compile(r"(?:unix|unix-abstract|vsock|ipv4|ipv6|xds):")
_DNS = re.compile(r"dns:(?:///)?")
_IPV6 = re.compile(r"[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*")
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
    address = _DNS.sub("", target, count=1)
    scheme, found, rest = address.partition("://")
    if found:
        raise _url(target, scheme, rest)
    if not address.strip():
        raise _wrong(target, "is empty", f"write HOST:PORT, such as {_EXAMPLE}")
    if re.search(r"\s", address):
        raise _wrong(target, "has a space", f"write HOST:PORT without one, such as {_EXAMPLE}")
    address, slash, path = address.partition("/")
    if slash:
        raise _wrong(target, f"has the path /{path}", f"write HOST:PORT, such as {_EXAMPLE}")
    return _split(target, address)


def _split(target: str, address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if _IPV6.fullmatch(address):
        fix = f"[{address}]:50051" if host.endswith(":") else f"[{host}]:{port} or [{address}]:50051"
        raise _wrong(target, "has an IPv6 address without brackets", f"write {fix}")
    if not colon or port.endswith("]"):
        raise _wrong(target, "has no port", f"write HOST:PORT, such as {address}:50051")
    if not host:
        raise _wrong(target, "has no host", f"write HOST:PORT, such as localhost{address}")
    if not _HOST.fullmatch(host):
        raise _wrong(target, "has a host that is neither a name nor an IP address", f"write one, as in {_EXAMPLE}")
    if not (port.isascii() and port.isdigit() and 0 < int(port) <= _LAST_PORT):
        raise _wrong(target, f"has no port from 1 to {_LAST_PORT}", f"write one, such as {host}:50051")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _url(target: str, scheme: str, rest: str) -> TargetUnusable:
    host, _, port = rest.partition("/")[0].rpartition("@")[2].partition(":")
    secure = scheme.lower() in _TLS_SCHEMES
    address = f"{host or 'HOST'}:{port or ('443' if secure else '50051')}"
    return _wrong(target, "is a URL", f"write {address}{' and add --tls' if secure else ''}")


def _wrong(target: str, problem: str, fix: str) -> TargetUnusable:
    # A URL may contain a password.
    shown = re.sub(r"(?<=://)[^@/]*@", "***@", target)[:_LONGEST_SHOWN]
    return TargetUnusable(f"--target {shown!r} {problem}; {fix}")
