"""The composition root: builds a gateway, serves and drains it."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from jobgateway.v1 import job_service_pb2 as pb

from gateway.auth.authorities import client_context
from gateway.auth.certificates import Certificates
from gateway.auth.gateway_token import GatewayToken
from gateway.clock import SystemClock, Timeout
from gateway.limits.admission import Admission, AdmissionLimits, draining_error
from gateway.limits.fair_budget import FairBudget
from gateway.limits.rate_limiter import RateLimiter
from gateway.limits.response_memory import ResponseMemory
from gateway.rpc import one_message
from gateway.rpc.codec.events import JobState
from gateway.rpc.handler import HandlerFactory
from gateway.rpc.service import JobService
from gateway.rpc.tracing import NoopTracer
from gateway.server import defaults, health, reflection
from gateway.server.admin import AdminServer
from gateway.server.health import Health
from gateway.server.listener import Listener
from gateway.submit import InMemoryIdempotencyStore, Submitter
from gateway.telemetry import logs
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.unknown_statuses import UnknownStatuses
from gateway.upstream import RestClient, Timeouts, Transport
from gateway.watch import Hub, InMemorySentJobs, PollPolicy, PollSchedule

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.rpc.tracing import Tracer
    from gateway.upstream import RequestObserver


JOB_SERVICE = pb.DESCRIPTOR.services_by_name["JobService"]
STREAMS = frozenset(method.name for method in JOB_SERVICE.methods if method.server_streaming)

_log = structlog.get_logger()


class Gateway:
    """A gateway that can be started and stopped once.

    Raises `ConfigError` where a file that a setting names is no use.
    """

    def __init__(self, settings: Settings, tracer: Tracer | None = None) -> None:
        clock = SystemClock()
        self._tracer = tracer or NoopTracer()
        self._settings = settings
        self._clock = clock
        self._admission = Admission(
            clock,
            AdmissionLimits(
                max_calls=settings.max_calls,
                max_watches=settings.max_watches,
                max_calls_per_credential=settings.max_calls_per_credential,
                max_watches_per_credential=settings.max_watches_per_credential,
                calls_per_second=settings.calls_per_second,
                large_requests_bytes=defaults.LARGE_REQUESTS_BYTES,
            ),
        )
        metrics = Metrics()
        methods = metrics.methods(
            JOB_SERVICE.full_name, [(each.name, each.name in STREAMS) for each in JOB_SERVICE.methods]
        )
        gateway_token = GatewayToken(settings.upstream_token_file) if settings.upstream_token_file else None
        self._handler_factory = HandlerFactory(self._admission, clock, methods, self._tracer, gateway_token)
        budget = FairBudget(defaults.LARGE_RESPONSES_BYTES)
        self._rest = _rest_client(settings, budget, metrics, UnknownStatuses(metrics.unknown_status))
        sent_jobs = InMemorySentJobs(clock)
        policy = PollPolicy(
            schedule=PollSchedule(settings.poll_interval_min_seconds, settings.poll_interval_max_seconds),
            outage_seconds=settings.poll_outage_seconds,
            rate_limiter=RateLimiter(clock, settings.polls_per_second),
            slots=FairBudget(defaults.POLL_SLOTS),
            sent_jobs=sent_jobs,
            observer=metrics,
        )
        self._hub: Hub[JobState] = Hub(clock, policy)
        submitter = Submitter(
            clock, InMemoryIdempotencyStore(clock), RateLimiter(clock, settings.submissions_per_second), metrics
        )
        self._service = JobService(
            rest=self._rest,
            hub=self._hub,
            submitter=submitter,
            sent_jobs=sent_jobs,
            clock=clock,
            response_memory=ResponseMemory(budget, defaults.LARGE_MESSAGES_BYTES),
            observer=metrics,
        )
        self._levels(metrics, budget, submitter)
        self._health = Health(self._names())
        self._listener = Listener(settings.listen, self._make_server, _credentials(settings))
        self._admin = AdminServer(metrics.registry, lambda: self.ready)
        self.admin_address = ""

    def _levels(self, metrics: Metrics, budget: FairBudget, submitter: Submitter) -> None:
        level = metrics.level
        level("jobgateway_loops", "Poll loops running.", lambda: self._hub.loop_count)
        level("jobgateway_watchers", "Watchers of the poll loops.", lambda: self._hub.watcher_count)
        level("jobgateway_submissions_in_flight", "Submissions in flight.", submitter.__len__)
        level(
            "jobgateway_large_answers_reserved_bytes",
            f"Bytes held by upstream responses over 1 MiB, of {defaults.LARGE_RESPONSES_BYTES} bytes.",
            lambda: budget.reserved,
        )
        level(
            "jobgateway_large_answers_waiting",
            "Upstream responses over 1 MiB that wait for memory.",
            lambda: budget.waiting,
        )
        metrics.count(
            "jobgateway_log_lines_lost",
            "Log lines that standard error did not accept.",
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
        names = [JOB_SERVICE.full_name, health.SERVICE_NAME]
        return [*names, reflection.SERVICE_NAME] if self._settings.reflection else names

    def _make_server(self) -> grpc.aio.Server:
        max_age = ("grpc.max_connection_age_ms", round(self._settings.max_connection_age_seconds * 1000))
        server = grpc.aio.server(options=(*defaults.OPTIONS, max_age))
        server.add_generic_rpc_handlers((_handlers(self._service, self._handler_factory),))
        server.add_generic_rpc_handlers((self._health.handler(),))
        if self._settings.reflection:
            reflection.enable(self._names(), server)
        return server

    async def listens(self) -> None:
        """Returns when `stop` has closed the listener. Raises `OSError` where it was lost and cannot be had again."""
        await self._listener.lost()

    async def wait_idle(self) -> None:
        """Returns when no call is being served."""
        await self._admission.wait_idle(float("inf"))

    async def stop(self, grace: float | None = None) -> None:
        """Drains within `grace` seconds (the setting's, where it is None), then closes the listener and all else.

        Also where `start` failed or was never called.
        """
        grace = self._settings.drain_grace_seconds if grace is None else grace
        deadline = self._clock.monotonic() + grace
        self._admission.draining = True
        self._health.drain()
        await self._drain(deadline, last_third=deadline - grace / 3)
        await self._listener.stop(defaults.FLUSH_RESPONSES_SECONDS)
        await self._finish_submissions(deadline)
        await self._hub.aclose()
        await self._rest.aclose()
        await self._tracer.aclose()
        # Last, so that the drain can be watched to its end.
        await self._admin.aclose()

    async def _drain(self, deadline: float, *, last_third: float) -> None:
        if await self._admission.wait_idle(last_third):
            return
        _log.info("ending watches", watches=self._hub.watcher_count, calls=self._admission.in_flight)
        slices = asyncio.create_task(self._hub.end_watchers(draining_error, deadline))
        all_left = await self._admission.wait_idle(deadline)
        slices.cancel()
        await asyncio.wait([slices])
        if not all_left:
            _log.warning("calls cut off", calls=self._admission.in_flight)
            # Each gets a status of ours; grpc's own would be UNAVAILABLE, and a submission would be sent again.
            self._handler_factory.end_calls()
            await self._admission.wait_idle(self._clock.monotonic() + defaults.FLUSH_RESPONSES_SECONDS)

    async def _finish_submissions(self, deadline: float) -> None:
        # Nobody waits for these any more, but a cancellation or an outcome is worth the rest of the grace.
        try:
            async with Timeout(self._clock, max(deadline, self._clock.monotonic() + defaults.FLUSH_RESPONSES_SECONDS)):
                await self._service.aclose()
        except TimeoutError:
            _log.warning("submissions or cancellations cut off")


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return Certificates(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file).credentials()


def _rest_client(
    settings: Settings, budget: FairBudget, observer: RequestObserver, unknown_statuses: UnknownStatuses
) -> RestClient:
    silence = settings.upstream_timeout_seconds
    secure = settings.upstream_url.startswith("https:")
    tls = client_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    reads = Transport(
        timeouts=Timeouts(min(defaults.CONNECT_SECONDS, silence), silence, silence * defaults.TOTAL_TIMEOUT_FACTOR),
        idle_seconds=defaults.READ_IDLE_SECONDS,
        max_connections=defaults.POLL_SLOTS + settings.max_calls,
        max_response_bytes=defaults.MAX_RESPONSE_BYTES,
        budget=budget,
        tls=tls,
        proxy=settings.upstream_proxy_url,
        observer=observer,
    )
    longest = settings.submit_timeout_seconds
    submissions = Transport(
        timeouts=Timeouts(min(defaults.CONNECT_SECONDS, longest), longest, longest),
        idle_seconds=defaults.SUBMIT_IDLE_SECONDS,
        max_connections=defaults.SUBMIT_CONNECTIONS,
        max_response_bytes=defaults.MAX_RESPONSE_BYTES,
        budget=budget,
        tls=tls,
        proxy=settings.upstream_proxy_url,
        observer=observer,
    )
    return RestClient(
        settings.upstream_url, submissions=submissions, reads=reads, now=SystemClock().time, observer=unknown_statuses
    )


def _handlers(service: JobService, handler_factory: HandlerFactory) -> grpc.GenericRpcHandler:
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in JOB_SERVICE.methods:
        request = getattr(pb, method.input_type.name)
        handle = handler_factory.handler(
            method.name, getattr(service, method.name), request, watch=method.name in STREAMS
        )
        handlers[method.name] = one_message.method_handler(handle, streams=method.server_streaming)
    return grpc.method_handlers_generic_handler(JOB_SERVICE.full_name, handlers)
