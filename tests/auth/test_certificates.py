"""TLS of the gRPC port over real sockets: rotation, rejections, and the identity of the client."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc

from gateway.auth import reloading as gateway_files
from gateway.errors import ConfigError
from gateway.server.gateway import JOB_SERVICE
from gateway.text import CUT_MARK
from tests.support.certificates import Authority, Certificate, MountedSecret, with_other_key, with_password
from tests.support.gateways import BEARER, GET_JOB, running, tls_channel
from tests.support.stuck_file import StuckFile
from tests.support.upstream import DONE, RUNNING, ScriptedUpstream

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from gateway.server.gateway import Gateway

    Logged = list[dict[str, Any]]

CERT, KEY, CA = (f"JOBGATEWAY_TLS_{name}_FILE" for name in ("CERT", "KEY", "CLIENT_CA"))
LAST_WEEK = datetime.now(UTC) - timedelta(days=7)


@pytest.fixture(scope="module")
def foreign() -> Authority:
    """An authority that the gateway does not know."""
    return Authority()


def tls(upstream: ScriptedUpstream, files: MountedSecret) -> AbstractAsyncContextManager[Gateway]:
    return running(upstream.url, tls_cert_file=files.cert, tls_key_file=files.key)


def mtls(upstream: ScriptedUpstream, files: MountedSecret) -> AbstractAsyncContextManager[Gateway]:
    return running(upstream.url, tls_cert_file=files.cert, tls_key_file=files.key, tls_client_ca_file=files.ca)


async def shown_by(gateway: Gateway) -> bytes:
    """Return the certificate that a new handshake gets, in DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, _, port = gateway.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return shown


def leaf(certificate: Certificate) -> bytes:
    pem = certificate.chain.decode()
    return ssl.PEM_cert_to_DER_cert(pem[: pem.index("-----END CERTIFICATE-----") + len("-----END CERTIFICATE-----\n")])


def lines(logged: Logged, event: str) -> Logged:
    return [line for line in logged if line["event"].startswith(event)]


async def test_a_call_over_tls_and_no_call_without_it(
    upstream: ScriptedUpstream, mounted: MountedSecret, authority: Authority, logged: Logged
) -> None:
    upstream.script.append(RUNNING)
    async with tls(upstream, mounted) as gateway:
        async with tls_channel(gateway, authority.pem) as channel:
            assert (await rpc.JobServiceStub(channel).GetJob(GET_JOB, metadata=BEARER)).uid == 42
        async with grpc.aio.insecure_channel(gateway.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await rpc.JobServiceStub(channel).GetJob(GET_JOB, metadata=BEARER)
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    (line,) = lines(logged, "call")
    assert "peer" not in line


# Rotation


async def test_a_watch_continues_when_the_certificates_change(
    upstream: ScriptedUpstream, mounted: MountedSecret, authority: Authority, logged: Logged
) -> None:
    upstream.script.append(RUNNING)
    async with tls(upstream, mounted) as gateway, tls_channel(gateway, authority.pem) as channel:
        watch = rpc.JobServiceStub(channel).WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)
        assert isinstance(await watch.read(), pb.JobEvent)
        for _ in range(3):
            second = authority.server()
            mounted.put(second)
            assert await shown_by(gateway) == leaf(second)
            assert await shown_by(gateway) == leaf(second)
        upstream.script.append(DONE)
        last = await watch.read()
        assert isinstance(last, pb.JobEvent)
        assert last.job.done
        assert await watch.read() is grpc.aio.EOF
    assert len(lines(logged, "files.reloaded")) == 3
    ends = [datetime.fromisoformat(line["expires"]) for line in lines(logged, "certificate.loaded")]
    assert [end.tzinfo for end in ends] == [UTC] * 4
    assert x509.load_pem_x509_certificate(second.chain).not_valid_after_utc == ends[-1]


