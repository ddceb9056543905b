"""`doctor` against real gateways and servers without a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import shlex
import signal
import socket
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
import pytest
import trustme
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.cli.doctor.between import Between
from gateway.cli.doctor.ends import End, Kind
from gateway.cli.doctor.examination import CHECKS
from gateway.cli.doctor.findings import Outcome
from gateway.cli.doctor.service import HEALTH_WATCH
from gateway.cli.doctor.silence import Held, judge
from tests.cli.test_commands import read_terminal, start
from tests.support.certificates import Authority, MountedSecret
from tests.support.doctoring import doctor
from tests.support.gateways import BEARER, TOKEN, next_event, running
from tests.support.raw import free_port, tcp_server
from tests.support.upstream import RUNNING, ScriptedUpstream

if TYPE_CHECKING:
    from pathlib import Path

    from grpc.aio import UnaryStreamCall

    from gateway.server.gateway import Gateway
    from gateway.simulator import Simulator


# A gateway without a fault.


async def test_a_gateway_without_a_fault_passes_each_check(simulator: Simulator) -> None:
    async with running(simulator.url) as gateway:
        found = await doctor(gateway.address, hold=0.1)
    assert (found.code, found.failed) == (0, [])
    assert set(found.found) == set(CHECKS)
    assert found["gateway"] == "ok a Job Gateway responds; no HTTP/2 proxy in between"
    assert found["credential"].startswith("ok accepted;")
    assert found["silence"] == "ok a silent stream was open for 0.1 s, and nothing ended it"
    assert found["job"] == "skip no UID was given"


async def test_doctor_over_mutual_tls_passes(
    simulator: Simulator, mounted: MountedSecret, client: MountedSecret
) -> None:
    files = {"tls_cert_file": mounted.cert, "tls_key_file": mounted.key, "tls_client_ca_file": mounted.ca}
    options = ("--ca-file", mounted.ca, "--cert-file", client.cert, "--key-file", client.key)
    async with running(simulator.url, **files) as gateway:
        found = await doctor(gateway.address, *options, hold=0.1)
    assert (found.code, found.failed) == (0, [])
    assert found["tls"].startswith("ok TLSv1.3, certificate of trustme")


async def test_a_job_is_read_and_shown(upstream: ScriptedUpstream) -> None:
    upstream.script.append(RUNNING)
    async with running(upstream.url) as gateway:
        found = await doctor(gateway.address, 42)
    assert found["job"].startswith("ok job 42 running")


async def test_without_a_token_the_network_is_checked(gateway: Gateway) -> None:
    found = await doctor(gateway.address, token=None, hold=0.1)
    assert found.code == 0
    assert found["credential"].startswith("skip no token was given")
    assert found["silence"].startswith("ok ")


async def test_a_gateway_with_its_own_token_needs_none(simulator: Simulator, tmp_path: Path) -> None:
    own = tmp_path / "token"
    own.write_text(TOKEN)
    async with running(simulator.url, upstream_token_file=own) as gateway:
        found = await doctor(gateway.address, token=None, hold=0.1)
    assert found.code == 0
    assert found["credential"].startswith("ok accepted, without a token: the gateway has its own;")


async def test_the_calls_of_each_method_do_not_reach_the_upstream(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    own = tmp_path / "token"
    own.write_text(TOKEN)
    for settings in ({}, {"upstream_token_file": own}):
        async with running(upstream.url, **settings) as gateway:
            for token in (TOKEN, None):
                found = await doctor(gateway.address, token=token)
                assert found["calls"] == "ok each of the 7 methods arrives at the gateway"
    # The one read of each run that had a credential.
    assert [request.method for request in upstream.requests()] == ["GET"] * 3


async def test_reflection_that_is_off_is_no_fault(simulator: Simulator) -> None:
    async with running(simulator.url, reflection=False) as gateway:
        found = await doctor(gateway.address, hold=0.1)
    assert (found.code, found.failed) == (0, [])
    assert found["reflection"] == "skip off (JOBGATEWAY_REFLECTION), which is no fault"


# Fault 1: the name, or the port.


async def test_a_name_without_an_address_is_found() -> None:
    found = await doctor("gateway.invalid:50051")
    assert (found.code, found.failed) == (3, ["name"])
    assert found.is_documented("name")
    assert found["name"].startswith("fail gateway.invalid does not resolve: ")
    assert found["credential"] == "skip needs name"


async def test_a_port_without_a_server_is_found() -> None:
    port = free_port()
    found = await doctor(f"127.0.0.1:{port}")
    assert (found.code, found.failed) == (3, ["tcp"])
    assert found.is_documented("tcp")
    assert found["tcp"] == f"fail port {port} cannot be reached: 127.0.0.1: Connection refused"
    assert found.paste("tcp") == ["ss -ltn"]


@pytest.mark.parametrize("target", ["gateway.example", "unix:/tmp/socket", "gateway.example:port", ":50051"])
def test_a_target_without_a_port_is_a_usage_error(target: str) -> None:
    result = CliRunner().invoke(app, ["doctor", "--target", target])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"--target {target!r} ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("scheme", ["http", "https", "grpc"])
def test_a_target_with_a_scheme_is_a_usage_error(scheme: str) -> None:
    result = CliRunner().invoke(app, ["doctor", "--target", f"{scheme}://gateway.example:50051/"])
    assert result.exit_code == 2
    assert result.stderr.startswith(
        f"--target '{scheme}://gateway.example:50051/' is a URL; write gateway.example:50051"
    )


# Fault 2: TLS.


async def test_tls_that_is_left_out_is_found(upstream: ScriptedUpstream, mounted: MountedSecret) -> None:
    async with running(upstream.url, tls_cert_file=mounted.cert, tls_key_file=mounted.key) as secured:
        found = await doctor(secured.address)
        assert (found.code, found.failed) == (3, ["tls"])
        assert found.is_documented("tls")
        assert found["tls"] == "fail the server speaks TLS, and this command does not"
        (command,) = found.paste("tls")
        assert shlex.split(command) == ["jobgateway", "doctor", "--target", secured.address, "--tls"]


async def test_tls_to_a_plain_gateway_is_found(gateway: Gateway, mounted: MountedSecret) -> None:
    found = await doctor(gateway.address, "--tls", "--ca-file", mounted.ca)
    assert (found.code, found.failed) == (3, ["tls"])
    assert found.is_documented("tls")
    assert found["tls"] == "fail the server speaks plain text, and this command uses TLS"
    (command,) = found.paste("tls")
    # The command works as it is.
    assert shlex.split(command) == ["jobgateway", "doctor", "--target", gateway.address]


async def test_an_unknown_authority_is_found(
    upstream: ScriptedUpstream, mounted: MountedSecret, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(Authority().pem)
    async with running(upstream.url, tls_cert_file=mounted.cert, tls_key_file=mounted.key) as gateway:
        for options in (["--tls"], ["--ca-file", other]):
            found = await doctor(gateway.address, *options)
            assert (found.code, found.failed) == (3, ["tls"])
            assert found.is_documented("tls")
            assert "an authority that this command does not trust" in found["tls"]
            assert "from trustme" in found["tls"]
            # Not a second one.
            assert found.paste("tls")[0].count("--ca-file") == 1
            assert found.paste("tls")[0].endswith("--ca-file ca.crt")


async def test_a_certificate_for_another_name_is_found(
    upstream: ScriptedUpstream, tmp_path: Path, authority: Authority
) -> None:
    files = MountedSecret(tmp_path)
    files.put(authority.server("gateway.example"), authority.pem)
    async with running(upstream.url, tls_cert_file=files.cert, tls_key_file=files.key) as gateway:
        found = await doctor(gateway.address, "--ca-file", files.ca)
    assert found.failed == ["tls"]
    assert found.is_documented("tls")
    assert found["tls"] == "fail the certificate is not for 127.0.0.1; it is for gateway.example"
    port = gateway.address.rpartition(":")[2]
    assert f"--target gateway.example:{port}" in found.paste("tls")[0]


@pytest.mark.parametrize(("days", "text"), [(-1, "fail the certificate has expired on "), (3, "warn TLSv1.3, ")])
async def test_a_certificate_that_has_expired_or_will_is_found(
    upstream: ScriptedUpstream, tmp_path: Path, authority: Authority, days: int, text: str
) -> None:
    files = MountedSecret(tmp_path)
    now = datetime.now(UTC)
    expiry = {"not_before": now - timedelta(days=9), "not_after": now + timedelta(days=days, hours=1)}
    files.put(authority.server(**expiry), authority.pem)
    async with running(upstream.url, tls_cert_file=files.cert, tls_key_file=files.key) as gateway:
        found = await doctor(gateway.address, "--ca-file", files.ca)
    assert "tls" in found.failed
    assert found["tls"].startswith(text)
    assert "valid for 3 days" in found["tls"] or days < 0


# Fault 3: the client's certificate.


async def test_a_client_certificate_that_is_missing_is_found(
    upstream: ScriptedUpstream, mounted: MountedSecret
) -> None:
    files = {"tls_cert_file": mounted.cert, "tls_key_file": mounted.key, "tls_client_ca_file": mounted.ca}
    async with running(upstream.url, **files) as gateway:
        found = await doctor(gateway.address, "--ca-file", mounted.ca)
    assert (found.code, found.failed) == (3, ["tls"])
    assert found.is_documented("tls")
    assert "without a client certificate: it probably requires one (mTLS)" in found["tls"]
    assert "--cert-file client.crt --key-file client.key" in found.paste("tls")[0]


async def test_a_client_certificate_that_is_rejected_is_found(
    upstream: ScriptedUpstream, mounted: MountedSecret, client: MountedSecret
) -> None:
    client.put(Authority().client("stranger"))
    files = {"tls_cert_file": mounted.cert, "tls_key_file": mounted.key, "tls_client_ca_file": mounted.ca}
    options = ("--ca-file", mounted.ca, "--cert-file", client.cert, "--key-file", client.key)
    async with running(upstream.url, **files) as gateway:
        found = await doctor(gateway.address, *options)
    assert found.failed == ["tls"]
    assert f"it probably rejects {client.cert}" in found["tls"]


async def test_the_alert_of_a_server_is_shown(tmp_path: Path) -> None:
    """nginx and Envoy say why they reject a certificate; the gateway closes the connection."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2"])
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with contextlib.ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            # The check of TCP connects first.
            listener.accept()[0].close()
            secured = context.wrap_socket(listener.accept()[0], server_side=True, do_handshake_on_connect=False)
            # Open until the alert was read.
            stack.enter_context(secured)
            with contextlib.suppress(ssl.SSLError):
                secured.do_handshake()

        serving = asyncio.create_task(asyncio.to_thread(serve))
        found = await doctor(f"127.0.0.1:{listener.getsockname()[1]}", "--ca-file", tmp_path / "ca.pem")
        await serving
    assert "sent the alert 'certificate required'" in found["tls"]


