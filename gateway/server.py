"""The composition root and the life of the process: builds, serves, drains."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from jobgateway.v1 import job_service_pb2 as pb

from gateway import __version__, health, logs, one_message, reflection, signals, tracing
from gateway.admin import AdminServer
from gateway.admission import Admission, draining
from gateway.budget import Budget
from gateway.call import Boundary
from gateway.clock import SystemClock, TimeLimit
from gateway.events import JobState, same_state
from gateway.health import Health
from gateway.listener import Listener
from gateway.metrics import Metrics
from gateway.outgoing import Outgoing
from gateway.own_token import OwnToken
from gateway.rates import Rates
from gateway.rest import RestClient, TimeLimits, Transport
from gateway.service import JobService
from gateway.submit import MemoryStore, Submitter
from gateway.threads import leave_after
from gateway.tls import Certificates
from gateway.tracing import Untraced
from gateway.unknown_words import UnknownWords
from gateway.watch import Cadence, Hub, MemorySentJobs, Rules

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.rest import Observer
    from gateway.tracing import Tracer

SERVICE = pb.DESCRIPTOR.services_by_name["JobService"]
STREAMS = frozenset(method.name for method in SERVICE.methods if method.server_streaming)

# Polls at once. The pool has room for them and for one read of each call, so that calls hold back no poll.
POLL_SLOTS = 256
SUBMIT_CONNECTIONS = 1_024
# A request must not meet a connection that the upstream is about to close (after 5 seconds and more, as a rule); a POST
# that does is lost, so its idle connections are soon gone.
SUBMIT_IDLE_SECONDS = 1.0
READ_IDLE_SECONDS = 4.0
CONNECT_SECONDS = 5.0
# The whole of a large answer takes longer than any silence within it.
WHOLE_ANSWER_SILENCES = 30
# What the last answers of a drain have to leave the process.
FLUSH_SECONDS = 0.5
# How much longer than its grace a stop may take, whatever hangs; each part of it has a shorter limit.
CLOSE_SECONDS = 3.0
# The time that the last log lines have to leave the process.
LAST_LINES_SECONDS = 1.0
# A peer that vanished is gone after a ping and its timeout: 85 seconds. The timeout is TCP_USER_TIMEOUT too, and so the
# longest that a proxy may stop reading; nginx does so while its own client pauses.
PING_EVERY_MS = 20_000
PING_TIMEOUT_MS = 65_000
# Clients may ping this often, with and without calls; who does it more often is cut off with too_many_pings.
CLIENT_PING_MS = 10_000
MAX_ANSWER_BYTES = 512 << 20
# What all answers over 1 MiB may take at once; at least one of the largest fits.
LARGE_ANSWERS_BYTES = 1 << 30
# What all messages over 256 KiB to callers may take at once; the largest takes it all.
LARGE_MESSAGES_BYTES = 512 << 20
# What HTTP/2 counts of a call's metadata. By itself grpc refuses some of those over 8 KB and all over 16 KB.
MAX_METADATA_BYTES = 16 << 10
# Inputs have 8 MiB of JSON at most; as a Struct, numbers of one digit take five times that.
MAX_REQUEST_BYTES = 48 << 20
# What all requests over 1 MiB may take at once: grpc keeps each until its call ends, of a RunJob for hours.
LARGE_REQUESTS_BYTES = 512 << 20
# Calls that grpc holds before they are looked at: more than all limits of ours can be set to, for beyond it grpc ends
# them with a bare CANCELLED, while ours answer at once with a reason.
PENDING_CALLS = 250_000

OPTIONS = (
    # Two processes on one port would share its calls without knowing.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.keepalive_time_ms", PING_EVERY_MS),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
    # Without it any ping may go unanswered for a minute, whatever the timeout above says.
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", CLIENT_PING_MS),
    ("grpc.server.max_pending_requests", PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", 2 * PENDING_CALLS),
)

_log = structlog.get_logger()


class Gateway:
    """A gateway that can be started and stopped once.

    Raises `ConfigError` where a file that a setting names is no use.
    """

    def __init__(self, settings: Settings, tracer: Tracer | None = None) -> None:
        clock = SystemClock()
        self._tracer = tracer or Untraced()
        self._settings = settings
        self._clock = clock
        self._admission = Admission(
            clock,
            max_calls=settings.max_calls,
            max_watches=settings.max_watches,
            max_calls_per_credential=settings.max_calls_per_credential,
            max_watches_per_credential=settings.max_watches_per_credential,
            calls_per_second=settings.calls_per_second,
            large_requests_bytes=LARGE_REQUESTS_BYTES,
        )
        metrics = Metrics()
        methods = metrics.methods(SERVICE.full_name, [(each.name, each.name in STREAMS) for each in SERVICE.methods])
        own_token = OwnToken(settings.upstream_token_file) if settings.upstream_token_file else None
        self._boundary = Boundary(self._admission, clock, methods, self._tracer, own_token)
        budget = Budget(LARGE_ANSWERS_BYTES)
        self._rest = _rest_client(settings, budget, metrics, UnknownWords(metrics.unknown_status))
        sent_jobs = MemorySentJobs(clock)
        rules = Rules(
            same=same_state,
            is_last=lambda state: state.job.done,
            size=lambda state: state.size,
            cadence=Cadence(settings.poll_interval_min_seconds, settings.poll_interval_max_seconds),
            outage_seconds=settings.poll_outage_seconds,
            rates=Rates(clock, settings.polls_per_second),
            slots=Budget(POLL_SLOTS),
            sent_jobs=sent_jobs,
            observer=metrics,
        )
        self._hub: Hub[JobState] = Hub(clock, rules)
        submitter = Submitter(clock, MemoryStore(clock), Rates(clock, settings.submissions_per_second), metrics)
        self._service = JobService(
            rest=self._rest,
            hub=self._hub,
            submitter=submitter,
            sent_jobs=sent_jobs,
            clock=clock,
            outgoing=Outgoing(budget, LARGE_MESSAGES_BYTES),
            observer=metrics,
        )
        self._levels(metrics, budget, submitter)
        self._health = Health(self._names())
        self._listener = Listener(settings.listen, self._make_server, _credentials(settings))
        self._admin = AdminServer(metrics.registry, lambda: self.ready)
        self.admin_address = ""

    def _levels(self, metrics: Metrics, budget: Budget, submitter: Submitter) -> None:
        level = metrics.level
        level("jobgateway_loops", "Poll loops that run now.", self._hub.__len__)
        level("jobgateway_watchers", "Watchers of the poll loops now.", lambda: self._hub.watching)
        level("jobgateway_submissions_in_flight", "Submissions under way now.", submitter.__len__)
        level(
            "jobgateway_large_answers_reserved_bytes",
            f"Bytes that answers over 1 MiB hold of their budget of {LARGE_ANSWERS_BYTES} bytes.",
            lambda: budget.reserved,
        )
        level(
            "jobgateway_large_answers_waiting", "Answers over 1 MiB that wait for room in it.", lambda: budget.waiting
        )
        metrics.count(
            "jobgateway_log_lines_lost",
            "Log lines of the process that standard error did not take.",
            logs.lost_lines,
        )
        level("jobgateway_draining", "1 while the gateway drains, else 0.", lambda: self._admission.draining)

    @property
    def ready(self) -> bool:
        """Whether it takes calls."""
        # Whatever the upstream does: else it would take the whole fleet down with it.
        return self._listener.serving and not self._admission.draining

    async def start(self) -> None:
        """Serves. Raises `OSError` where an address cannot be bound."""
        self.admin_address = await self._admin.start(self._settings.admin_listen)
        try:
            await self._start_grpc()
        except BaseException:
            await self._admin.aclose()
            raise

    async def _start_grpc(self) -> None:
        await self._listener.start()

    @property
    def address(self) -> str:
        """Where gRPC is served, as HOST:PORT."""
        return self._listener.address

    def _names(self) -> list[str]:
        names = [SERVICE.full_name, health.SERVICE_NAME]
        return [*names, reflection.SERVICE_NAME] if self._settings.reflection else names

    def _make_server(self) -> grpc.aio.Server:
        max_age = ("grpc.max_connection_age_ms", round(self._settings.max_connection_age_seconds * 1000))
        server = grpc.aio.server(options=(*OPTIONS, max_age))
        server.add_generic_rpc_handlers((_handlers(self._service, self._boundary),))
        server.add_generic_rpc_handlers((self._health.handler(),))
        if self._settings.reflection:
            reflection.enable(self._names(), server)
        return server

    async def listens(self) -> None:
        """Returns when `stop` has closed the listener. Raises `OSError` where it was lost and cannot be had again."""
        await self._listener.lost()

    async def idle(self) -> None:
        """Returns when no call is being served."""
        await self._admission.idle(float("inf"))

    async def stop(self, grace: float | None = None) -> None:
        """Drains within `grace` seconds (the setting's, where it is None), then closes the listener and all else.

        Also where `start` failed or was never called.
        """
        grace = self._settings.drain_grace_seconds if grace is None else grace
        deadline = self._clock.monotonic() + grace
        self._admission.draining = True
        self._health.drain()
        await self._drain(deadline, last_third=deadline - grace / 3)
        await self._listener.stop(FLUSH_SECONDS)
        await self._finish_submissions(deadline)
        await self._hub.aclose()
        await self._rest.aclose()
        await self._tracer.aclose()
        # Last, so that the drain can be watched to its end.
        await self._admin.aclose()

    async def _drain(self, deadline: float, *, last_third: float) -> None:
        if await self._admission.idle(last_third):
            return
        _log.info("ending watches", watches=self._hub.watching, calls=self._admission.inside)
        slices = asyncio.create_task(self._hub.end_watchers(draining, deadline))
        all_left = await self._admission.idle(deadline)
        slices.cancel()
        await asyncio.wait([slices])
        if not all_left:
            _log.warning("calls cut off", calls=self._admission.inside)
            # Each gets a status of ours; grpc's own would be UNAVAILABLE, and a submission would be sent again.
            self._boundary.end_calls()
            await self._admission.idle(self._clock.monotonic() + FLUSH_SECONDS)

    async def _finish_submissions(self, deadline: float) -> None:
        # Nobody waits for these any more, but a cancellation or an outcome is worth the rest of the grace.
        try:
            async with TimeLimit(self._clock, max(deadline, self._clock.monotonic() + FLUSH_SECONDS)):
                await self._service.aclose()
        except TimeoutError:
            _log.warning("submissions or cancellations cut off")


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return Certificates(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file).credentials()


def _rest_client(settings: Settings, budget: Budget, observer: Observer, words: UnknownWords) -> RestClient:
    silence = settings.upstream_timeout_seconds
    reads = Transport(
        limits=TimeLimits(min(CONNECT_SECONDS, silence), silence, silence * WHOLE_ANSWER_SILENCES),
        idle_seconds=READ_IDLE_SECONDS,
        max_connections=POLL_SLOTS + settings.max_calls,
        max_answer_bytes=MAX_ANSWER_BYTES,
        budget=budget,
        proxy=settings.upstream_proxy_url,
        observer=observer,
    )
    longest = settings.submit_timeout_seconds
    submissions = Transport(
        limits=TimeLimits(min(CONNECT_SECONDS, longest), longest, longest),
        idle_seconds=SUBMIT_IDLE_SECONDS,
        max_connections=SUBMIT_CONNECTIONS,
        max_answer_bytes=MAX_ANSWER_BYTES,
        budget=budget,
        proxy=settings.upstream_proxy_url,
        observer=observer,
    )
    return RestClient(
        settings.upstream_url, submissions=submissions, reads=reads, now=SystemClock().time, observer=words
    )


def _handlers(service: JobService, boundary: Boundary) -> grpc.GenericRpcHandler:
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in SERVICE.methods:
        request = getattr(pb, method.input_type.name)
        handle = boundary.handler(method.name, getattr(service, method.name), request, watch=method.name in STREAMS)
        handlers[method.name] = one_message.method_handler(handle, streams=method.server_streaming)
    return grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second signal leaves at once.

    Raises `OSError` where an address cannot be bound, and `ConfigError` where a file that a setting names is no use, or
    OpenTelemetry's variables are.
    """
    logs.configure(settings.log_format)
    logs.take_over()
    stopping = asyncio.Event()

    def on_signal() -> None:
        if stopping.is_set():
            # Whatever would still be tidied up, somebody has decided not to wait for it. Python's own way out would
            # wait for threads, and the kernel's default does nothing to the first process of a container.
            os._exit(1)
        stopping.set()

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.unforeseen)
    for number in signals.stopping():
        loop.add_signal_handler(number, on_signal)
    signals.let_through()
    gateway = Gateway(settings, tracing.from_environment())
    await gateway.start()
    _log.info(
        "serving",
        address=gateway.address,
        admin_address=gateway.admin_address,
        upstream=settings.upstream_url,
        version=__version__,
    )
    listening = loop.create_task(gateway.listens())
    await asyncio.wait([listening, loop.create_task(stopping.wait())], return_when=asyncio.FIRST_COMPLETED)
    _log.info("draining", grace_seconds=settings.drain_grace_seconds)
    leave_after(settings.drain_grace_seconds + CLOSE_SECONDS, 1)
    await gateway.stop()
    await listening
    _log.info("stopped")
    logs.flush(LAST_LINES_SECONDS)
