"""The program at the other end of the connection, and the settings that fix a fault in it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from h2.settings import SettingCodes

# A setting that gRPC's C core sends, as the gateway does.
_GRPC_CORE = 0xFE03
# HAProxy adds no header. Its settings are these two, and no initial window.
_HAPROXY = {SettingCodes.ENABLE_CONNECT_PROTOCOL, SettingCodes.MAX_CONCURRENT_STREAMS}


class Fault(StrEnum):
    """The faults that a setting of a proxy fixes."""

    IDLE = "idle"
    LIFETIME = "lifetime"
    STREAM_AGE = "stream age"
    CONNECTION_AGE = "connection age"
    OPEN_REQUEST = "open request"
    TCP_IDLE = "idle TCP"
    STREAMS = "streams"
    RATE = "rate"
    OVERFLOW = "overflow"
    REQUEST_SIZE = "request size"
    METADATA_SIZE = "metadata size"
    NOT_GRPC = "not gRPC"


_SETTINGS: dict[Fault, dict[str, tuple[str, ...]]] = {
    Fault.IDLE: {
        "Envoy": ("stream_idle_timeout: 150s  # in the HttpConnectionManager",),
        "nginx": ("grpc_read_timeout 150s;  # in the location", "grpc_send_timeout 150s;"),
        "HAProxy": ("timeout client 150s  # in defaults", "timeout server 150s"),
    },
    Fault.LIFETIME: {
        "Envoy": ("timeout: 0s  # in the route",),
        "nginx": (
            "keepalive_time 24h;  # in the server",
            "keepalive_requests 1000000;",
            "worker_shutdown_timeout 1h;  # at the top",
        ),
        "HAProxy": ("hard-stop-after 1h  # in global",),
    },
    Fault.STREAM_AGE: {
        "Envoy": (
            "# remove max_stream_duration from the common_http_protocol_options and from the route",
            "timeout: 0s  # in the route",
        ),
        "nginx": ("worker_shutdown_timeout 1h;  # at the top",),
        "HAProxy": ("hard-stop-after 1h  # in global",),
    },
    Fault.CONNECTION_AGE: {
        "Envoy": ("# remove max_connection_duration from the common_http_protocol_options",),
        "nginx": (
            "keepalive_time 24h;  # in the server",
            "keepalive_requests 1000000;",
            "worker_shutdown_timeout 1h;  # at the top",
        ),
        "HAProxy": ("hard-stop-after 1h  # in global",),
    },
    Fault.OPEN_REQUEST: {
        "Envoy": ("# remove request_timeout from the HttpConnectionManager",),
        "nginx": ("client_body_timeout 150s;  # in the server",),
        "HAProxy": ("timeout client 150s  # in defaults",),
    },
    Fault.TCP_IDLE: {
        "Envoy": ("idle_timeout: 150s  # in the TcpProxy",),
        "nginx": ("proxy_timeout 150s;  # in the server of the block stream",),
        "HAProxy": ("timeout client 150s  # in defaults", "timeout server 150s"),
    },
    Fault.STREAMS: {
        "Envoy": ("max_concurrent_streams: 1024  # in the http2_protocol_options of the HttpConnectionManager",),
        "nginx": ("http2_max_concurrent_streams 1024;  # in the server",),
        "HAProxy": ("tune.h2.max-concurrent-streams 1024  # in global",),
    },
    Fault.RATE: {
        "Envoy": ("# raise token_bucket in the filter envoy.filters.http.local_ratelimit",),
        "nginx": ("# raise rate of limit_req_zone, burst of limit_req, and limit_conn",),
        "HAProxy": ("# raise the rate in the rule http-request deny, and maxconn",),
    },
    # nginx has no limit of this kind.
    Fault.OVERFLOW: {
        "Envoy": (
            "circuit_breakers: {thresholds: [{max_requests: 100000, max_pending_requests: 1024}]}  # in the cluster",
        ),
    },
    # HAProxy has no such limit.
    Fault.REQUEST_SIZE: {
        "Envoy": ("max_request_bytes: 50331648  # in the filter envoy.filters.http.buffer",),
        "nginx": ("client_max_body_size 48m;  # in the server",),
    },
    Fault.METADATA_SIZE: {
        "Envoy": ("max_request_headers_kb: 60  # in the HttpConnectionManager",),
        "nginx": ("large_client_header_buffers 4 16k;  # in the server",),
        "HAProxy": ("tune.bufsize 32768  # in global",),
    },
    Fault.NOT_GRPC: {
        "Envoy": ("http2_protocol_options: {}  # in the explicit_http_config of the cluster",),
        "nginx": ("grpc_pass grpc://jobgateway;  # in the location, not proxy_pass",),
        "HAProxy": ("server gateway-1 gateway-1:50051 proto h2  # in the backend",),
    },
}
_FILES = {
    "Envoy": "deploy/proxies/envoy.yaml",
    "nginx": "deploy/proxies/nginx.conf",
    "HAProxy": "deploy/proxies/haproxy.cfg",
}


@dataclass(frozen=True)
class Between:
    """The program that this machine is connected to.

    Attributes:
        name: The name of the proxy; empty if it is the gateway itself. Load balancers of TCP cannot be seen.
        sure: False if the name is a guess.

    """

    name: str = ""
    sure: bool = True

    @property
    def subject(self) -> str:
        """The subject of a sentence about it."""
        if not self.name:
            return "the gateway"
        return self.name if self.sure else f"a proxy, probably {self.name},"

    @property
    def described(self) -> str:
        """The proxy in between, or its absence, in a few words."""
        if not self.name:
            return "no HTTP/2 proxy in between"
        return f"{self.name} is in between" if self.sure else f"{self.name} is probably in between"

    @property
    def tcp_subject(self) -> str:
        """The subject of a sentence about the end of a connection without a word of HTTP/2."""
        if not self.name:
            return "something on the TCP path (load balancer, NAT, firewall)"
        return f"{self.subject.removesuffix(',')}, or something on the TCP path to it,"

    def paste(self, fault: Fault) -> tuple[str, ...]:
        """Return the settings against a fault: those of this proxy, or of all that are known."""
        known = _SETTINGS[fault]
        if self.name in known:
            return known[self.name]
        return tuple(
            f"{line} ({name})" if "  # " in line else f"{line}  # {name}"
            for name, lines in known.items()
            for line in lines
        )

    def fix(self) -> str:
        """Return the words before the settings."""
        file = _FILES.get(self.name)
        return f"set this in {self.name} ({file} has it)" if file else "set this in the proxy (see deploy/proxies)"


def between(settings: dict[int, int], fields: dict[str, str]) -> Between:
    """Return the program that sent these settings and response headers."""
    server = fields.get("server", "")
    if "envoy" in server or any(name.startswith("x-envoy-") for name in fields):
        return Between("Envoy")
    if server.startswith(("nginx", "openresty")):
        return Between("nginx")
    if server or fields.get("via"):
        return Between((server or fields["via"])[:40])
    if _GRPC_CORE in settings:
        return Between()
    if settings.keys() == _HAPROXY:
        return Between("HAProxy", sure=False)
    return Between("an unknown proxy")
