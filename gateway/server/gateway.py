"""Build a gateway of all its parts, serve it and drain it."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from math import isnan
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from jobgateway.v1 import job_service_pb2 as pb

from gateway.auth.authorities import client_context
from gateway.auth.certificates import Certificates
from gateway.auth.gateway_token import GatewayToken
from gateway.clock import SystemClock
from gateway.limits.admission import Admission, AdmissionLimits, draining_error
from gateway.limits.fair_budget import FairBudget
from gateway.limits.holds import Holds
from gateway.limits.rate_limiter import RateLimiter
from gateway.limits.response_memory import ResponseMemory
from gateway.rpc import many_messages, one_message
from gateway.rpc.codec.events import JobState
from gateway.rpc.handler import HandlerFactory
from gateway.rpc.service import JobService
from gateway.rpc.status import mapping_for
from gateway.rpc.tracing import NoopTracer
from gateway.server import defaults, health, reflection
from gateway.server.admin import AdminServer
from gateway.server.health import Health
from gateway.server.listener import Listener
from gateway.server.status_page.collector import Collector, Sources
from gateway.server.status_page.model import Certificate
from gateway.server.status_page.pages import StatusPages
from gateway.submit import Submitter, longest_seconds
from gateway.submit.state import open_state
from gateway.telemetry import logs
from gateway.telemetry.jobs import ObservedJobs
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.recent_requests import RecentRequests
from gateway.threads import WorkerPool
from gateway.time_limits import limited_until
from gateway.upstream import HTTP2, RestClient, Timeouts, Transport, UpstreamHealth, probe
from gateway.watch import Hub, InMemorySentJobs, PollPolicy, PollSchedule

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor

    from gateway.clock import Clock
    from gateway.config import Settings
    from gateway.limits.fair_budget import Usage
    from gateway.rpc.tracing import Tracer
    from gateway.submit import IdempotencyStore
    from gateway.upstream.health import RequestHealth
    from gateway.watch import SentJobs


JOB_SERVICE = pb.DESCRIPTOR.services_by_name["JobService"]
STREAMS = frozenset(method.name for method in JOB_SERVICE.methods if method.server_streaming)

_log = structlog.get_logger()


class Gateway:
    """One gateway. It can be started and stopped once.

    Raises:
        ConfigError: A file that a setting names cannot be used.
    """

    def __init__(self, settings: Settings, tracer: Tracer | None = None, clock: Clock | None = None) -> None:
        self._settings = settings
        self._tracer = tracer or NoopTracer()
        self._clock = clock = clock or SystemClock()
        self._request_workers = WorkerPool("requests", defaults.REQUEST_WORKERS)
        self._response_workers = WorkerPool("responses", defaults.RESPONSE_WORKERS)
        self._metrics = metrics = Metrics()
        self._large_responses = FairBudget(defaults.LARGE_RESPONSES_BYTES)
        self._response_memory = ResponseMemory(self._large_responses, defaults.LARGE_MESSAGES_BYTES)
        sent_jobs = InMemorySentJobs(clock)
        self._admission = _admission(settings, clock)
        self._recent_requests = RecentRequests(clock, metrics)
        self._upstream_health = UpstreamHealth(
            clock,
            reason_of=lambda error: mapping_for(error).reason,
            failing_loops=lambda: self._hub.failing_loop_count,
        )
        self._rest = _rest_client(
            settings,
            clock,
            self._large_responses,
            metrics,
            self._recent_requests,
            self._response_workers,
            self._upstream_health,
        )
        holds = Holds(clock)
        self._poll_slots = FairBudget(defaults.POLL_SLOTS)
        self._hub = _hub(settings, clock, self._poll_slots, sent_jobs, metrics, holds)
        self._state = open_state(settings.state_url, settings.state_key_file, clock, holds)
        self._submitter = _submitter(settings, clock, self._state.store, metrics, holds)
        self._service = JobService(
            rest=self._rest,
            hub=self._hub,
            submitter=self._submitter,
            request_keys=self._state.keys,
            sent_jobs=sent_jobs,
            clock=clock,
            response_memory=self._response_memory,
            observer=metrics,
            request_workers=self._request_workers,
            response_workers=self._response_workers,
        )
        self._handler_factory = self._make_handler_factory()
        self._health = Health(self._service_names())
        self._certificates = _certificates(settings)
        credentials = self._certificates.credentials() if self._certificates else None
        self._listener = Listener(settings.listen, self._make_server, credentials)
        self._admin = AdminServer(metrics.registry, lambda: self.ready, StatusPages(Collector(self._sources()), clock))
        self.admin_address = ""
        self._probes: set[asyncio.Task[None]] = set()
        self._report_levels()

    @property
    def ready(self) -> bool:
        """True while it accepts calls."""
        # Regardless of the upstream, because otherwise its outage would make all replicas unready.
        return self._listener.serving and not self._admission.draining

    @property
    def address(self) -> str:
        """The gRPC address, as HOST:PORT."""
        return self._listener.address

    async def start(self) -> None:
        """Serve. Raises `OSError` if an address cannot be bound."""
        self.admin_address = await self._admin.start(self._settings.admin_listen)
        try:
            await self._listener.start()
            self._state.start()
        except BaseException:
            await self._admin.aclose()
            raise

    def probe_upstream(self) -> None:
        """Log in the background whether the upstream responds like the API."""
        probing = asyncio.create_task(probe(self._rest))
        self._probes.add(probing)
        # The event loop logs the defect of a task when no one holds it.
        probing.add_done_callback(self._probes.discard)

    async def wait_closed(self) -> None:
        """Wait until `stop` closes the listener. Raises `ListenerLost` if it ends before."""
        await self._listener.wait_closed()

    async def wait_idle(self) -> None:
        """Wait until no call is in flight."""
        await self._admission.wait_idle(float("inf"))

    async def stop(self, grace: float) -> None:
        """Drain for at most `grace` seconds, then close everything, also if `start` failed or was never called.

        1. Reject new calls with DRAINING, and report NOT_SERVING.
        2. Wait for two thirds of the grace until the calls in flight have ended.
        3. End the remaining watchers with DRAINING, spread over the last third.
        4. When the grace is over, interrupt the remaining calls, so that each gets a status of ours.
        5. Stop the listener, after the last responses have left the process.
        6. Wait for the rest of the grace until submissions and cancellations without a client have ended.
        7. Stop the poll loops, and close the connections to the upstream, the store, the tracer, and the admin address.
        """
        deadline = self._clock.monotonic() + grace
        self._admission.draining = True
        self._health.drain()
        for probing in self._probes:
            probing.cancel()
        if self._probes:
            await asyncio.wait(self._probes)
        await self._drain(deadline, last_third=deadline - grace / 3)
        await self._listener.stop(defaults.FLUSH_RESPONSES_SECONDS)
        await self._finish_submissions(deadline)
        self._upstream_health.close()
        await self._hub.aclose()
        await self._rest.aclose()
        await self._state.aclose()
        await self._tracer.aclose()
        # Last, so that the drain can be observed to its end.
        await self._admin.aclose()
        self._request_workers.close()
        self._response_workers.close()

    async def _drain(self, deadline: float, *, last_third: float) -> None:
        if await self._admission.wait_idle(last_third):
            return
        _log.info("drain.ending_watches", watches=self._hub.watcher_count, calls=self._admission.in_flight)
        ending = asyncio.create_task(self._hub.end_watchers(draining_error, deadline))
        idle = await self._admission.wait_idle(deadline)
        ending.cancel()
        await asyncio.wait([ending])
        if not idle:
            _log.warning("drain.calls_cut", calls=self._admission.in_flight)
            # grpc would end them with UNAVAILABLE, and clients would send their submissions again.
            self._handler_factory.end_calls()
            await self._admission.wait_idle(self._clock.monotonic() + defaults.FLUSH_RESPONSES_SECONDS)

    async def _finish_submissions(self, deadline: float) -> None:
        # No call waits for them any more, but their outcome and cancellations are worth the rest of the grace.
        until = max(deadline, self._clock.monotonic() + defaults.FLUSH_RESPONSES_SECONDS)
        try:
            with limited_until(self._clock, until):
                await self._service.aclose()
        except TimeoutError:
            _log.warning("drain.submissions_cut")

    def _service_names(self) -> list[str]:
        names = [JOB_SERVICE.full_name, health.SERVICE_NAME]
        return [*names, reflection.SERVICE_NAME] if self._settings.reflection else names

    def _make_handler_factory(self) -> HandlerFactory:
        methods = [(each.name, _grpc_type(each)) for each in JOB_SERVICE.methods]
        token_file = self._settings.upstream_token_file
        key = self._state.keys.credentials
        return HandlerFactory(
            self._admission,
            self._clock,
            self._metrics.methods(JOB_SERVICE.full_name, methods),
            self._tracer,
            GatewayToken(token_file, key) if token_file else None,
            key,
        )

    def _make_server(self) -> grpc.aio.Server:
        max_age = ("grpc.max_connection_age_ms", round(self._settings.max_connection_age_seconds * 1000))
        server = grpc.aio.server(options=(*defaults.OPTIONS, max_age))
        handlers = _job_service_handlers(self._service, self._handler_factory)
        server.add_generic_rpc_handlers((handlers, self._health.handler()))
        if self._settings.reflection:
            reflection.enable(self._service_names(), server)
        return server

    def _sources(self) -> Sources:
        return Sources(
            settings=self._settings,
            clock=self._clock,
            hub=self._hub,
            calls=self._handler_factory,
            store_health=self._state.health,
            recent_requests=self._recent_requests,
            upstream_health=self._upstream_health.snapshot,
            usage=self._usage,
            usage_by_caller=lambda: {
                **self._admission.usage_by_caller(),
                "submissions": self._submitter.usage_by_caller(),
            },
            usage_by_poll_key=lambda: {
                "polls": self._poll_slots.usage_by_owner(),
                "large_responses": self._large_responses.usage_by_owner(),
                "large_messages": self._response_memory.usage_by_owner(),
            },
            certificate=self._certificate,
            addresses=lambda: (self.address, self.admin_address),
            is_ready=lambda: self.ready,
            is_draining=lambda: self._admission.draining,
        )

    def _certificate(self) -> Certificate | None:
        if self._certificates is None:
            return None
        expiry = self._certificates.expiry
        return Certificate(None if isnan(expiry) else datetime.fromtimestamp(expiry, UTC), self._certificates.doubt)

    def _usage(self) -> dict[str, Usage]:
        return {
            **self._admission.usage(),
            "submissions": self._submitter.usage,
            "polls": self._poll_slots.usage,
            "large_responses": self._large_responses.usage,
            "large_messages": self._response_memory.usage,
            "request_ids": self._state.usage,
        }

    def _report_levels(self) -> None:
        level = self._metrics.level
        level("jobgateway_loops", "Poll loops running.", lambda: self._hub.loop_count)
        level("jobgateway_watchers", "Watchers of the poll loops.", lambda: self._hub.watcher_count)
        level("jobgateway_submissions_in_flight", "Submissions in flight.", lambda: self._submitter.in_flight)
        levels = self._metrics.levels
        levels(
            "jobgateway_limit_used",
            "How much of a limit is in use: a number, or bytes for large_*.",
            "limit",
            lambda: {name: usage.used for name, usage in self._usage().items()},
        )
        levels(
            "jobgateway_limit_max",
            "The limit itself.",
            "limit",
            lambda: {name: usage.limit for name, usage in self._usage().items()},
        )
        level(
            "jobgateway_certificate_expiry_timestamp_seconds",
            "When the certificate of the listener expires, in seconds since the epoch; NaN without TLS.",
            lambda: self._certificates.expiry if self._certificates else float("nan"),
        )
        level(
            "jobgateway_large_answers_waiting",
            "Upstream responses over 1 MiB that wait for memory.",
            lambda: self._large_responses.waiting,
        )
        self._metrics.count(
            "jobgateway_log_lines_lost", "Log lines that standard error did not accept.", logs.lost_lines
        )
        level(
            "jobgateway_state_available",
            "1 if the store of request ids can be used, else 0.",
            lambda: self._state.health.available,
        )
        level(
            "jobgateway_upstream_failing",
            "1 while the upstream fails, as in the log lines upstream.failing and upstream.recovered, else 0.",
            lambda: self._upstream_health.failing,
        )
        level("jobgateway_draining", "1 while the gateway drains, else 0.", lambda: self._admission.draining)


def _grpc_type(method: MethodDescriptor) -> str:
    """Return the label that grpc's own metrics use."""
    if method.client_streaming:
        return "bidi_stream"
    return "server_stream" if method.server_streaming else "unary"


