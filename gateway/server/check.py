"""Find the mistakes that would stop a start, without starting: in files, addresses and OpenTelemetry's variables.

Nothing is sent, created or changed. So neither the upstream, Redis nor the collector of traces is contacted, and no
name is looked up except those of the gateway's own addresses.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING

from gateway.auth import authorities, certificates
from gateway.auth.gateway_token import GatewayToken
from gateway.auth.reloading import ReloadingFiles
from gateway.config import PREFIX
from gateway.errors import ConfigError
from gateway.server.addresses import bind, resolve, split
from gateway.submit.state import check_state
from gateway.telemetry import tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from gateway.config import Settings
    from gateway.server.addresses import Address

ANY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared only


class Findings:
    """The findings, each in one line.

    Attributes:
        problems: The mistakes that would stop a start.
        in_use: Addresses that another process uses, which would stop a start now.
        remarks: What would not stop a start.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.remarks: list[str] = []
        self.in_use: list[str] = []

    def of(self, work: Callable[[], object]) -> bool:
        """Do `work`; note the mistakes if it raises `ConfigError`, and return whether it does not."""
        try:
            work()
        except ConfigError as error:
            self.problems += error.args
            return False
        return True


async def check(settings: Settings) -> Findings:
    """Return everything that is wrong with the files and addresses of valid settings, and with OpenTelemetry's."""
    found = Findings()
    _check_certificates(settings, found)
    token_file = settings.upstream_token_file
    if token_file:
        found.of(lambda: GatewayToken(token_file))
    found.problems += check_state(settings.state_url, settings.state_key_file)
    found.of(authorities.client_context if settings.upstream_url.startswith("https:") else authorities.check)
    await _check_tracing(found)
    await _check_addresses({"LISTEN": settings.listen, "ADMIN_LISTEN": settings.admin_listen}, found)
    return found


def _check_certificates(settings: Settings, found: Findings) -> None:
    cert, key, client_ca = settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file
    pair = {certificates.CERT: cert, certificates.KEY: key}
    # Each alone at first, because a pair is invalid with its first file.
    readable = [found.of(partial(_read, name, path)) for name, path in pair.items() if path]
    if cert and key and all(readable):
        found.of(lambda: _note_doubt(certificates.load(cert, key, None).last.doubt, found))
    if client_ca:
        found.of(lambda: certificates.check_authorities(client_ca))


def _read(variable: str, path: Path) -> None:
    # Within a time limit, because the volume may hang.
    ReloadingFiles({variable: path}, lambda contents: contents)


def _note_doubt(doubt: str | None, found: Findings) -> None:
    if doubt:
        found.remarks.append(f"{certificates.CERT}: clients may reject it: {doubt}")


async def _check_tracing(found: Findings) -> None:
    try:
        tracer = tracing.from_environment()
    except ConfigError as error:
        found.problems += error.args
    else:
        # It has recorded no span, so it sends nothing.
        await tracer.aclose()


async def _check_addresses(listens: Mapping[str, str], found: Findings) -> None:
    resolved: dict[str, list[Address]] = {}
    for name, listen in listens.items():
        variable = f"{PREFIX}{name}"
        host, port = split(listen)
        try:
            resolved[name] = await resolve(host)
            for each in bind(resolved[name], port):
                each.close()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                found.in_use.append(f"{variable}: {listen} is in use; stop the process that uses it before the start")
            else:
                found.problems.append(f"{variable}: {listen} cannot be bound: {error.strerror}")
    own, other = (split(listen)[1] for listen in listens.values())
    if own and own == other and len(resolved) == len(listens) and _overlap(*resolved.values()):
        found.problems.append(
            f"{PREFIX}ADMIN_LISTEN: {listens['ADMIN_LISTEN']} is an address of {PREFIX}LISTEN too; choose another port"
        )


def _overlap(some: list[Address], others: list[Address]) -> bool:
    hosts, other_hosts = ({host for _, host in each} for each in (some, others))
    return bool(hosts & other_hosts or (hosts | other_hosts) & ANY_ADDRESS)