async def test_an_old_version_of_tls_is_no_missing_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    async def send_alert(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"\x15\x03\x01\0\x02\x02\x46")
        await reader.read()

    async with tcp_server(send_alert) as port:
        found = await doctor(f"127.0.0.1:{port}", "--ca-file", tmp_path / "ca.pem")
    assert found.failed == ["tls"]
    assert found["tls"] == "fail the handshake fails: the server sent the alert 'protocol version'"


# Fault 4: the credential.


async def test_a_rejected_token_is_found(simulator: Simulator) -> None:
    async with running(simulator.url) as gateway:
        found = await doctor(gateway.address, token="expired-token", hold=0.1)
    assert (found.code, found.failed) == (3, ["credential"])
    assert found.is_documented("credential")
    assert found["upstream"] == "ok the gateway reaches it"
    assert found["credential"].startswith("fail the upstream rejected the token: ")


# Fault 8: no gateway that serves.


async def test_an_http1_server_is_found(upstream: ScriptedUpstream) -> None:
    found = await doctor(upstream.url.removeprefix("http://").partition("/")[0])
    assert (found.code, found.failed) == (3, ["http2"])
    assert "responds with HTTP/1." in found["http2"]
    assert "the admin address of the gateway" in found["http2"]


async def test_another_grpc_server_is_found() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    found = await doctor(f"127.0.0.1:{port}")
    await server.stop(0)
    assert (found.code, found.failed) == (3, ["gateway"])
    assert "it does not have the service jobgateway.v1.JobService" in found["gateway"]


