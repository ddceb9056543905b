"""The real proxies, as processes, with the configurations of `deploy/proxies` plus test addresses and faults."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import yaml

from clients.mesh.gateways import Gateway
from clients.runner.gateways import free_address
from clients.runner.languages import environment

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIGURATIONS = Path(__file__).resolve().parents[2] / "deploy" / "proxies"
# The contract of the last release (`make release-image`).
DESCRIPTOR_SET = CONFIGURATIONS.parents[1] / "proto" / "released.binpb"
START_SECONDS = 90.0
# With these relative paths, an nginx that runs as root needs no folders that its workers can write to.
_NGINX_PATHS = "".join(f"{kind}_temp_path {kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
_CONNECTION_MANAGER = ("filter_chains", 0, "filters", 0, "typed_config")


@dataclass(frozen=True)
class Faults:
    """The changes to the recommended configuration of a proxy; by default none.

    Attributes:
        idle_seconds: The idle timeouts.
        lifetime_seconds: The timeout of a whole call (Envoy), or of calls after a reload (nginx, HAProxy).
        retries: The proxy retries calls whenever it can.
        health_checks: The proxy checks the health of the gateways.
        counts_attempts: The proxy adds the number of the attempt to each call (only Envoy).
        adds_request_id: The proxy adds a second `x-request-id` (only HAProxy).
        max_streams: How many streams a connection may have (only Envoy).

    """

    idle_seconds: int | None = None
    lifetime_seconds: int | None = None
    retries: bool = False
    health_checks: bool = True
    counts_attempts: bool = True
    adds_request_id: bool = False
    max_streams: int | None = None


class Target(Protocol):
    """A gateway, or another proxy."""

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port."""


class Proxy:
    """A proxy process in front of gateways, at a free port of 127.0.0.1."""

    program = ""
    # The name of its configuration in `deploy/proxies`, without the ending.
    name = ""
    ready = re.compile("")
    reload_signal = signal.SIGHUP

    def __init__(self, targets: Sequence[Target], faults: Faults) -> None:
        self._targets = targets
        self._faults = faults
        self._host, self._port = self.address = free_address()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.log: list[str] = []

    @classmethod
    def missing(cls) -> bool:
        """Return whether the program is not on this machine."""
        return cls._path() is None

    @classmethod
    def _path(cls) -> str | None:
        return shutil.which(cls.program, path=environment()["PATH"] + ":/usr/sbin")

    @property
    def target(self) -> str:
        """The address for the clients."""
        return f"{self._host}:{self._port}"

    def configuration(self) -> str:
        """Return the text of the configuration file."""
        raise NotImplementedError

    def command(self, file: Path) -> list[str]:
        """Return the arguments with which the program uses `file`."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="mesh-")
        file = Path(self._folder.name) / "configuration.yaml"
        file.write_text(self.configuration())
        self._process = await asyncio.create_subprocess_exec(
            self._path() or self.program,
            *self.command(file),
            cwd=self._folder.name,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            # A process group, so that the workers of nginx and HAProxy are killed too.
            process_group=0,
        )
        serving = asyncio.Event()
        self._reading = asyncio.create_task(self._read(self._process, serving))
        try:
            async with asyncio.timeout(START_SECONDS):
                await serving.wait()
        except BaseException:
            await self.__aexit__()
            raise
        if self._process.returncode is not None:
            await self.__aexit__()
            raise RuntimeError(f"{self.program} did not start:\n{''.join(self.log)}")
        return self

    async def _read(self, process: asyncio.subprocess.Process, serving: asyncio.Event) -> None:
        assert process.stderr is not None  # noqa: S101 - it is a pipe, as requested above
        while line := await process.stderr.readline():
            self.log.append(line.decode(errors="replace"))
            if self.ready.search(self.log[-1]):
                serving.set()
        await process.wait()
        serving.set()

    def reload(self) -> None:
        """Start new workers; the old ones end their calls within `lifetime_seconds`."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(self.reload_signal)

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None and self._reading is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
            await self._reading
        if self._folder is not None:
            self._folder.cleanup()


