"""The command line over TLS, against a real gateway."""

from __future__ import annotations

import asyncio
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
        refused = await invoke("get", 42, *over_tls)
    assert refused.exit_code == 8
    assert "cannot be reached" in refused.stderr
    tokens = [seen.headers["authorization"] for seen in upstream.seen]
    # `get` reads the job, and then its result.
    assert tokens == ["Bearer the-gateways-own", "Bearer the-gateways-own", f"Bearer {TOKEN}"]


@pytest.mark.parametrize("options", [[], ["--tls"]])
async def test_a_tls_mismatch_is_one_line(
    upstream: ScriptedUpstream, mounted: MountedSecret, options: list[str]
) -> None:
    async with running(upstream.url, tls_cert_file=mounted.cert, tls_key_file=mounted.key) as gateway:
        result = await invoke("get", 42, "--target", gateway.address, *options)
    assert result.exit_code == 8
    (line,) = result.stderr.splitlines()
    assert "cannot be reached" in line
    assert "(--tls) or neither" in line
    if options:
        assert "CERTIFICATE_VERIFY_FAILED" in line


@pytest.mark.parametrize("broken", [with_password, with_other_key, lambda _: Certificate(b"", b"")])
async def test_a_certificate_that_is_no_use_is_a_usage_error(
    client: MountedSecret, authority: Authority, broken: Callable[[Certificate], Certificate]
) -> None:
    client.put(broken(authority.client("billing")))
    result = await invoke("get", 42, "--cert-file", client.cert, "--key-file", client.key)
    assert result.exit_code == 2
    assert result.stderr == (
        f"--cert-file {client.cert} and --key-file {client.key}: not a certificate and its private key; give both in "
        "PEM, without a password\n"
    )


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
