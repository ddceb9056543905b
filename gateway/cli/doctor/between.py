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
    STREAMS = "streams"
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
    Fault.STREAMS: {
        "Envoy": ("max_concurrent_streams: 1024  # in the http2_protocol_options of the HttpConnectionManager",),
        "nginx": ("http2_max_concurrent_streams 1024;  # in the server",),
        "HAProxy": ("tune.h2.max-concurrent-streams 1024  # in global",),
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
        name: The name of the proxy; empty if it is the gateway itself.
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
            return "no proxy in between"
        return f"{self.name} is in between" if self.sure else f"{self.name} is probably in between"

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
