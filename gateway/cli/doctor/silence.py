"""The check of time limits: streams that are held open, and the judgement of how they end.

Three streams tell the limits apart, each on its own connection:

- `silent`: the watch of the health service, which says nothing after its first message.
- `open`: as silent, but the client has not half-closed. A limit of whole calls, such as the `timeout` of a route of
  Envoy, begins with the end of the request, so it does not apply here. A limit of silence does.
- `busy`: also not half-closed, with a message every second. A limit of silence does not apply to it.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from jobgateway.v1 import job_service_pb2 as pb

from gateway.cli.doctor import service
from gateway.cli.doctor.between import Between, Fault
from gateway.cli.doctor.calls import ABSENT_UID
from gateway.cli.doctor.findings import Finding, Outcome, ok, skipped
from gateway.cli.doctor.http2 import Http2Connection
from gateway.cli.doctor.network import CONNECT_SECONDS

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from gateway.cli.doctor.endpoint import Endpoint
    from gateway.cli.doctor.ends import End
    from gateway.cli.doctor.stream import Stream

MESSAGE_SECONDS = 1.0
# How long the other streams are held after the silent one ended, so that a common end is seen as one.
AFTERWARDS_SECONDS = 2.0
HEARTBEAT_SECONDS = 15
# Three heartbeats. A client that misses them resumes.
SURVIVABLE_SECONDS = 45.0
RECOMMENDED_SECONDS = 150

_TICK_SECONDS = 0.5
_WATCH_JOBS = f"/{service.SERVICE}/WatchJobs"


@dataclass
class Held:
    """Streams that were held open.

    Attributes:
        peer: The program at the other end.
        wanted: How long to hold, in seconds.
        held: How long they were held.
        ends: The ends of those that have ended, by name.
        opened: The names of those that worked.
        stopped: True if the gateway said that it shuts down.

    """

    peer: Between
    wanted: float
    held: float = 0.0
    ends: dict[str, End] = field(default_factory=dict)
    opened: set[str] = field(default_factory=set)
    stopped: bool = False


class Hold:
    """Holds streams open. Use it as a context manager, and then `run`.

    Args:
        endpoint: The gateway.
        context: TLS, or None.
        token: The metadata of an accepted credential, or None if there is none.
        reflects: True if reflection works.

    """

    def __init__(
        self,
        endpoint: Endpoint,
        context: ssl.SSLContext | None,
        token: tuple[tuple[str, str], ...] | None,
        *,
        reflects: bool,
    ) -> None:
        self._endpoint = endpoint
        self._context = context
        self._token = token
        self._reflects = reflects
        self._exit = contextlib.AsyncExitStack()
        self._streams: dict[str, Stream] = {}
        self._talking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._talking is not None:
            self._talking.cancel()
        await self._exit.aclose()

    async def run(self, held: Held, progress: Callable[[float], None]) -> None:
        """Hold the streams for `held.wanted` seconds, and note in `held` how they end."""
        await self._open()
        await asyncio.gather(*(each.until_message(service.RESPONSE_SECONDS) for each in self._streams.values()))
        self._note(held)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        until = begun + held.wanted
        while (now := loop.time()) < until:
            held.held = now - begun
            progress(held.held)
            await asyncio.sleep(min(_TICK_SECONDS, until - now))
            self._note(held)
            if len(held.ends) == len(self._streams):
                break
            if "silent" in held.ends:
                until = begun + held.ends["silent"].seconds + AFTERWARDS_SECONDS
        held.held = loop.time() - begun

    def _note(self, held: Held) -> None:
        for name, stream in self._streams.items():
            if stream.messages:
                held.opened.add(name)
            if stream.end is not None:
                held.ends.setdefault(name, stream.end)
        silent = self._streams["silent"].messages
        held.stopped |= not all(map(service.is_serving, silent))

    async def _open(self) -> None:
        connection = await self._connection()
        self._streams["silent"] = connection.call(service.HEALTH_WATCH, service.HEALTH_REQUEST)
        if self._reflects:
            connection = await self._connection()
            self._streams["open"] = connection.call(service.REFLECTION, service.LIST_REQUEST, half_close=False)
        if self._token is not None:
            connection = await self._connection()
            # The watch fails, and the heartbeats of its stream go on.
            watch = pb.WatchJobsRequest(watch=pb.WatchJobRequest(uid=ABSENT_UID))
            watch.watch.heartbeat_interval.FromSeconds(round(MESSAGE_SECONDS))
            self._streams["busy"] = connection.call(
                _WATCH_JOBS, watch.SerializeToString(), self._token, half_close=False
            )
        elif self._reflects:
            connection = await self._connection()
            self._streams["busy"] = connection.call(service.REFLECTION, service.LIST_REQUEST, half_close=False)
            self._talking = asyncio.create_task(_talk(connection, self._streams["busy"]))

    async def _connection(self) -> Http2Connection:
        opened = await Http2Connection.open(self._endpoint, self._context, CONNECT_SECONDS)
        return await self._exit.enter_async_context(opened)


async def _talk(connection: Http2Connection, stream: Stream) -> None:
    while stream.end is None:
        await asyncio.sleep(MESSAGE_SECONDS)
        connection.send(stream, service.LIST_REQUEST)


def judge(held: Held, *, interrupted: bool = False) -> Finding:
    """Return what the ends of the streams mean."""
    ends = {name: end for name, end in held.ends.items() if name in held.opened}
    if held.stopped:
        return Finding("silence", Outcome.WARN, "the gateway began to shut down meanwhile", "run this again")
    if "silent" not in held.opened:
        end = held.ends.get("silent")
        said = end.described() if end else "no message arrived"
        return Finding("silence", Outcome.FAIL, f"a further stream does not work: {said}", "run this again")
    if not ends:
        if interrupted:
            return skipped("silence", f"interrupted after {held.held:.0f} s; nothing had ended a silent stream by then")
        return ok("silence", f"a silent stream was open for {held.wanted:g} s, and nothing ended it")
    first = min(ends.values(), key=lambda end: end.seconds)
    after = f"{first.seconds:.1f} s ({first.described()})"
    if all(end.of_connection for end in ends.values()) and ends.keys() == held.opened:
        text = f"{held.peer.subject} closed the connections after {after}"
        fix = f"if nothing was restarted meanwhile, it limits the age of connections: {held.peer.fix()}"
        return _failed(text, fix, held.peer, Fault.LIFETIME)
    silent = ends.get("silent")
    if silent is None:
        name = next(iter(ends))
        return Finding(
            "silence", Outcome.WARN, f"the {name} stream ended after {after}, but not the silent one", "run this again"
        )
    if "busy" in ends:
        text = f"{held.peer.subject} ends every stream after {after}, also one with a message per second"
        return _failed(text, held.peer.fix(), held.peer, Fault.LIFETIME)
    if "open" in held.opened and "open" not in ends:
        text = (
            f"{held.peer.subject} ends calls after {after}, counted from the end of the request: a limit of whole calls"
        )
        return _failed(text, held.peer.fix(), held.peer, Fault.LIFETIME)
    if "busy" in held.opened:
        return _silence_limit(held.peer, silent, after)
    text = f"{held.peer.subject} ended a silent stream after {after}: a limit of silence, or of whole calls"
    fix = f"set a token to tell them apart, or {held.peer.fix()}"
    both = (*held.peer.paste(Fault.IDLE), *held.peer.paste(Fault.LIFETIME))
    return Finding("silence", Outcome.FAIL, text, fix, tuple(dict.fromkeys(both)))


def _silence_limit(peer: Between, silent: End, after: str) -> Finding:
    text = f"{peer.subject} ends streams that are silent for {after}; one with a message per second went on"
    if silent.seconds < SURVIVABLE_SECONDS:
        return _failed(text, peer.fix(), peer, Fault.IDLE)
    text += f". Watches have a heartbeat every {HEARTBEAT_SECONDS} s and survive; SendJob and WaitJob may not"
    return Finding("silence", Outcome.WARN, text, peer.fix(), peer.paste(Fault.IDLE))


def _failed(text: str, fix: str, peer: Between, fault: Fault) -> Finding:
    return Finding("silence", Outcome.FAIL, text, fix, peer.paste(fault))