class Envoy(Proxy):
    """Envoy."""

    program = name = "envoy"
    # Not "starting main dispatch loop", which comes before the listeners.
    ready = re.compile("starting workers")

    def command(self, file: Path) -> list[str]:
        """See `Proxy`."""
        return ["--config-path", str(file), "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "info"]

    def configuration(self) -> str:
        """See `Proxy`."""
        config = yaml.safe_load((CONFIGURATIONS / f"{self.name}.yaml").read_text())
        (listener,) = config["static_resources"]["listeners"]
        (cluster,) = config["static_resources"]["clusters"]
        listener["address"]["socket_address"] = {"address": self._host, "port_value": self._port}
        cluster["type"] = "STATIC"
        (endpoints,) = cluster["load_assignment"]["endpoints"]
        endpoints["lb_endpoints"] = [_endpoint(*each.address) for each in self._targets]
        if not self._faults.health_checks:
            del cluster["health_checks"]
        for check in cluster.get("health_checks", ()):
            check["interval"] = check["no_traffic_interval"] = "0.5s"
        manager = listener
        for step in _CONNECTION_MANAGER:
            manager = manager[step]
        for each in manager["http_filters"]:
            if "descriptor_set" in each["typed_config"]:
                each["typed_config"]["descriptor_set"] = {"filename": str(DESCRIPTOR_SET)}
        self._break(manager)
        return yaml.safe_dump(config)

    def _break(self, manager: dict[str, Any]) -> None:
        (host,) = manager["route_config"]["virtual_hosts"]
        (route,) = (each["route"] for each in host["routes"])
        if not self._faults.counts_attempts:
            del host["include_request_attempt_count"]
        if self._faults.max_streams:
            manager["http2_protocol_options"]["max_concurrent_streams"] = self._faults.max_streams
        if self._faults.idle_seconds:
            manager["stream_idle_timeout"] = f"{self._faults.idle_seconds}s"
        if self._faults.lifetime_seconds:
            route["timeout"] = f"{self._faults.lifetime_seconds}s"
        if self._faults.retries:
            conditions = "unavailable,internal,cancelled,5xx,reset,connect-failure,refused-stream"
            route["retry_policy"] = {"retry_on": conditions, "num_retries": 3}


class EnvoyHashHeader(Envoy):
    """Envoy that routes by the header `x-job-uid`."""

    name = "envoy-hash-header"


class EnvoyHashMessage(Envoy):
    """Envoy that routes by the fields `uid` and `request_id` of the request."""

    name = "envoy-hash-message"


def _endpoint(host: str, port: int) -> dict[str, Any]:
    return {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}


class Nginx(Proxy):
    """nginx."""

    program = name = "nginx"
    ready = re.compile("start worker process ")

    def command(self, file: Path) -> list[str]:
        """See `Proxy`."""
        directives = "daemon off; pid nginx.pid; error_log stderr notice;"
        return ["-p", f"{file.parent}/", "-e", "stderr", "-c", str(file), "-g", directives]

    def configuration(self) -> str:
        """See `Proxy`."""
        text = (CONFIGURATIONS / "nginx.conf").read_text()
        text = text.replace("worker_processes auto;", "worker_processes 1;")
        text = text.replace("http {", f"http {{ access_log off; {_NGINX_PATHS}", 1)
        text = re.sub(r"listen \d+ http2;", f"listen {self.target} http2;", text)
        servers = "\n".join(
            f"server {host}:{port} max_fails=0;" for host, port in (each.address for each in self._targets)
        )
        text = re.sub(r"(?:\s*server gateway-\d:\d+ max_fails=0;)+", f"\n{servers}", text)
        if self._faults.idle_seconds:
            seconds = self._faults.idle_seconds
            text = re.sub(r"(grpc_(?:read|send)_timeout|send_timeout) \w+;", rf"\1 {seconds}s;", text)
        if self._faults.lifetime_seconds:
            text = re.sub(
                r"worker_shutdown_timeout \w+;", f"worker_shutdown_timeout {self._faults.lifetime_seconds}s;", text
            )
        if self._faults.retries:
            conditions = "error timeout invalid_header http_500 http_502 http_503 http_504 non_idempotent"
            text = re.sub(r"grpc_next_upstream [\w ]+;", f"grpc_next_upstream {conditions};", text)
        return text


class HAProxy(Proxy):
    """HAProxy."""

    program = name = "haproxy"
    ready = re.compile("Loading success")
    reload_signal = signal.SIGUSR2

    def command(self, file: Path) -> list[str]:
        """See `Proxy`."""
        return ["-W", "-db", "-f", str(file)]

    def configuration(self) -> str:
        """See `Proxy`."""
        text = (CONFIGURATIONS / "haproxy.cfg").read_text()
        text = text.replace("bind :50050", f"bind {self.target}").replace("inter 2s", "inter 500ms")
        servers = [
            f"    server gateway-{number} {host}:{port} proto h2"
            + (f" check port {each.admin_port} check-proto h1" if isinstance(each, Gateway) else "")
            for number, each in enumerate(self._targets)
            for host, port in [each.address]
        ]
        text = re.sub(r"(?:    server gateway-.*\n)+", "\n".join(servers) + "\n", text)
        if self._faults.idle_seconds:
            text = re.sub(r"timeout (client|server) \w+", rf"timeout \1 {self._faults.idle_seconds}s", text)
        if self._faults.lifetime_seconds:
            text = re.sub(r"hard-stop-after \w+", f"hard-stop-after {self._faults.lifetime_seconds}s", text)
        if self._faults.adds_request_id:
            added = "unique-id-format %{+X}o%ci-%ts-%rt\n    unique-id-header x-request-id"
            text = text.replace("    default_backend", f"    {added}\n    default_backend", 1)
        if self._faults.retries:
            text = text.replace("retry-on conn-failure", "retry-on all-retryable-errors")
        return text


PROXIES: tuple[type[Proxy], ...] = (Envoy, Nginx, HAProxy)
ROUTERS: tuple[type[Proxy], ...] = (Envoy, EnvoyHashHeader, EnvoyHashMessage)