async def test_a_server_that_says_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli.doctor.probe.PROBE_SECONDS", 0.2)
    async with tcp_server(_say_nothing) as port:
        found = await doctor(f"127.0.0.1:{port}")
    assert found.failed == ["http2"]
    assert "says nothing" in found["http2"]
    assert "its process hangs, or does not speak HTTP/2" in found["http2"]


async def test_a_frozen_server_with_tls_is_found(monkeypatch: pytest.MonkeyPatch, mounted: MountedSecret) -> None:
    monkeypatch.setattr("gateway.cli.doctor.probe.PROBE_SECONDS", 0.2)
    monkeypatch.setattr("gateway.cli.doctor.tls.PROBE_SECONDS", 0.2)
    async with tcp_server(_say_nothing) as port:
        found = await doctor(f"127.0.0.1:{port}", "--ca-file", mounted.ca)
    assert found["tls"] == "fail the handshake fails: the server did not respond within 0.2 s"
    assert "its process may hang" in found.found["tls"]["fix"]


async def test_all_checks_together_have_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli.doctor.command.LIMIT_SECONDS", 0.2)
    async with tcp_server(_say_nothing) as port:
        found = await doctor(f"127.0.0.1:{port}")
    assert found.code == 3
    [slow] = found.failed
    assert found[slow] == "fail the checks took longer than 0.2 s"
    assert set(found.found) == set(CHECKS)