def half_written(good: Certificate) -> Certificate:
    return Certificate(good.chain[: len(good.chain) // 3], good.key)


def half_a_key(good: Certificate) -> Certificate:
    return Certificate(good.chain, good.key[: len(good.key) // 2])


def emptied(good: Certificate) -> Certificate:
    return Certificate(b"", good.key)


BROKEN: dict[Callable[[Certificate], Certificate], str] = {
    half_written: f"{CERT}: .* has no usable certificate; name a PEM file",
    emptied: f"{CERT}: .* has no usable certificate; name a PEM file",
    half_a_key: f"{KEY}: .* is not a usable private key .*; name a PEM file without a password",
    with_password: f"{KEY}: .* is not a usable private key .*; name a PEM file without a password",
    with_other_key: f"{KEY}: .* does not belong to the certificate in {CERT}; replace both files together",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda each: each.__name__)
async def test_a_broken_pair_keeps_the_last_good_one_and_says_so_once(
    upstream: ScriptedUpstream,
    mounted: MountedSecret,
    authority: Authority,
    logged: Logged,
    broken: Callable[[Certificate], Certificate],
) -> None:
    first, second = authority.server(), authority.server()
    mounted.put(first)
    async with tls(upstream, mounted) as gateway:
        mounted.put(broken(second))
        for _ in range(3):
            assert await shown_by(gateway) == leaf(first)
        (line,) = lines(logged, "files.invalid")
        assert line["log_level"] == "warning"
        assert re.search(BROKEN[broken], line["why"])
        mounted.put(second)
        assert await shown_by(gateway) == leaf(second)
    assert len(lines(logged, "files.reloaded")) == 1


async def test_a_pair_that_has_gone_keeps_the_last_good_one(
    upstream: ScriptedUpstream, mounted: MountedSecret, authority: Authority, logged: Logged
) -> None:
    first = authority.server()
    mounted.put(first)
    async with tls(upstream, mounted) as gateway:
        mounted.key.unlink()
        for _ in range(3):
            assert await shown_by(gateway) == leaf(first)
    (line,) = lines(logged, "files.invalid")
    assert (
        line["why"]
        == f"{KEY}: {mounted.key} cannot be read (No such file or directory); check the path and its permissions"
    )


async def test_a_certificate_that_hangs_holds_up_no_connection(
    upstream: ScriptedUpstream,
    mounted: MountedSecret,
    authority: Authority,
    logged: Logged,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = authority.server(), authority.server()
    mounted.put(first)
    async with tls(upstream, mounted) as gateway:
        monkeypatch.setattr(gateway_files, "READ_SECONDS", 0.5)
        stuck = StuckFile(mounted.key, monkeypatch)
        shown = await asyncio.gather(*(shown_by(gateway) for _ in range(3)))
        monkeypatch.setattr(gateway_files, "READ_SECONDS", 3600.0)
        # While the volume hangs, only the first ones wait.
        shown += await asyncio.gather(*(shown_by(gateway) for _ in range(3)))
        assert shown == [leaf(first)] * 6
        mounted.put(second)
        stuck.back.set()
        async with asyncio.timeout(20):
            while await shown_by(gateway) != leaf(second):
                pass
    (line,) = lines(logged, "files.invalid")
    assert line["why"] == f"{KEY}: {mounted.key} cannot be read within 0.5 s; check that the volume responds"


@pytest.mark.parametrize("broken", BROKEN, ids=lambda each: each.__name__)
async def test_a_broken_pair_stops_the_start(
    upstream: ScriptedUpstream,
    mounted: MountedSecret,
    authority: Authority,
    broken: Callable[[Certificate], Certificate],
) -> None:
    mounted.put(broken(authority.server()))
    with pytest.raises(ConfigError, match=BROKEN[broken]):
        async with tls(upstream, mounted):
            pass


@pytest.mark.parametrize("ca", [b"", b"-----BEGIN CERTIFICATE-----\n", b"no certificate"])
async def test_a_broken_client_ca_stops_the_start(
    upstream: ScriptedUpstream, mounted: MountedSecret, ca: bytes
) -> None:
    mounted.put(Authority().server(), ca)
    with pytest.raises(ConfigError, match=f"{CA}: .* has no usable certificate"):
        async with mtls(upstream, mounted):
            pass


async def test_a_missing_file_stops_the_start(upstream: ScriptedUpstream, mounted: MountedSecret) -> None:
    mounted.cert.unlink()
    with pytest.raises(ConfigError, match=f"^{CERT}: .*tls.crt cannot be read .No such file or directory.; check"):
        async with tls(upstream, mounted):
            pass


async def test_an_expired_certificate_is_used_and_logged(
    upstream: ScriptedUpstream, mounted: MountedSecret, authority: Authority, logged: Logged
) -> None:
    expired = authority.server(not_before=LAST_WEEK - timedelta(days=1), not_after=LAST_WEEK)
    mounted.put(expired)
    async with tls(upstream, mounted) as gateway:
        assert await shown_by(gateway) == leaf(expired)
    (line,) = lines(logged, "certificate.doubtful")
    assert (line["log_level"], line["why"]) == ("warning", "certificate has expired")


# Resumed sessions


def connected(
    address: str, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLSession | None, bool]:
    """Connect once, and return the new session, and whether the previous one was resumed."""
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port))) as plain,
        context.wrap_socket(plain, server_hostname="localhost", session=session) as connection,
    ):
        # The server's settings arrive after its session tickets.
        assert connection.recv(1)
        return connection.session, bool(connection.session_reused)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("mutual", [True, False], ids=["client certificate", "none"])
async def test_no_session_is_resumed_under_client_authentication(
    upstream: ScriptedUpstream,
    mounted: MountedSecret,
    authority: Authority,
    tmp_path: Path,
    version: ssl.TLSVersion,
    mutual: bool,
) -> None:
    client = authority.client("short-lived")
    (tmp_path / "client.pem").write_bytes(client.key + client.chain)
    (tmp_path / "authority.pem").write_bytes(authority.pem)
    context = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(tmp_path / "client.pem")
    async with (mtls if mutual else tls)(upstream, mounted) as gateway:
        session, _ = await asyncio.to_thread(connected, gateway.address, context)
        resumed = [(await asyncio.to_thread(connected, gateway.address, context, session))[1] for _ in range(3)]
    # A resumed session shows no certificate, so neither expiry nor authority would be checked.
    assert resumed == [not mutual] * 3


async def test_an_expired_client_certificate_is_refused(
    upstream: ScriptedUpstream, mounted: MountedSecret, authority: Authority
) -> None:
    expired = authority.client("late", not_after=LAST_WEEK)
    async with mtls(upstream, mounted) as gateway, tls_channel(gateway, authority.pem, expired) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await rpc.JobServiceStub(channel).GetJob(GET_JOB, metadata=BEARER)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


# The identity of the client


async def test_a_client_certificate_of_the_authority_is_required(
    upstream: ScriptedUpstream, mounted: MountedSecret, authority: Authority, foreign: Authority
) -> None:
    async with mtls(upstream, mounted) as gateway:
        for certificate in (None, foreign.client("mallory")):
            async with tls_channel(gateway, authority.pem, certificate) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await rpc.JobServiceStub(channel).GetJob(GET_JOB, metadata=BEARER)
                assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert upstream.seen == []


async def test_the_authority_of_clients_changes_too(
    upstream: ScriptedUpstream, mounted: MountedSecret, authority: Authority, foreign: Authority
) -> None:
    upstream.script.append(RUNNING)
    async with mtls(upstream, mounted) as gateway:
        mounted.put(authority.server(), foreign.pem)
        async with tls_channel(gateway, authority.pem, foreign.client("newcomer")) as channel:
            assert (await rpc.JobServiceStub(channel).GetJob(GET_JOB, metadata=BEARER)).uid == 42
        async with tls_channel(gateway, authority.pem, authority.client("of old")) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await rpc.JobServiceStub(channel).GetJob(GET_JOB, metadata=BEARER)


@pytest.mark.parametrize(
    ("subject", "uris", "peer"),
    [
        ("billing", ("spiffe://mesh.example/ns/pay/sa/billing",), "spiffe://mesh.example/ns/pay/sa/billing"),
        ("billing", ("https://mesh.example/billing",), "CN=billing"),
        ("billing", (), "CN=billing"),
        ("a\nb\x00\x1b[31m", (), r"CN=a\0Ab\00\1B[31m"),
        ("ü", (), r"CN=\C3\BC"),
        ("billing", ("spiffe://mesh.example/a\x1b[31m\nb",), "spiffe://mesh.example/a?[31m?b"),
        ("x" * 64, (), "CN=" + "x" * 64),
    ],
)
async def test_the_log_line_of_a_call_names_the_caller(
    upstream: ScriptedUpstream,
    mounted: MountedSecret,
    authority: Authority,
    logged: Logged,
    subject: str,
    uris: tuple[str, ...],
    peer: str,
) -> None:
    upstream.script.append(RUNNING)
    async with (
        mtls(upstream, mounted) as gateway,
        tls_channel(gateway, authority.pem, authority.client(subject, *uris)) as channel,
    ):
        jobs = rpc.JobServiceStub(channel)
        await jobs.GetJob(GET_JOB, metadata=BEARER)
        with pytest.raises(grpc.aio.AioRpcError):
            await jobs.GetJob(GET_JOB)
    assert [(line["peer"], line["code"]) for line in lines(logged, "call")] == [(peer, "OK"), (peer, "UNAUTHENTICATED")]


async def test_a_long_name_is_cut_in_the_log(
    upstream: ScriptedUpstream, mounted: MountedSecret, authority: Authority, logged: Logged
) -> None:
    upstream.script.append(RUNNING)
    name = "spiffe://mesh.example/" + "x" * 2000
    certificate = authority.client("long", name)
    async with mtls(upstream, mounted) as gateway, tls_channel(gateway, authority.pem, certificate) as channel:
        await rpc.JobServiceStub(channel).GetJob(GET_JOB, metadata=BEARER)
    (line,) = lines(logged, "call")
    assert line["peer"] == name[: 256 - len(CUT_MARK)] + CUT_MARK


async def test_health_works_over_tls(upstream: ScriptedUpstream, mounted: MountedSecret, authority: Authority) -> None:
    certificate = authority.client("prober")
    async with mtls(upstream, mounted) as gateway, tls_channel(gateway, authority.pem, certificate) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", JOB_SERVICE.full_name):
            request = health_pb2.HealthCheckRequest(service=service)
            assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
        watched = health.Watch(health_pb2.HealthCheckRequest(service=JOB_SERVICE.full_name))
        assert (await watched.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(gateway.stop(grace=0.1))
        assert (await watched.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await stopping
