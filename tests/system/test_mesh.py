"""The recommended settings of proxies compared with the gateway's limits, and the judge of `make mesh`."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
import yaml
from jobgateway.v1 import job_service_pb2 as pb

from clients.mesh.cases import CASES, LONGEST_SILENCE, Case, Mesh, kill_in_post, kill_in_watch, problems
from clients.mesh.gateways import Gateway
from clients.mesh.programs import CLI, Run
from clients.mesh.proxies import (
    CONFIGURATIONS,
    PROXIES,
    Envoy,
    EnvoyHashHeader,
    EnvoyHashMessage,
    Faults,
    HAProxy,
    Nginx,
    Proxy,
)
from clients.mesh.signal import Signal
from clients.runner.stack import TOKEN
from gateway.config import Settings
from gateway.rpc.codec.requests import DEFAULT_HEARTBEAT_SECONDS
from gateway.server import defaults

SUBMIT_SECONDS = Settings.model_fields["submit_timeout_seconds"].default
WATCH = Case("watch", "", kill_in_watch)
POST = Case("post", "", kill_in_post, watch=False)


def envoy(name: str = "envoy") -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((CONFIGURATIONS / f"{name}.yaml").read_text())["static_resources"]
    return config


def connection_manager(config: dict[str, Any]) -> dict[str, Any]:
    manager: dict[str, Any] = config["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text[:-1])


def setting(file: str, name: str) -> str:
    (value,) = re.findall(rf"^\s*{name} ([^;\n]+);?$", (CONFIGURATIONS / file).read_text(), re.MULTILINE)
    return str(value)


def idle_timeouts() -> dict[str, float]:
    nginx = ("grpc_read_timeout", "grpc_send_timeout", "send_timeout")
    return {
        "envoy": seconds(connection_manager(envoy())["stream_idle_timeout"]),
        **{f"nginx {name}": seconds(setting("nginx.conf", name)) for name in nginx},
        **{f"haproxy {name}": seconds(setting("haproxy.cfg", name)) for name in ("timeout client", "timeout server")},
    }


@pytest.mark.parametrize("name", idle_timeouts())
def test_idle_timeouts_exceed_the_longest_silence(name: str) -> None:
    assert idle_timeouts()[name] > SUBMIT_SECONDS
    assert idle_timeouts()[name] > 3 * DEFAULT_HEARTBEAT_SECONDS


def test_envoy_has_no_call_timeout_and_no_retries() -> None:
    (host,) = connection_manager(envoy())["route_config"]["virtual_hosts"]
    (route,) = (each["route"] for each in host["routes"])
    assert seconds(route["timeout"]) == 0
    assert "retry_policy" not in host | route
    assert host["include_request_attempt_count"] is True


def test_envoy_pings_no_more_often_than_the_gateway_permits() -> None:
    options = next(iter(envoy()["clusters"][0]["typed_extension_protocol_options"].values()))
    keepalive = options["explicit_http_config"]["http2_protocol_options"]["connection_keepalive"]
    assert seconds(keepalive["interval"]) * 1000 > defaults.CLIENT_PING_MS


def test_nginx_and_haproxy_send_nothing_twice() -> None:
    assert setting("nginx.conf", "grpc_next_upstream") == "error timeout"
    assert setting("haproxy.cfg", "retry-on") == "conn-failure"


def test_nginx_accepts_the_largest_request_and_trailers() -> None:
    assert setting("nginx.conf", "client_max_body_size") == f"{defaults.MAX_REQUEST_BYTES >> 20}m"
    assert setting("nginx.conf", "grpc_buffer_size") == f"{2 * defaults.MAX_METADATA_BYTES >> 10}k"


def test_all_proxies_allow_equally_many_calls_per_connection() -> None:
    limits = [
        connection_manager(envoy())["http2_protocol_options"]["max_concurrent_streams"],
        int(setting("nginx.conf", "http2_max_concurrent_streams")),
        int(setting("haproxy.cfg", "tune.h2.max-concurrent-streams")),
    ]
    assert limits == [1024] * 3


@pytest.mark.parametrize("proxy", PROXIES, ids=lambda each: each.program)
def test_each_fault_changes_the_configuration(proxy: type[Proxy]) -> None:
    gateways = [Gateway("http://127.0.0.1:9"), Gateway("http://127.0.0.1:9")]

    def lines(faults: Faults) -> set[str]:
        made = proxy(gateways, faults)
        text = made.configuration()
        assert str(gateways[0].address[1]) in text
        assert str(gateways[1].address[1]) in text
        assert "50051" not in text
        return {line.strip() for line in text.splitlines() if str(made.address[1]) not in line}

    as_usual = lines(Faults())
    assert len(lines(Faults(idle_seconds=7)) - as_usual) >= 1
    assert len(lines(Faults(lifetime_seconds=7)) - as_usual) == 1
    assert len(lines(Faults(retries=True)) - as_usual) >= 1


def test_each_proxy_meets_each_kind_of_fault() -> None:
    names = {proxy: {case.name for case in CASES if proxy in case.proxies} for proxy in (Envoy, Nginx, HAProxy)}
    every = {"kill", "drain", "idle_timeout", "kill_in_post", "kill_in_post_retries", "timeout_in_post_retries"}
    assert all(every <= each for each in names.values())
    assert {"route_timeout", "two_hops", "two_hops_uncounted", "kill_two_hops"} <= names[Envoy]
    assert all("reload" in names[proxy] for proxy in (Nginx, HAProxy))


# The judge


class FakeMesh(Mesh):
    """A mesh with a fixed number of submissions."""

    def __init__(self, number: int) -> None:
        super().__init__(WATCH, HAProxy)
        self._number = number

    def posts(self, name: str) -> int:
        return self._number


def run(*lines: dict[str, Any], at: tuple[float, ...] = (), exit_code: int = 0, name: str = "go") -> Run:
    times = at or tuple(range(len(lines)))
    return Run(name, list(zip(times, lines, strict=True)), exit_code)


SENT = {"do": "send", "job": {"uid": "7"}}
RUNS = {"do": "watch", "job": {"uid": "7", "status": "JOB_STATUS_RUNNING"}}
ENDED = {"do": "watch", "job": {"uid": "7", "status": "JOB_STATUS_SUCCESS", "done": True}}
REFUSED = {"do": "send", "error": {"code": "INTERNAL"}}


def test_a_watch_with_its_end_and_one_post_has_no_problem() -> None:
    assert problems(WATCH, FakeMesh(1), run(SENT, RUNS, ENDED)) == []


@pytest.mark.parametrize(
    ("number", "seen", "problem"),
    [
        pytest.param(2, run(SENT, RUNS, ENDED), "2 POSTs", id="a second job"),
        pytest.param(0, run(SENT, RUNS, ENDED), "0 POSTs", id="no job"),
        pytest.param(1, run(SENT, RUNS), "no end", id="the end is lost"),
        pytest.param(1, run(SENT, RUNS, ENDED, exit_code=1), "exit code 1", id="it failed"),
        pytest.param(1, run(SENT, RUNS, ENDED, at=(0, 0, LONGEST_SILENCE + 2)), "silent for 17 s", id="silence"),
    ],
)
def test_the_judge_detects_problems_of_a_watch(number: int, seen: Run, problem: str) -> None:
    assert problems(WATCH, FakeMesh(number), seen) == [problem]


def test_a_printed_token_is_detected() -> None:
    seen = run(SENT, RUNS, ENDED)
    seen.text = f"Bearer {TOKEN}"
    assert problems(WATCH, FakeMesh(1), seen) == ["the client printed the token"]


def test_a_submission_may_fail_but_not_twice() -> None:
    assert problems(POST, FakeMesh(1), run(REFUSED)) == []
    assert problems(POST, FakeMesh(0), run(REFUSED)) == []
    assert problems(POST, FakeMesh(0), run(SENT)) == ["0 POSTs"]
    assert problems(POST, FakeMesh(1), run(REFUSED, exit_code=3, name=CLI)) == []
    assert problems(POST, FakeMesh(2), run(REFUSED)) == ["2 POSTs"]
    assert problems(POST, FakeMesh(1), run()) == ["the submission neither succeeded nor failed"]


async def test_a_signal_wakes_those_whose_condition_holds() -> None:
    signal, seen = Signal(), list[int]()
    waiting = asyncio.create_task(signal.until(lambda: len(seen) == 2, "two are seen", 30.0))
    for number in range(2):
        await asyncio.sleep(0)
        assert not waiting.done()
        seen.append(number)
        signal.changed()
    await waiting


async def test_a_condition_that_never_holds_is_named() -> None:
    with pytest.raises(TimeoutError, match="the end: not within 0 seconds"):
        await Signal().until(lambda: False, "the end", 0.0)


@pytest.mark.parametrize("kind", [EnvoyHashHeader, EnvoyHashMessage])
def test_the_routing_files_change_only_the_routing(kind: type[Envoy]) -> None:
    usual = envoy()
    routing = envoy(kind.name)
    manager = connection_manager(routing)
    ((route,),) = ([each["route"] for each in host["routes"]] for host in manager["route_config"]["virtual_hosts"])
    (hash_policy,) = route.pop("hash_policy")
    header = hash_policy.get("header", {}).get("header_name")
    assert (header == "x-job-uid") == (kind is EnvoyHashHeader)
    assert "x-job-uid" not in yaml.safe_dump(routing)
    assert routing["clusters"][0].pop("lb_policy") == "RING_HASH"
    usual["clusters"][0].pop("lb_policy")
    if kind is EnvoyHashMessage:
        assert manager["http2_protocol_options"].pop("initial_stream_window_size") == defaults.MAX_REQUEST_BYTES
        manager["http_filters"] = manager["http_filters"][-1:]
    assert routing == usual


def test_envoy_extracts_a_field_of_each_method() -> None:
    manager = connection_manager(envoy(EnvoyHashMessage.name))
    extraction = manager["http_filters"][0]["typed_config"]["extractions_by_method"]
    service = pb.DESCRIPTOR.services_by_name["JobService"]
    # A stream of many jobs has no uid of its own.
    unary = (each for each in service.methods if not each.client_streaming)
    assert set(extraction) == {f"{service.full_name}.{each.name}" for each in unary}
    written = manager["http_filters"][1]["typed_config"]["on_request_headers"][0]["format_string"]
    for method, fields in extraction.items():
        (path,) = fields["request_field_extractions"]
        first, *rest = path.split(".")
        field = service.methods_by_name[method.rpartition(".")[2]].input_type.fields_by_name[first]
        for name in rest:
            assert field.message_type is not None
            field = field.message_type.fields_by_name[name]
        assert field.name in ("uid", "request_id")
        assert f"['{path}'][0]" in written["text_format_source"]["inline_string"]
