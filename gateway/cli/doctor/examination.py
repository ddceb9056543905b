"""The order of the checks: each needs those before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.cli.doctor import methods, network, service, silence, streams
from gateway.cli.doctor import tls as tls_check
from gateway.cli.doctor.calls import Calls
from gateway.cli.doctor.endpoint import Endpoint, tls_context
from gateway.cli.doctor.findings import Finding, Outcome, skipped
from gateway.cli.doctor.http2 import Http2Connection
from gateway.cli.doctor.network import CONNECT_SECONDS
from gateway.cli.output.formatting import clean

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable

    from jobgateway_client import Tls

    from gateway.cli.doctor.repeat import Repeat
    from gateway.cli.options.shared import ConnectionOptions

# The checks in their order. `proxy` is only mentioned if a variable names one.
CHECKS = (
    "name",
    "tcp",
    "tls",
    "http2",
    "gateway",
    "buffering",
    "upstream",
    "credential",
    "job",
    "calls",
    "reflection",
    "streams",
    "sizes",
    "silence",
)


@dataclass(frozen=True)
class CheckedGateway:
    """The gateway to check, and how this machine calls it.

    Attributes:
        endpoint: Its address.
        call: The options of the command.
        tls: TLS for the Python client, or None.
        token: The token, or None.
        uid: A job to read, or None.
        hold: How long to hold silent streams, in seconds; 0 holds none.

    """

    endpoint: Endpoint
    call: ConnectionOptions
    tls: Tls | None
    token: str | None
    uid: int | None
    hold: float


class Examination:
    """The checks of one gateway."""

    def __init__(self, gateway: CheckedGateway, repeat: Repeat, progress: Callable[[float, float], None]) -> None:
        self._gateway = gateway
        self._repeat = repeat
        self._progress = progress
        self._context: ssl.SSLContext | None = tls_context(gateway.call) if gateway.call.secured else None
        self._held: silence.Held | None = None

    async def run(self) -> AsyncIterator[Finding]:
        """Yield the results as they are known, and then those of the checks that could not be made."""
        done: set[str] = set()
        failed = ""
        try:
            async for finding in self._checks():
                done.add(finding.check)
                if finding.outcome is Outcome.FAIL:
                    failed = failed or finding.check
                yield finding
        except OSError as error:
            # A first connection worked, and a later one did not. This includes TimeoutError.
            check = next((name for name in CHECKS if name not in done), CHECKS[-1])
            done.add(check)
            failed = failed or check
            text = f"a further connection failed: {clean(error.strerror or str(error) or 'it took too long')}"
            yield Finding(
                check, Outcome.FAIL, text, "run this again; if it fails again, look for limits of connections"
            )
        for name in CHECKS:
            if name not in done:
                yield skipped(name, f"needs {failed}")

    def interrupted(self) -> Finding | None:
        """Return the result of the silent streams as far as it is known, or None if they had not begun."""
        return silence.judge(self._held, interrupted=True) if self._held else None

    async def _checks(self) -> AsyncIterator[Finding]:
        endpoint = self._gateway.endpoint
        finding, addresses = await network.resolve(endpoint)
        yield finding
        if not addresses:
            return
        if proxy := network.environment_proxy(endpoint):
            yield proxy
        finding = await network.connect(endpoint, addresses)
        yield finding
        if finding.outcome is Outcome.FAIL:
            return
        found = await tls_check.check(endpoint, self._gateway.call, self._repeat)
        for finding in found:
            yield finding
        if found[-1].outcome is Outcome.FAIL:
            return
        async for finding in self._connected_checks():
            yield finding

    async def _connected_checks(self) -> AsyncIterator[Finding]:
        async with await self._connect() as connection:
            await connection.until_settings(CONNECT_SECONDS)
            found = await service.check_health(connection)
            yield found.finding
            if not found.serves:
                return
            buffering = await streams.check_buffering(connection, found.peer)
            yield buffering
            call = self._gateway.call
            calls = Calls(call.target, self._gateway.tls, self._gateway.token, call.token_file)
            for finding in await calls.check_credential():
                yield finding
            uid = self._gateway.uid
            yield await calls.check_job(uid) if uid else skipped("job", "no UID was given")
        if buffering.outcome is Outcome.FAIL:
            return
        async with await self._connect() as connection:
            await connection.until_settings(CONNECT_SECONDS)
            yield await methods.check(connection, found.peer, self._gateway.token)
        async with await self._connect() as connection:
            talk = connection.call(service.REFLECTION, service.LIST_REQUEST, half_close=False)
            reflection = await service.check_reflection(talk, found.peer)
            yield reflection
        for check in (streams.check_limit, streams.check_sizes):
            async with await self._connect() as connection:
                await connection.until_settings(CONNECT_SECONDS)
                yield await check(connection, found.peer)
        if not self._gateway.hold:
            yield skipped("silence", "--hold is 0")
        else:
            yield await self._hold(found, reflects=reflection.outcome is Outcome.OK, accepted=calls.accepted)

    async def _hold(self, found: service.Service, *, reflects: bool, accepted: bool) -> Finding:
        token = None
        if accepted:
            token = (("authorization", f"Bearer {self._gateway.token}"),) if self._gateway.token else ()
        self._held = silence.Held(found.peer, self._gateway.hold)
        async with silence.Hold(self._gateway.endpoint, self._context, token, reflects=reflects) as hold:
            await hold.run(self._held, lambda seconds: self._progress(seconds, self._gateway.hold))
        return silence.judge(self._held)

    async def _connect(self) -> Http2Connection:
        return await Http2Connection.open(self._gateway.endpoint, self._context, CONNECT_SECONDS)
