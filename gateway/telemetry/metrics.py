"""All Prometheus metrics of one gateway, in its own registry (see docs/reference/metrics.md)."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from grpc import StatusCode
from prometheus_client import CollectorRegistry, Gauge, Info, ProcessCollector

from gateway import __version__
from gateway.errors import UpstreamError
from gateway.models import JobStatus
from gateway.rpc.status import BY_ERROR, BY_HTTP_STATUS, OTHER_4XX, OTHER_5XX, mapping_for
from gateway.telemetry.instruments import CounterOf, Counters, Gauges, GaugesOf, Histograms
from gateway.upstream import DROPPABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from gateway.errors import GatewayError
    from gateway.telemetry.instruments import Buckets, Value

OK = "OK"
# The names of the codes in Go, because dashboards expect the metrics of go-grpc-middleware.
CODE_NAMES = {
    code: {"OK": "OK", "CANCELLED": "Canceled"}.get(code.name, code.name.title().replace("_", ""))
    for code in StatusCode
}
# In seconds, from an immediate response to a watch of an hour.
CALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)
UPSTREAM_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
DELIVERY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
# In seconds, from an immediate end to the longest timeout of a job.
JOB_BUCKETS = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
UPSTREAM_METHODS = ("POST", "GET", "DELETE")
NO_RESPONSE = "none"
STATUS_CLASSES = ("2xx", "3xx", "4xx", "5xx", NO_RESPONSE)

# The statuses of an ended job. An end with an unknown word is `other`.
END_STATUSES = {
    status: "other" if status is JobStatus.UNSPECIFIED else status.name
    for status in JobStatus
    if status is not JobStatus.RUNNING
}

_UPSTREAM_REASONS = {
    *(mapping.reason for mapping in (*BY_HTTP_STATUS.values(), OTHER_4XX, OTHER_5XX)),
    *(mapping.reason for kind, mapping in BY_ERROR.items() if issubclass(kind, UpstreamError)),
}
POLL_OUTCOMES = sorted({OK, *_UPSTREAM_REASONS, "GATEWAY_DEFECT"})
SUBMISSION_OUTCOMES = sorted(
    {
        *POLL_OUTCOMES,
        *("SUBMIT_OUTCOME_UNKNOWN", "REQUEST_ID_REUSED", "REQUEST_IDS_EXHAUSTED", "LIMIT_REACHED", "STATE_UNAVAILABLE"),
    }
)


class CallFamilies:
    """The metrics of calls, by method."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("grpc_type", "grpc_service", "grpc_method")
        self.started = Counters(registry, "grpc_server_started", "Calls that arrived, including rejected ones.", labels)
        self.handled = Counters(
            registry, "grpc_server_handled", "Calls that ended, by status code.", (*labels, "grpc_code")
        )
        self.seconds = Histograms(
            registry,
            "grpc_server_handling_seconds",
            "Duration of calls in seconds; of streams, until their end.",
            labels,
            bounds=CALL_BUCKETS,
        )
        self.messages_sent = Counters(
            registry, "grpc_server_msg_sent", "Messages sent to clients: responses and events.", labels
        )
        self.in_flight = Gauges(registry, "jobgateway_calls_in_flight", "Calls in flight.", labels)
        self.bytes_sent = Counters(
            registry, "jobgateway_sent_bytes", "Bytes of messages sent to clients, uncompressed.", labels
        )