async def _say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(1000):
        pass


async def test_a_gateway_that_shuts_down_is_found(upstream: ScriptedUpstream) -> None:
    upstream.script.append(RUNNING)
    async with running(upstream.url) as gateway, grpc.aio.insecure_channel(gateway.address) as channel:
        watch = rpc.JobServiceStub(channel).WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)
        await next_event(watch)
        health: UnaryStreamCall[bytes, bytes] = channel.unary_stream(HEALTH_WATCH)(b"")  # type: ignore[arg-type]
        await health.read()
        stopping = asyncio.create_task(gateway.stop(grace=600))
        # Not serving.
        await health.read()
        found = await doctor(gateway.address)
        health.cancel()
        watch.cancel()
        await stopping
    assert (found.code, found.failed) == (3, ["gateway"])
    assert found["gateway"].startswith("fail the gateway is shutting down and accepts no calls")


async def test_an_upstream_that_is_down_is_found() -> None:
    async with running(f"http://127.0.0.1:{free_port()}") as gateway:
        found = await doctor(gateway.address)
    assert (found.code, found.failed) == (3, ["upstream"])
    assert found["upstream"].startswith("fail the gateway cannot use it: ")
    assert "UPSTREAM_UNREACHABLE" in found["upstream"]
    assert found["credential"] == "skip the upstream did not look at it"


# Variables.


def test_unreadable_authorities_of_grpc_are_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "/nowhere")
    result = CliRunner().invoke(app, ["doctor", "--target", "gateway.invalid:1", "--tls"])
    assert result.exit_code == 2
    assert result.stderr == ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH: /nowhere cannot be used: No such file or directory\n")


