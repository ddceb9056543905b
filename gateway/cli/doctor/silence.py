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
from gateway.cli.doctor.ends import Kind
from gateway.cli.doctor.findings import Finding, Outcome, ok, skipped
from gateway.cli.doctor.http2 import Http2Connection
from gateway.cli.doctor.network import CONNECT_SECONDS
from gateway.cli.doctor.refusals import refusal

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

# The gateway and HTTP/2 proxies end a stream, or say GOAWAY.
_ABRUPT = (Kind.CLOSED, Kind.NO_REPLY)

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
    if held.stopped:
        return Finding("silence", Outcome.WARN, "the gateway began to shut down meanwhile", "run this again")
    if problem := _not_opened(held):
        return problem
    ends = {name: end for name, end in held.ends.items() if name in held.opened}
    if ends:
        return _ended(held, ends)
    if interrupted:
        return skipped("silence", f"interrupted after {held.held:.0f} s; nothing had ended a silent stream by then")
    return ok("silence", f"a silent stream was open for {held.wanted:g} s, and nothing ended it")


def _not_opened(held: Held) -> Finding | None:
    """Return the finding if a stream did not work from the beginning."""
    if "silent" not in held.opened:
        end = held.ends.get("silent")
        problem, fix = "a further stream does not work", "run this again"
    elif "busy" in held.ends and "busy" not in held.opened:
        end = held.ends["busy"]
        problem = "a stream with a message per second (WatchJobs) does not work, although others do"
        fix = "look at the logs of the gateway and of the proxy"
    else:
        return None
    said = end.described() if end else "no message arrived"
    refused = refusal("silence", problem, end, held.peer)
    return refused or Finding("silence", Outcome.FAIL, f"{problem}: {said}", fix)


def _ended(held: Held, ends: dict[str, End]) -> Finding:
    """Return the limit that ended streams which had worked."""
    peer = held.peer
    first = min(ends.values(), key=lambda end: end.seconds)
    after = f"{first.seconds:.1f} s ({first.described()})"
    subject = peer.tcp_subject if first.kind in _ABRUPT else peer.subject
    if all(end.of_connection for end in ends.values()) and ends.keys() == held.opened:
        text = f"{subject} closed the connections after {after}"
        if first.kind in _ABRUPT and not peer.name:
            fix = "if nothing was restarted meanwhile, look for a limit of idle or old connections there"
            return Finding("silence", Outcome.FAIL, text, fix)
        fix = f"if nothing was restarted meanwhile, it limits the age of connections: {peer.fix()}"
        return _failed(text, fix, peer, Fault.CONNECTION_AGE)
    silent = ends.get("silent")
    if silent is None:
        return _request_limit(peer, ends)
    if "busy" in ends:
        text = f"{subject} ends every stream after {after}, also one with a message per second"
        return _failed(text, peer.fix(), peer, Fault.STREAM_AGE)
    if "open" in held.opened and "open" not in ends:
        text = f"{subject} ends calls after {after}, counted from the end of the request: a limit of whole calls"
        return _failed(text, peer.fix(), peer, Fault.LIFETIME)
    if "busy" in held.opened:
        return _silence_limit(peer, silent, after)
    text = f"{subject} ended a silent stream after {after}: a limit of silence, or of whole calls"
    fix = f"set a token to tell them apart, or {peer.fix()}"
    both = (*peer.paste(Fault.IDLE), *peer.paste(Fault.LIFETIME))
    return Finding("silence", Outcome.FAIL, text, fix, tuple(dict.fromkeys(both)))


def _request_limit(peer: Between, ends: dict[str, End]) -> Finding:
    """Return the finding if only streams ended on which the client had not half-closed."""
    name, end = next(iter(ends.items()))
    after = f"{end.seconds:.1f} s ({end.described()})"
    if "open" not in ends:
        text = f"the {name} stream ended after {after}, but not the silent one"
        return Finding("silence", Outcome.WARN, text, "run this again")
    text = f"{peer.subject} ends streams such as WatchJobs, which are not half-closed, after {after}"
    return _failed(f"{text}: a limit of the request", peer.fix(), peer, Fault.OPEN_REQUEST)


def _silence_limit(peer: Between, silent: End, after: str) -> Finding:
    abrupt = silent.kind in _ABRUPT
    fault = Fault.TCP_IDLE if abrupt and not peer.name else Fault.IDLE
    subject = peer.tcp_subject if abrupt else peer.subject
    text = f"{subject} ends streams that are silent for {after}; one with a message per second went on"
    fix = "set its idle timeout to 150 s or more, such as" if fault is Fault.TCP_IDLE else peer.fix()
    if silent.seconds < SURVIVABLE_SECONDS:
        return _failed(text, fix, peer, fault)
    text += f". Watches have a heartbeat every {HEARTBEAT_SECONDS} s and survive; SendJob and WaitJob may not"
    return Finding("silence", Outcome.WARN, text, fix, peer.paste(fault))


def _failed(text: str, fix: str, peer: Between, fault: Fault) -> Finding:
    return Finding("silence", Outcome.FAIL, text, fix, peer.paste(fault))
