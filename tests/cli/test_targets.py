"""Addresses as people mistype them."""

from __future__ import annotations

import pytest
from grpc import StatusCode
from jobgateway_client import GatewayError
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.cli.exit_codes import UNAVAILABLE, USAGE
from gateway.cli.failures.connection_faults import fault
from gateway.cli.options.shared import ConnectionOptions
from gateway.cli.options.targets import TargetUnusable, check_target, host_and_port


@pytest.mark.parametrize(
    ("target", "host", "port"),
    [
        ("127.0.0.1:50051", "127.0.0.1", 50051),
        ("my_gateway.example.:1", "my_gateway.example.", 1),
        ("[::1]:65535", "::1", 65535),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ("dns:///gateway:1", "gateway", 1),
        ("dns:gateway:1", "gateway", 1),
    ],
)
def test_a_target_is_a_host_and_a_port(target: str, host: str, port: int) -> None:
    check_target(target)
    assert host_and_port(target) == (host, port)


@pytest.mark.parametrize("target", ["unix:/run/proxy.sock", "ipv4:127.0.0.1:1,127.0.0.2:1", "xds:///gateway"])
def test_other_names_are_left_to_grpc(target: str) -> None:
    check_target(target)
    with pytest.raises(TargetUnusable, match="is not HOST:PORT"):
        host_and_port(target)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("http://127.0.0.1:50051", "is a URL; write 127.0.0.1:50051"),
        ("https://gateway.example/", "is a URL; write gateway.example:443 and add --tls"),
        ("grpc://gateway.example", "is a URL; write gateway.example:50051"),
        ("grpcs://gateway.example:1", "is a URL; write gateway.example:1 and add --tls"),
        ("http://", "is a URL; write HOST:50051"),
        ("https://[::1]:1/", "is a URL; write [::1]:1 and add --tls"),
        ("gateway:000065536", "has no port from 1 to 65535"),
        ("127.0.0.1", "has no port; write HOST:PORT, such as 127.0.0.1:50051"),
        ("[::1]", "has no port; write HOST:PORT, such as [::1]:50051"),
        ("dns:///gateway", "has no port; write HOST:PORT, such as gateway:50051"),
        ("::1", "has an IPv6 address without brackets; write [::1]:50051"),
        ("::1:50051", "has an IPv6 address without brackets; write [::1]:50051 or [::1:50051]:50051"),
        ("gateway:", "has no port from 1 to 65535; write one, such as gateway:50051"),
        ("gateway:0", "has no port from 1 to 65535"),
        ("gateway:65536", "has no port from 1 to 65535"),
        ("gateway:http", "has no port from 1 to 65535"),
        ("gateway:\u0663", "has no port from 1 to 65535"),
        (":50051", "has no host; write HOST:PORT, such as localhost:50051"),
        (" gateway:1", "has a space"),
        ("gateway:1\n", "has a space"),
        (" ", "is empty"),
        ("gateway:1/path", "has a path; write HOST:PORT, such as gateway:1"),
        ("[::1:1", "has a host that is neither a name nor an IP address"),
        ("a:1,b:2", "has a host that is neither a name nor an IP address"),
    ],
)
def test_a_mistake_in_a_target_is_named_with_its_fix(target: str, said: str) -> None:
    with pytest.raises(TargetUnusable) as raised:
        check_target(target)
    assert str(raised.value).startswith(f"--target {target!r} {said}")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("https://me:hunter2@gateway:1", "'https://***@gateway:1' is a URL; write gateway:1 and add --tls"),
        ("http://me:p@hunter2@gateway:1", "'http://***@gateway:1' is a URL; write gateway:1"),
        ("http://me:p/hunter2@gateway", "'http://***@gateway' is a URL; write gateway:50051"),
        ("http://me:p?hunter2@gateway", "'http://***' is a URL; write HOST:50051"),
        ("https://gateway/?token=hunter2", "'https://gateway/' is a URL; write gateway:443 and add --tls"),
        ("https://gateway?token=hunter2", "'https://gateway' is a URL; write gateway:443 and add --tls"),
        ("https://gateway/?to=a@b&token=hunter2", "'https://***' is a URL; write HOST:443 and add --tls"),
        ("me:hunter2@gateway:1", "'***@gateway:1' has a user; write HOST:PORT, such as gateway:1"),
        ("hunter2@gateway", "'***@gateway' has a user; write HOST:PORT, such as gateway.example:50051"),
        ("me:p/hunter2@gateway:1", "'***@gateway:1' has a user; write HOST:PORT, such as gateway:1"),
        ("dns:///me:hunter2@gateway:1", "'dns://***@gateway:1' has a user; write HOST:PORT, such as gateway:1"),
        ("gateway:1?token=hunter2", "'gateway:1' has a query; write HOST:PORT, such as gateway:1"),
        ("gateway:1/?token=hunter2", "'gateway:1/' has a path; write HOST:PORT, such as gateway:1"),
        ("gateway?token=hunter2@x", "'***' has a query; write HOST:PORT, such as gateway.example:50051"),
        ("unix:me:hunter2@gateway", "'***@gateway' is not HOST:PORT; write one, such as gateway.example:50051"),
    ],
)
def test_a_password_in_a_target_is_not_shown(target: str, said: str) -> None:
    with pytest.raises(TargetUnusable) as raised:
        host_and_port(target)
    assert str(raised.value) == f"--target {said}"


def test_a_mistyped_target_is_a_line_and_exit_code_2() -> None:
    result = CliRunner().invoke(app, ["get", "42", "--target", "http://a:1"], env={"JOBGATEWAY_TOKEN": "t"})
    assert (result.exit_code, result.stderr) == (2, "--target 'http://a:1' is a URL; write a:1\n")


def test_a_name_that_does_not_resolve_is_named() -> None:
    for target in ("nowhere.invalid:50051", "a..b:1"):
        result = CliRunner().invoke(app, ["get", "42", "--target", target], env={"JOBGATEWAY_TOKEN": "t"})
        assert result.exit_code == 2
        assert result.stderr == (
            f"{target} cannot be reached (its name does not resolve); check the name in --target, and the DNS of this "
            "machine\n"
        )


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        ("nowhere:1: Domain name not found]", USAGE),
        ("nowhere:1 os_error: Name or service not known syscall: getaddrinfo]", USAGE),
        ("nowhere:1: Timeout while contacting DNS servers]", UNAVAILABLE),
        ("nowhere:1 os_error: Temporary failure in name resolution syscall: getaddrinfo]", UNAVAILABLE),
    ],
)
def test_only_a_name_that_does_not_exist_is_a_mistake(cause: str, code: int) -> None:
    message = f"errors resolving nowhere:1: [field:hostname lookup error:address lookup failed for {cause}"
    found = fault(GatewayError(StatusCode.UNAVAILABLE, message), ConnectionOptions(target="nowhere:1"))
    assert found
    assert found.exit_code == code