class MethodMetrics:
    """The calls of one method. It looks up its series once, so that a call costs a few additions."""

    __slots__ = ("_bytes", "_handled", "_in_flight", "_messages", "_seconds", "_started")

    def __init__(self, families: CallFamilies, kind: str, service: str, method: str) -> None:
        labels = (kind, service, method)
        self._in_flight = families.in_flight.series(*labels)
        self._started = families.started.series(*labels)
        self._seconds = families.seconds.series(*labels)
        self._handled = {code: families.handled.series(*labels, name) for code, name in CODE_NAMES.items()}
        self._messages = families.messages_sent.series(*labels)
        self._bytes = families.bytes_sent.series(*labels)

    def began(self) -> None:
        """Count a call that has arrived."""
        self._started.value += 1
        self._in_flight.value += 1

    def sent(self, size: int) -> None:
        """Count a message of `size` bytes to the client."""
        self._messages.value += 1
        self._bytes.value += size

    def ended(self, code: StatusCode, seconds: float) -> None:
        """Count the end of a call that took `seconds`."""
        self._in_flight.value -= 1
        self._handled[code].value += 1
        self._seconds.observe(seconds)


class Metrics:
    """All metrics of one gateway: the observer of its hub, streams, submitter and transports."""

    def __init__(self) -> None:
        # With `auto_describe`, the registry rejects a name that is taken.
        self.registry = registry = CollectorRegistry(auto_describe=True)
        self._calls = CallFamilies(registry)
        self._polls = _by_outcome(
            registry, "jobgateway_polls", "Polls that ended, by outcome: OK or an error reason.", POLL_OUTCOMES
        )
        self._polled_watchers = _counter(
            registry,
            "jobgateway_polled_watchers",
            "Watchers served by polls, counted once per poll; divided by jobgateway_polls_total, the coalescing ratio.",
        )
        self._watchers_joined = _counter(
            registry, "jobgateway_watchers_joined", "Watchers that joined a new or an existing loop."
        )
        self._loops_started = _counter(registry, "jobgateway_loops_started", "Poll loops started.")
        self._delivery = Histograms(
            registry,
            "jobgateway_delivery_seconds",
            "Seconds from a new state's observation upstream to its last byte handed to a stream, once per watcher.",
            bounds=DELIVERY_BUCKETS,
        ).series()
        self._skipped = _counter(registry, "jobgateway_skipped_states", "States that slow streams skipped.")
        self._submissions = _by_outcome(
            registry,
            "jobgateway_submissions",
            "Submissions that ended, by outcome: OK or an error reason.",
            SUBMISSION_OUTCOMES,
        )
        self._unknown_statuses = _counter(
            registry, "jobgateway_unknown_statuses", "Jobs read with an unknown status; the log has each word once."
        )
        self._jobs_ended, self._job_seconds = _job_ends(registry)
        self._dropped_fields = _by_field(registry)
        self._replayed = _counter(
            registry,
            "jobgateway_submissions_replayed",
            "Calls that got the job of an earlier submission with their request_id.",
        )
        self._upstream_requests = _upstream_requests(registry)
        self._upstream_bytes = _counter(
            registry, "jobgateway_upstream_read_bytes", "Bytes of upstream responses, after decompression."
        )
        _process_info(registry)

    def level(self, name: str, meaning: str, now: Callable[[], float]) -> None:
        """Add a gauge that calls `now` at each scrape."""
        Gauge(name, meaning, registry=self.registry).set_function(now)

    def levels(self, name: str, meaning: str, label: str, now: Callable[[], Mapping[str, float]]) -> None:
        """Add a gauge that calls `now` at each scrape for its values, by the values of `label`."""
        GaugesOf(self.registry, name, meaning, label, now)

    def count(self, name: str, meaning: str, now: Callable[[], float]) -> None:
        """Add a counter that calls `now` at each scrape."""
        CounterOf(self.registry, name, meaning, now)

    def methods(self, service: str, methods: Iterable[tuple[str, str]]) -> dict[str, MethodMetrics]:
        """Return the metrics of the `methods` of a service, given as pairs of a name and a type, such as `unary`."""
        return {name: MethodMetrics(self._calls, kind, service, name) for name, kind in methods}

    # watch.PollObserver

    def loop_began(self) -> None:
        """Count a poll loop."""
        self._loops_started.value += 1

    def watcher_joined(self) -> None:
        """Count a watcher."""
        self._watchers_joined.value += 1

    def polled(self, error: GatewayError | None, watchers: int) -> None:
        """Count a poll for `watchers`. Without `error`, it succeeded."""
        self._polls[_outcome(error)].value += 1
        self._polled_watchers.value += watchers

    # rpc.stream.DeliveryObserver

    def delivered(self, seconds: float, skipped: int) -> None:
        """Count a state that was sent `seconds` after it was observed, and `skipped` states before it that were not."""
        self._delivery.observe(seconds)
        self._skipped.value += skipped

    # submit.SubmissionObserver

    def submitted(self, error: GatewayError | None) -> None:
        """Count a submission. Without `error`, it succeeded."""
        self._submissions[_outcome(error)].value += 1

    def replayed(self) -> None:
        """Count a call that got the job of an earlier submission."""
        self._replayed.value += 1

    # upstream.RequestObserver

    def exchanged(self, method: str, status: int | None, seconds: float, size: int) -> None:
        """Count a request that took `seconds`. `size` bytes of its response were read; `status` is None without one."""
        by_class = self._upstream_requests[method]
        by_class[NO_RESPONSE if status is None else STATUS_CLASSES[status // 100 - 2]].observe(seconds)
        self._upstream_bytes.value += size

    # telemetry.jobs.JobCounters

    def job_ended(self, status: JobStatus, seconds: float | None) -> None:
        """Count the end of a job that took `seconds`, or None if its begin is not known."""
        self._jobs_ended[status].value += 1
        if seconds is not None:
            self._job_seconds[status].observe(seconds)

    def fields_dropped(self, names: Iterable[str]) -> None:
        """Count the malformed fields of a job."""
        for each in names:
            self._dropped_fields[each].value += 1

    def unknown_status(self) -> None:
        """Count a job that was read with an unknown status."""
        self._unknown_statuses.value += 1


def _counter(registry: CollectorRegistry, name: str, meaning: str) -> Value:
    return Counters(registry, name, meaning).series()


def _by_outcome(registry: CollectorRegistry, name: str, meaning: str, outcomes: Iterable[str]) -> dict[str, Value]:
    family = Counters(registry, name, meaning, ("outcome",))
    return {each: family.series(each) for each in outcomes}


def _job_ends(registry: CollectorRegistry) -> tuple[dict[JobStatus, Value], dict[JobStatus, Buckets]]:
    ended = Counters(
        registry, "jobgateway_jobs_ended", "Jobs whose end was read, each once per gateway, by status.", ("status",)
    )
    seconds = Histograms(
        registry,
        "jobgateway_job_seconds",
        "Duration of ended jobs in seconds, from their submission or first read here to their end, by status.",
        ("status",),
        bounds=JOB_BUCKETS,
    )
    return (
        {status: ended.series(label) for status, label in END_STATUSES.items()},
        {status: seconds.series(label) for status, label in END_STATUSES.items()},
    )


def _by_field(registry: CollectorRegistry) -> dict[str, Value]:
    family = Counters(
        registry,
        "jobgateway_dropped_fields",
        "Malformed fields of jobs that were left out, by field, once per response.",
        ("field",),
    )
    return {each: family.series(each) for each in DROPPABLE}


def _upstream_requests(registry: CollectorRegistry) -> dict[str, dict[str, Buckets]]:
    family = Histograms(
        registry,
        "jobgateway_upstream_request_seconds",
        "Duration of upstream requests in seconds, until the response is read; status_class none: no response.",
        ("method", "status_class"),
        bounds=UPSTREAM_BUCKETS,
    )
    return {method: {each: family.series(method, each) for each in STATUS_CLASSES} for method in UPSTREAM_METHODS}


def _process_info(registry: CollectorRegistry) -> None:
    build = Info("jobgateway_build", "The version of the gateway and of its Python.", registry=registry)
    build.info({"version": __version__, "python": platform.python_version()})
    ProcessCollector(registry=registry)


def _outcome(error: GatewayError | None) -> str:
    return OK if error is None else mapping_for(error).reason
