"""All Prometheus metrics of one gateway, in a registry of its own (see docs/reference/metrics.md)."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from grpc import StatusCode
from prometheus_client import CollectorRegistry, Gauge, Info, ProcessCollector

from gateway import __version__
from gateway.errors import UpstreamError
from gateway.rpc.status import BY_ERROR, BY_HTTP_STATUS, OTHER_4XX, OTHER_5XX, mapping_for
from gateway.telemetry.instruments import CounterOf, Counters, Gauges, Histograms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gateway.errors import GatewayError

OK = "OK"
# Go's names of the codes, for go-grpc-middleware gave these metrics their names and dashboards match on them.
CODE_NAMES = {
    code: {"OK": "OK", "CANCELLED": "Canceled"}.get(code.name, code.name.title().replace("_", ""))
    for code in StatusCode
}
# From an answer at once to a watch of an hour, in seconds.
CALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)
UPSTREAM_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
DELIVERY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
UPSTREAM_METHODS = ("POST", "GET", "DELETE")
NO_ANSWER = "none"
STATUS_CLASSES = ("2xx", "3xx", "4xx", "5xx", NO_ANSWER)

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


class MethodMetrics:
    """The calls of one method of the service; made once, so that a call costs a few additions and no look-up."""

    __slots__ = ("_bytes", "_handled", "_handling", "_in_flight", "_messages", "_started")

    def __init__(self, metrics: Metrics, service: str, method: str, kind: str) -> None:
        labels = (kind, service, method)
        self._in_flight = metrics.calls_in_flight.series(*labels)
        self._started = metrics.calls_started.series(*labels)
        self._handling = metrics.call_seconds.series(*labels)
        self._handled = {code: metrics.calls_handled.series(*labels, name) for code, name in CODE_NAMES.items()}
        self._messages = metrics.messages_sent.series(*labels)
        self._bytes = metrics.bytes_sent.series(*labels)

    def began(self) -> None:
        """A call has come in."""
        self._started.value += 1
        self._in_flight.value += 1

    def sent(self, size: int) -> None:
        """A message of `size` bytes has gone to the caller."""
        self._messages.value += 1
        self._bytes.value += size

    def ended(self, code: StatusCode, seconds: float) -> None:
        """A call that was begun has ended after `seconds`."""
        self._in_flight.value -= 1
        self._handled[code].value += 1
        self._handling.observe(seconds)


class Metrics:
    """All metrics of one gateway: it observes calls, loops, submissions and exchanges, and asks for what is a level."""

    def __init__(self) -> None:
        # It looks at what each collector gives, so that no name is taken twice.
        self.registry = registry = CollectorRegistry(auto_describe=True)
        call = ("grpc_type", "grpc_service", "grpc_method")
        self.calls_started = Counters(
            registry, "grpc_server_started", "Calls that arrived, including rejected ones.", call
        )
        self.calls_handled = Counters(
            registry, "grpc_server_handled", "Calls that ended, by status code.", (*call, "grpc_code")
        )
        self.call_seconds = Histograms(
            registry,
            "grpc_server_handling_seconds",
            "Duration of calls in seconds; of streams, until their end.",
            call,
            bounds=CALL_BUCKETS,
        )
        self.messages_sent = Counters(
            registry, "grpc_server_msg_sent", "Messages sent to clients: responses and events.", call
        )
        self.calls_in_flight = Gauges(registry, "jobgateway_calls_in_flight", "Calls in flight.", call)
        self.bytes_sent = Counters(
            registry, "jobgateway_sent_bytes", "Bytes of messages sent to clients, uncompressed.", call
        )
        polls = Counters(
            registry, "jobgateway_polls", "Polls that ended, by outcome: OK or an error reason.", ("outcome",)
        )
        self._poll_by_outcome = {each: polls.series(each) for each in POLL_OUTCOMES}
        self._polled_watchers = Counters(
            registry,
            "jobgateway_polled_watchers",
            "Watchers served by polls, counted once per poll; divided by jobgateway_polls_total, the coalescing ratio.",
        ).series()
        self._watchers_joined = Counters(
            registry, "jobgateway_watchers_joined", "Watchers that joined a new or an existing loop."
        ).series()
        self._loops_started = Counters(registry, "jobgateway_loops_started", "Poll loops started.").series()
        self._delivery = Histograms(
            registry,
            "jobgateway_delivery_seconds",
            "Seconds from a new state's observation upstream to its last byte handed to a stream, once per watcher.",
            bounds=DELIVERY_BUCKETS,
        ).series()
        self._skipped = Counters(registry, "jobgateway_skipped_states", "States that slow streams skipped.").series()
        submissions = Counters(
            registry,
            "jobgateway_submissions",
            "Submissions that ended, by outcome: OK or an error reason.",
            ("outcome",),
        )
        self._submission_by_outcome = {each: submissions.series(each) for each in SUBMISSION_OUTCOMES}
        self._unknown_statuses = Counters(
            registry,
            "jobgateway_unknown_statuses",
            "Jobs read with an unknown status; the log has each word once.",
        ).series()
        upstream_seconds = Histograms(
            registry,
            "jobgateway_upstream_request_seconds",
            "Duration of upstream requests in seconds, until the response is read; status_class none: no response.",
            ("method", "status_class"),
            bounds=UPSTREAM_BUCKETS,
        )
        self._upstream = {
            method: {each: upstream_seconds.series(method, each) for each in STATUS_CLASSES}
            for method in UPSTREAM_METHODS
        }
        self._upstream_bytes = Counters(
            registry, "jobgateway_upstream_read_bytes", "Bytes of upstream responses, after decompression."
        ).series()
        Info("jobgateway_build", "The version of the gateway and of its Python.", registry=registry).info(
            {"version": __version__, "python": platform.python_version()}
        )
        ProcessCollector(registry=registry)

    def level(self, name: str, meaning: str, now: Callable[[], float]) -> None:
        """A gauge that asks `now` at each scrape."""
        Gauge(name, meaning, registry=self.registry).set_function(now)

    def count(self, name: str, meaning: str, now: Callable[[], float]) -> None:
        """Add a counter that asks `now` at each scrape."""
        CounterOf(self.registry, name, meaning, now)

    def methods(self, service: str, methods: Iterable[tuple[str, bool]]) -> dict[str, MethodMetrics]:
        """Those of the `methods` of a service, given by their name and whether they stream."""
        return {
            name: MethodMetrics(self, service, name, "server_stream" if streams else "unary")
            for name, streams in methods
        }

    # What the hub tells (watch.PollObserver)

    def loop_began(self) -> None:
        """A poll loop has begun."""
        self._loops_started.value += 1

    def watcher_joined(self) -> None:
        """A watcher has come."""
        self._watchers_joined.value += 1

    def polled(self, error: GatewayError | None, watchers: int) -> None:
        """A poll for `watchers` has ended, well where `error` is None."""
        self._poll_by_outcome[_outcome(error)].value += 1
        self._polled_watchers.value += watchers

    # What streams tell (stream.DeliveryObserver)

    def delivered(self, seconds: float, skipped: int) -> None:
        """A state that was observed `seconds` ago has gone out, and `skipped` before it have not."""
        self._delivery.observe(seconds)
        self._skipped.value += skipped

    # What the submitter tells (submit.SubmissionObserver)

    def submitted(self, error: GatewayError | None) -> None:
        """A submission has ended, well where `error` is None."""
        self._submission_by_outcome[_outcome(error)].value += 1

    # What a transport tells (upstream.DeliveryObserver)

    def exchanged(self, method: str, status: int | None, seconds: float, size: int) -> None:
        """An exchange has ended after `seconds`; `size` bytes of its answer were read, None: it had no status."""
        by_class = self._upstream[method]
        by_class[NO_ANSWER if status is None else STATUS_CLASSES[status // 100 - 2]].observe(seconds)
        self._upstream_bytes.value += size

    # What the readers of jobs tell (unknown_statuses)

    def unknown_status(self) -> None:
        """A job was read with a status that is not known."""
        self._unknown_statuses.value += 1


def _outcome(error: GatewayError | None) -> str:
    return OK if error is None else mapping_for(error).reason