async def test_an_http_proxy_in_the_environment_is_found(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.invalid:3128")
    found = await doctor("gateway.invalid:1")
    assert "proxy" not in found.found
    found = await doctor(f"127.0.0.1:{free_port()}")
    assert found["proxy"].startswith("warn the variable https_proxy sends gRPC clients")
    monkeypatch.setenv("no_proxy", "example.com,127.0.0.1")
    assert "proxy" not in (await doctor(f"127.0.0.1:{free_port()}")).found


# The judgement of the streams that were held open.

RESET = End(Kind.RESET, code=2, seconds=15.0)
LATE = End(Kind.RESET, code=2, seconds=61.0)
CLOSED = End(Kind.CLOSED, seconds=30.0)
BLOCKED = End(Kind.STATUS, {":status": "403"})
REFUSED = End(Kind.STATUS, {":status": "200", "grpc-status": "8", "grpc-message": "limit"})
ALL = {"silent", "open", "busy"}


@pytest.mark.parametrize(
    ("ends", "opened", "outcome", "text", "setting"),
    [
        ({}, ALL, Outcome.OK, "a silent stream was open for 70 s", ""),
        ({"silent": RESET}, ALL, Outcome.FAIL, "Envoy ends calls after 15.0 s", "timeout: 0s"),
        (
            {"silent": RESET, "open": RESET},
            ALL,
            Outcome.FAIL,
            "Envoy ends streams that are silent for",
            "stream_idle_timeout",
        ),
        ({"silent": LATE, "open": LATE}, ALL, Outcome.WARN, "SendJob and WaitJob may not", "stream_idle_timeout"),
        (
            dict.fromkeys(ALL, RESET),
            ALL,
            Outcome.FAIL,
            "Envoy ends every stream after 15.0 s",
            "remove max_stream_duration",
        ),
        (
            dict.fromkeys(ALL, CLOSED),
            ALL,
            Outcome.FAIL,
            "the TCP path to it, closed the connections after 30.0 s",
            "max_connection_duration",
        ),
        ({"silent": RESET}, {"silent"}, Outcome.FAIL, "a limit of silence, or of whole calls", "stream_idle_timeout"),
        (
            {"silent": RESET, "open": RESET},
            {"silent", "busy"},
            Outcome.FAIL,
            "that are silent for",
            "stream_idle_timeout",
        ),
        ({"open": RESET, "busy": RESET}, ALL, Outcome.FAIL, "a limit of the request", "request_timeout"),
        ({"busy": BLOCKED}, {"silent", "open"}, Outcome.FAIL, "responds HTTP 403: it blocks the call", ""),
        ({"busy": REFUSED}, {"silent", "open"}, Outcome.FAIL, "although others do: grpc-status 8 limit", ""),
        ({"busy": RESET}, ALL, Outcome.WARN, "the busy stream ended", ""),
        ({"silent": CLOSED}, {"busy"}, Outcome.FAIL, "does not work: connection closed", ""),
    ],
)
def test_the_ends_of_the_streams_name_the_limit(
    ends: dict[str, End], opened: set[str], outcome: Outcome, text: str, setting: str
) -> None:
    finding = judge(Held(Between("Envoy"), 70, held=70, ends=ends, opened=opened))
    assert finding.outcome is outcome
    assert text in finding.text
    assert setting in " ".join(finding.paste)


def test_closed_connections_are_not_the_gateways_limit() -> None:
    finding = judge(Held(Between(), 70, ends=dict.fromkeys(ALL, CLOSED), opened=ALL))
    assert finding.text.startswith("something on the TCP path (load balancer, NAT, firewall) closed the connections")
    assert finding.paste == ()


def test_an_unknown_proxy_gets_the_settings_of_all() -> None:
    finding = judge(Held(Between("an unknown proxy"), 70, ends={"silent": RESET, "open": RESET}, opened=ALL))
    assert [line.rpartition(" ")[2] for line in finding.paste] == [
        "(Envoy)",
        "(nginx)",
        "nginx",
        "(HAProxy)",
        "HAProxy",
    ]


@pytest.mark.slow
async def test_a_gateway_that_stops_meanwhile_is_no_limit(simulator: Simulator) -> None:
    async with running(simulator.url) as gateway:
        with start("doctor", "--target", gateway.address, "--hold", "3600") as process:
            assert process.stderr is not None
            await asyncio.to_thread(process.stderr.readline)
            await gateway.stop(grace=0)
            out, _ = await asyncio.to_thread(process.communicate)
    assert "warn silence    the gateway began to shut down meanwhile\n" in out


# The command.


@pytest.mark.slow
def test_the_output_fits_a_narrow_terminal_and_a_pipe() -> None:
    port = free_port()
    target = f"127.0.0.1:{port}"
    with start("doctor", "--target", target) as process:
        out, err = process.communicate()
    assert process.returncode == 3, err
    assert out.splitlines() == [
        "ok   name       127.0.0.1 is an address",
        f"fail tcp        port {port} cannot be reached: 127.0.0.1: Connection refused",
        f"{'':16}fix: start the gateway, or correct the port in --target; this shows the ports on the gateway's "
        "machine:",
        "                  ss -ltn",
        f"skip {'':11}tls, http2, gateway, buffering, upstream, credential, job, calls, reflection, streams, sizes, "
        "silence: needs tcp",
        "14 checks: 1 ok, 1 fail, 12 skip",
    ]
    master, slave = pty.openpty()
    with start("doctor", "--target", target, stdout=slave, variables={"COLUMNS": "80", "TERM": "xterm"}) as process:
        os.close(slave)
        shown = read_terminal(master)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in shown.splitlines()]
    assert all(len(line) <= 80 for line in lines), lines
    # Continued below its beginning.
    assert re.search(r"\n {16}fix: start .*\n {16}\S.*machine:\n", "\n".join(lines)), lines


