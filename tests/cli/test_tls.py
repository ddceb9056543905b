"""The command line over TLS, against a real gateway."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.app import app
from tests.support.certificates import Authority, Certificate, MountedSecret, with_other_key, with_password
from tests.support.gateways import TOKEN, running
from tests.support.upstream import DONE, RUNNING, ScriptedUpstream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.server.gateway import Gateway


async def invoke(*arguments: object, token: str | None = TOKEN) -> Result:
    # In a thread, because the command blocks while the gateway serves it.
    def run() -> Result:
        return CliRunner().invoke(app, list(map(str, arguments)), env={"JOBGATEWAY_TOKEN": token})

    return await asyncio.to_thread(run)


async def test_the_next_command_names_the_trusted_authorities(
    upstream: ScriptedUpstream, mounted: MountedSecret
) -> None:
    upstream.script.append(RUNNING)
    async with running(upstream.url, tls_cert_file=mounted.cert, tls_key_file=mounted.key) as gateway:
        result = await invoke("get", 42, "--target", gateway.address, "--ca-file", mounted.ca)
    assert result.exit_code == 0, result.stderr
    assert f"jobgateway watch 42 --target {gateway.address} --ca-file {mounted.ca}" in result.stderr


async def test_a_command_with_a_certificate_needs_no_token(
    upstream: ScriptedUpstream, mounted: MountedSecret, client: MountedSecret, tmp_path: Path
) -> None:
    upstream.script.append(DONE)
    own = tmp_path / "token"
    own.write_text("the-gateways-own")
    settings = {"tls_cert_file": mounted.cert, "tls_key_file": mounted.key, "tls_client_ca_file": mounted.ca}
    async with running(upstream.url, upstream_token_file=own, **settings) as gateway:
        over_tls = ("--target", gateway.address, "--ca-file", mounted.ca)
        shown = ("--cert-file", client.cert, "--key-file", client.key)
        assert (await invoke("get", 42, *over_tls, *shown, token=None)).exit_code == 0
        assert (await invoke("watch", 42, *over_tls, *shown)).exit_code == 0
        refused = await invoke("get", 42, *over_tls, "-o", "json")
    assert refused.exit_code == 6
    assert "requires a client certificate; present one with --cert-file and --key-file" in refused.stderr
    assert json.loads(refused.stdout)["error"]["code"] == "UNAUTHENTICATED"
    tokens = [seen.headers["authorization"] for seen in upstream.seen]
    # `get` reads the job, and then its result.
    assert tokens == ["Bearer the-gateways-own", "Bearer the-gateways-own", f"Bearer {TOKEN}"]


COMMANDS = (
    ["ping"],
    ["get", 42],
    ["wait", 42],
    ["cancel", 42],
    ["watch", 42],
    ["watch", 42, 43],
    ["run", "--workspace", 1, "--entity", 1],
)


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_missing_tls_option_is_named(
    upstream: ScriptedUpstream, mounted: MountedSecret, command: list[str | int]
) -> None:
    async with running(upstream.url, tls_cert_file=mounted.cert, tls_key_file=mounted.key) as gateway:
        result = await invoke(*command, "--target", gateway.address)
    assert result.exit_code == 2
    assert result.stderr == (
        f"{gateway.address} expects TLS; add --tls, or --ca-file FILE if its authority is not a public one\n"
    )


@pytest.mark.parametrize("unread", [True, False])
async def test_a_server_that_only_closes_expects_no_tls(unread: bool) -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if unread:
            writer.transport.abort()
        else:
            await reader.read(1 << 16)
            writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        result = await invoke("get", 42, "--target", f"{host}:{port}")
    assert result.exit_code == 8
    assert result.stderr.startswith(f"{host}:{port} cannot be reached (")
    assert "; check that the gateway runs there" in result.stderr


@pytest.mark.parametrize("is_grpc", [True, False])
async def test_tls_to_a_server_without_it_names_the_options(
    upstream: ScriptedUpstream, mounted: MountedSecret, is_grpc: bool
) -> None:
    async with running(upstream.url) as gateway:
        target = gateway.address if is_grpc else gateway.admin_address
        result = await invoke("get", 42, "--target", target, "--tls", "--ca-file", mounted.ca)
    assert result.exit_code == 2
    assert result.stderr == f"{target} does not use TLS; leave out --tls and --ca-file\n"


async def test_an_http1_server_is_named(gateway: Gateway) -> None:
    result = await invoke("get", 42, "--target", gateway.admin_address, "-o", "json")
    problem = f"{gateway.admin_address} speaks HTTP/1, not gRPC"
    assert result.exit_code == 2
    assert result.stderr.startswith(f"{problem}; name the gRPC address")
    error = json.loads(result.stdout)["error"]
    assert (error["code"], error["message"]) == ("USAGE", result.stderr.removesuffix("\n"))


async def test_a_certificate_that_is_not_trusted_is_named(
    upstream: ScriptedUpstream, mounted: MountedSecret, tmp_path: Path
) -> None:
    other = tmp_path / "other.crt"
    other.write_bytes(Authority().pem)
    async with running(upstream.url, tls_cert_file=mounted.cert, tls_key_file=mounted.key) as gateway:
        public = await invoke("get", 42, "--target", gateway.address, "--tls")
        wrong = await invoke("get", 42, "--target", gateway.address, "--ca-file", other)
    problem = f"the certificate of {gateway.address} is from an authority that is not trusted"
    assert (public.exit_code, wrong.exit_code) == (2, 2)
    assert public.stderr == f"{problem}; trust it with --ca-file FILE\n"
    assert wrong.stderr.startswith(f"{problem} by --ca-file {other}; put the authority of the gateway into this file")


async def test_a_certificate_for_another_name_is_named(
    upstream: ScriptedUpstream, mounted: MountedSecret, authority: Authority
) -> None:
    mounted.put(authority.server("gateway.example"), authority.pem)
    async with running(upstream.url, tls_cert_file=mounted.cert, tls_key_file=mounted.key) as gateway:
        result = await invoke("get", 42, "--target", gateway.address, "--ca-file", mounted.ca)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"the certificate of {gateway.address} is for another name; ")


async def test_an_expired_certificate_is_named(
    upstream: ScriptedUpstream, mounted: MountedSecret, authority: Authority
) -> None:
    async with running(upstream.url, tls_cert_file=mounted.cert, tls_key_file=mounted.key) as gateway:
        yesterday = datetime.now(UTC) - timedelta(days=1)
        mounted.put(authority.server(not_after=yesterday), authority.pem)
        result = await invoke("get", 42, "--target", gateway.address, "--ca-file", mounted.ca)
    assert result.exit_code == 2, result.stderr
    assert "is not valid (certificate has expired); renew it on the gateway" in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_rejected_client_certificate_is_exit_code_6(
    upstream: ScriptedUpstream, mounted: MountedSecret, client: MountedSecret, command: list[str | int]
) -> None:
    client.put(Authority().client("stranger"))
    settings = {"tls_cert_file": mounted.cert, "tls_key_file": mounted.key, "tls_client_ca_file": mounted.ca}
    async with running(upstream.url, **settings) as gateway:
        over_tls = ("--target", gateway.address, "--ca-file", mounted.ca)
        result = await invoke(*command, *over_tls, "--cert-file", client.cert, "--key-file", client.key)
    assert result.exit_code == 6
    assert result.stderr == (
        f"{gateway.address} rejected the client certificate --cert-file {client.cert}; check that it has not expired, "
        "and that the gateway trusts its authority\n"
    )


NO_KEY = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (with_password, "--key-file {key}: the key has a password; write it without one: openssl pkey "),
        (with_other_key, "--cert-file {cert} and --key-file {key}: the key is not the one of the certificate; "),
        (lambda _: Certificate(b"", b""), "--cert-file {cert}: not a certificate in PEM; "),
        (lambda one: Certificate(one.key, one.chain), "--cert-file {cert}: not a certificate in PEM; "),
        (lambda one: Certificate(one.chain, one.chain), "--key-file {key}: not a private key in PEM; "),
        (lambda one: Certificate(one.chain, NO_KEY), "--cert-file {cert} and --key-file {key}: damaged, or "),
    ],
)
async def test_a_certificate_that_is_no_use_is_a_usage_error(
    client: MountedSecret, authority: Authority, broken: Callable[[Certificate], Certificate], said: str
) -> None:
    client.put(broken(authority.client("billing")))
    result = await invoke("get", 42, "--cert-file", client.cert, "--key-file", client.key)
    assert result.exit_code == 2
    assert result.stderr.startswith(said.format(cert=client.cert, key=client.key))
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("option", ["--ca-file", "--cert-file", "--key-file"])
async def test_a_file_that_is_not_there_is_a_usage_error(client: MountedSecret, tmp_path: Path, option: str) -> None:
    options = {"--ca-file": client.cert, "--cert-file": client.cert, "--key-file": client.key}
    options[option] = tmp_path / "nowhere"
    result = await invoke("get", 42, *(word for pair in options.items() for word in pair))
    assert result.exit_code == 2
    assert result.stderr == f"{option} {tmp_path / 'nowhere'}: cannot be read: No such file or directory\n"


async def test_an_authority_that_is_none_is_a_usage_error(client: MountedSecret) -> None:
    result = await invoke("get", 42, "--ca-file", client.key)
    assert result.exit_code == 2
    assert result.stderr == f"--ca-file {client.key}: not a certificate in PEM; give one or more certificates\n"


@pytest.mark.parametrize("option", ["--cert-file", "--key-file"])
async def test_a_certificate_and_its_key_belong_together(client: MountedSecret, option: str) -> None:
    result = await invoke("get", 42, option, client.cert)
    assert result.exit_code == 2
    other = {"--cert-file": "--key-file", "--key-file": "--cert-file"}[option]
    assert "both are needed; give both or neither" in result.stderr
    assert option in result.stderr
    assert other in result.stderr


async def test_without_a_certificate_a_token_is_needed() -> None:
    result = await invoke("get", 42, "--tls", token=None)
    assert result.exit_code == 6
    assert "no token" in result.stderr