def _admission(settings: Settings, clock: Clock) -> Admission:
    return Admission(
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


def _hub(
    settings: Settings, clock: Clock, slots: FairBudget, sent_jobs: SentJobs, metrics: Metrics, holds: Holds
) -> Hub[JobState]:
    policy = PollPolicy(
        schedule=PollSchedule(settings.poll_interval_min_seconds, settings.poll_interval_max_seconds),
        outage_seconds=settings.poll_outage_seconds,
        rate_limiter=RateLimiter(clock, settings.polls_per_second),
        slots=slots,
        sent_jobs=sent_jobs,
        observer=metrics,
    )
    return Hub(clock, policy, holds)


def _submitter(settings: Settings, clock: Clock, store: IdempotencyStore, metrics: Metrics, holds: Holds) -> Submitter:
    rate_limiter = RateLimiter(clock, settings.submissions_per_second)
    longest = settings.submit_timeout_seconds
    claim = longest_seconds(min(defaults.CONNECT_SECONDS, longest), longest) + defaults.CLAIM_MARGIN_SECONDS
    return Submitter(clock, store, rate_limiter, metrics, claim_seconds=claim, holds=holds)


def _rest_client(
    settings: Settings,
    clock: Clock,
    budget: FairBudget,
    metrics: Metrics,
    recent_requests: RecentRequests,
    workers: WorkerPool,
    upstream_health: UpstreamHealth,
) -> RestClient:
    secure = settings.upstream_url.startswith("https:")
    reads_tls = submissions_tls = client_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if secure and settings.upstream_http2:
        # Another one, because all connections of a context offer the same protocols.
        submissions_tls = client_context()
        submissions_tls.set_alpn_protocols([HTTP2, "http/1.1"])

    def transport(
        requests: RequestHealth,
        *,
        silence: float,
        total: float,
        idle_seconds: float,
        max_connections: int,
        tls: ssl.SSLContext,
    ) -> Transport:
        return Transport(
            clock,
            timeouts=Timeouts(min(defaults.CONNECT_SECONDS, silence), silence, total),
            idle_seconds=idle_seconds,
            max_connections=max_connections,
            max_response_bytes=defaults.MAX_RESPONSE_BYTES,
            budget=budget,
            tls=tls,
            proxy=settings.upstream_proxy_url,
            observer=recent_requests,
            abandoned=requests.abandoned,
        )

    return RestClient(
        settings.upstream_url,
        submissions=transport(
            upstream_health.submissions,
            silence=settings.submit_timeout_seconds,
            total=settings.submit_timeout_seconds,
            idle_seconds=defaults.SUBMIT_IDLE_SECONDS,
            max_connections=defaults.SUBMIT_CONNECTIONS,
            tls=submissions_tls,
        ),
        reads=transport(
            upstream_health.reads,
            silence=settings.upstream_timeout_seconds,
            total=settings.upstream_timeout_seconds * defaults.TOTAL_TIMEOUT_FACTOR,
            idle_seconds=defaults.READ_IDLE_SECONDS,
            max_connections=defaults.POLL_SLOTS + settings.max_calls,
            tls=reads_tls,
        ),
        now=clock.time,
        observer=ObservedJobs(metrics),
        workers=workers,
        health=upstream_health,
    )


def _certificates(settings: Settings) -> Certificates | None:
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return Certificates(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)


def _job_service_handlers(service: JobService, handler_factory: HandlerFactory) -> grpc.GenericRpcHandler:
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in JOB_SERVICE.methods:
        handle = handler_factory.handler(
            method.name,
            getattr(service, method.name),
            getattr(pb, method.input_type.name),
            watch=method.name in STREAMS,
            requests=method.client_streaming,
        )
        handlers[method.name] = (
            many_messages.method_handler(handle)
            if method.client_streaming
            else one_message.method_handler(handle, streams=method.server_streaming)
        )
    return grpc.method_handlers_generic_handler(JOB_SERVICE.full_name, handlers)