@pytest.mark.slow
async def test_an_interrupt_ends_the_hold_with_what_is_known(simulator: Simulator) -> None:
    variables = {"JOBGATEWAY_TOKEN": TOKEN}
    async with running(simulator.url) as gateway:
        with start("doctor", "--target", gateway.address, "--hold", "3600", variables=variables) as process:
            assert process.stderr is not None
            said = await asyncio.to_thread(process.stderr.readline)
            assert said == "holding silent streams for 3600 s; Ctrl-C ends it early\n"
            process.send_signal(signal.SIGINT)
            out, err = await asyncio.to_thread(process.communicate)
    assert (process.returncode, err) == (-signal.SIGINT, "")
    silence, summary = out.splitlines()[-2:]
    assert re.fullmatch(r"skip silence    interrupted after \d+ s; nothing had ended a silent stream by then", silence)
    assert summary == "14 checks: 11 ok, 3 skip"


async def test_a_wildcard_is_no_name_to_connect_to(
    upstream: ScriptedUpstream, tmp_path: Path, authority: Authority
) -> None:
    files = MountedSecret(tmp_path)
    files.put(authority.server("*.jobs.example"), authority.pem)
    async with running(upstream.url, tls_cert_file=files.cert, tls_key_file=files.key) as gateway:
        found = await doctor(gateway.address, "--ca-file", files.ca)
    assert found["tls"] == "fail the certificate is not for 127.0.0.1; it is for *.jobs.example"
    assert found.paste("tls")[0].startswith("openssl s_client ")


def test_the_words_of_a_peer_are_one_bounded_line() -> None:
    end = End(Kind.GOAWAY, code=2, debug="\x1b[31m\n" + "x" * 16_000)
    assert end.described().startswith("GOAWAY INTERNAL_ERROR \ufffd[31m xxx")
    assert len(end.described()) == 120
