"""The composition root and the life of the process: builds, serves, drains."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from jobgateway.v1 import job_service_pb2 as pb

from gateway import __version__, logs
from gateway.admission import Admission, draining
from gateway.call import Boundary
from gateway.clock import SystemClock
from gateway.events import JobState, same_state
from gateway.rest import RestClient, TimeLimits, Transport
from gateway.service import JobService
from gateway.submit import MemoryStore, Submitter
from gateway.watch import Cadence, Hub, Rules

if TYPE_CHECKING:
    from gateway.config import Settings

SERVICE = pb.DESCRIPTOR.services_by_name["JobService"]
STREAMS = frozenset(method.name for method in SERVICE.methods if method.server_streaming)

# Polls at once; the connection pool is larger, so that no poll waits for a connection and calls it an outage.
POLL_SLOTS = 256
READ_CONNECTIONS = POLL_SLOTS + 256
SUBMIT_CONNECTIONS = 1_024
# A POST must not meet a connection that the upstream is about to close: idle ones are soon gone.
SUBMIT_IDLE_SECONDS = 1.0
READ_IDLE_SECONDS = 15.0
CONNECT_SECONDS = 5.0
# The whole of a large answer takes longer than any silence within it.
WHOLE_ANSWER_SILENCES = 30
# What the last answers of a drain have to leave the process.
FLUSH_SECONDS = 0.5
# A peer that vanished is gone after a ping and its timeout: 80 seconds.
PING_EVERY_MS = 60_000
PING_TIMEOUT_MS = 20_000
# How often clients may ping without data before the connection is closed on them.
CLIENT_PING_MS = 10_000
MAX_ANSWER_BYTES = 512 << 20
# Above our own limit for a request, so that ours answers with a reason.
MAX_REQUEST_BYTES = 64 << 20

_log = structlog.get_logger()


class Gateway:
    """A gateway that can be started and stopped once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = SystemClock()
        self._admission = Admission(self._clock, max_calls=settings.max_calls, max_watches=settings.max_watches)
        self.address = ""

    async def start(self) -> None:
        """Builds all parts and serves. Raises `OSError` where the address cannot be bound."""
        settings = self._settings
        clock = self._clock
        self._rest = _rest_client(settings)
        rules = Rules(
            same=same_state,
            is_last=lambda state: state.job.done,
            cadence=Cadence(settings.poll_interval_min_seconds, settings.poll_interval_max_seconds),
            outage_seconds=settings.poll_outage_seconds,
            slots=asyncio.Semaphore(POLL_SLOTS),
        )
        self._hub: Hub[JobState] = Hub(clock, rules)
        submitter = Submitter(clock, MemoryStore(clock))
        self._service = JobService(rest=self._rest, hub=self._hub, submitter=submitter, clock=clock)
        self._server = grpc.aio.server(options=_options(settings))
        self._health = health.aio.HealthServicer()
        self._server.add_generic_rpc_handlers((_handlers(self._service, Boundary(self._admission, clock)),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE.full_name, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        for name in names:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        host = settings.listen.rpartition(":")[0]
        try:
            port = self._server.add_insecure_port(settings.listen)
        except RuntimeError as error:
            await self._rest.aclose()
            raise OSError(f"JOBGATEWAY_LISTEN: {settings.listen} cannot be bound") from error
        self.address = f"{host}:{port}"
        await self._server.start()

    async def stop(self, grace: float | None = None) -> None:
        """Drains within `grace` seconds (the setting's, where it is None), then closes the listener and all else."""
        grace = self._settings.drain_grace_seconds if grace is None else grace
        self._admission.draining = True
        await self._health.enter_graceful_shutdown()
        await self._drain(grace)
        self._service.closing = True
        await self._server.stop(FLUSH_SECONDS)
        await self._service.aclose()
        await self._hub.aclose()
        await self._rest.aclose()

    async def _drain(self, grace: float) -> None:
        deadline = self._clock.monotonic() + grace
        last_third = deadline - grace / 3
        if await self._admission.idle(last_third):
            return
        _log.info("ending watches", watches=self._hub.watching, calls=self._admission.inside)
        slices = asyncio.create_task(self._hub.end_watchers(draining, deadline))
        if not await self._admission.idle(deadline):
            _log.warning("calls cut off", calls=self._admission.inside)
        slices.cancel()
        await asyncio.wait([slices])


def _rest_client(settings: Settings) -> RestClient:
    silence = settings.upstream_timeout_seconds
    reads = Transport(
        limits=TimeLimits(min(CONNECT_SECONDS, silence), silence, silence * WHOLE_ANSWER_SILENCES),
        idle_seconds=READ_IDLE_SECONDS,
        max_connections=READ_CONNECTIONS,
        max_answer_bytes=MAX_ANSWER_BYTES,
    )
    longest = settings.submit_timeout_seconds
    submissions = Transport(
        limits=TimeLimits(min(CONNECT_SECONDS, longest), longest, longest),
        idle_seconds=SUBMIT_IDLE_SECONDS,
        max_connections=SUBMIT_CONNECTIONS,
        max_answer_bytes=MAX_ANSWER_BYTES,
    )
    return RestClient(settings.upstream_url, submissions=submissions, reads=reads, now=SystemClock().time)


def _handlers(service: JobService, boundary: Boundary) -> grpc.GenericRpcHandler:
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in SERVICE.methods:
        handle = boundary.handler(method.name, getattr(service, method.name), watch=method.name in STREAMS)
        make = grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
        # Without a response serializer: the service answers with encoded messages.
        handlers[method.name] = make(handle, request_deserializer=getattr(pb, method.input_type.name).FromString)
    return grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)


def _options(settings: Settings) -> list[tuple[str, int]]:
    pending = settings.max_calls + settings.max_watches + 1_000
    return [
        # Two processes on one port would share its calls without knowing.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
        ("grpc.keepalive_time_ms", PING_EVERY_MS),
        ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", CLIENT_PING_MS),
        # Below our own limits grpc would end a burst of calls with a bare CANCELLED.
        ("grpc.server.max_pending_requests", pending),
        ("grpc.server.max_pending_requests_hard_limit", 2 * pending),
    ]


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second signal leaves at once.

    Raises `OSError` where the address cannot be bound.
    """
    logs.configure(settings.log_format)
    gateway = Gateway(settings)
    await gateway.start()
    _log.info("serving", address=gateway.address, upstream=settings.upstream_url, version=__version__)
    stopping = asyncio.Event()

    def on_signal() -> None:
        if stopping.is_set():
            # Whatever would still be tidied up, somebody has decided not to wait for it.
            os._exit(1)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await stopping.wait()
    _log.info("draining", grace_seconds=settings.drain_grace_seconds)
    await gateway.stop()
    _log.info("stopped")
