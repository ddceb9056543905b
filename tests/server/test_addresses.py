"""Test that HOST:PORT is bound at all of its addresses, or at none."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import socket
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Settings
from gateway.server import addresses
from gateway.server.addresses import LOOPBACK, bind, join_host_port, numeric_host, resolve
from gateway.server.gateway import Gateway

V4, V6 = (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")
ABSENT = (socket.AF_INET6, "2001:db8::1")
FREE = {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0"}


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="the machine has no ::1")


def gateway(**listen: str) -> Gateway:
    return Gateway(Settings(upstream_url="http://127.0.0.1:1", **(FREE | listen)))


def taken(host: str) -> socket.socket:
    """Another process that listens at a port of one address."""
    return socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port)):
            return True
    except ConnectionRefusedError:
        return False


@needs_ipv6
@pytest.mark.parametrize("setting", ["listen", "admin_listen"])
@pytest.mark.parametrize("host", LOOPBACK)
async def test_one_taken_address_ends_the_start(setting: str, host: str) -> None:
    with closing(taken(host)) as other:
        port = other.getsockname()[1]
        made = gateway(**{setting: f"localhost:{port}"})
        with pytest.raises(OSError, match="cannot be bound") as raised:
            await made.start()
        (free,) = set(LOOPBACK) - {host}
        assert not answers(free, port)
        await made.stop(0)
    name = f"JOBGATEWAY_{setting.upper()}"
    assert str(raised.value) == f"{name}: localhost:{port} cannot be bound: Address already in use ({host})"


@needs_ipv6
async def test_port_0_is_the_same_port_at_all_addresses() -> None:
    made = gateway(listen="localhost:0", admin_listen="LOCALHOST:0")
    await made.start()
    for address in (made.address, made.admin_address):
        name, _, port = address.rpartition(":")
        assert name.lower() == "localhost"
        assert [answers(host, int(port)) for host in LOOPBACK] == [True, True]
    await made.stop(0)


@pytest.mark.parametrize("setting", ["listen", "admin_listen"])
async def test_a_name_without_an_address_ends_the_start(setting: str) -> None:
    made = gateway(**{setting: "nowhere.invalid:0"}, allow_plaintext="true")
    with pytest.raises(OSError, match=rf"^JOBGATEWAY_{setting.upper()}: nowhere.invalid:0 cannot be bound: "):
        await made.start()
    await made.stop(0)


@pytest.mark.parametrize("setting", ["listen", "admin_listen"])
async def test_a_resolver_that_hangs_ends_the_start(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    back = threading.Event()
    system = socket.getaddrinfo

    def hanging(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "hangs.test":
            back.wait()
        return system(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    monkeypatch.setattr(addresses, "RESOLVE_SECONDS", 0.05)
    made = gateway(**{setting: "hangs.test:0"}, allow_plaintext="true")
    with pytest.raises(OSError, match=r"cannot be bound: the resolver did not respond within 0\.05 s"):
        await made.start()
    back.set()
    await made.stop(0)


def test_leaves_out_addresses_that_the_machine_lacks() -> None:
    for several in ([V4, ABSENT], [ABSENT, V4]):
        (only,) = bind(several, 0)
        with only:
            assert only.getsockname()[0] == V4[1]
    with pytest.raises(OSError, match=r"[Aa]ddress") as raised:
        bind([ABSENT], 0)
    assert raised.value.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@needs_ipv6
def test_a_free_port_is_free_at_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(taken(V6[1])) as other:
        port = other.getsockname()[1]
        system = socket.socket.bind
        picked = [port]

        class Picky(socket.socket):
            # The kernel may pick any port that is free at the first address.
            def bind(self, where: Any) -> None:
                where = (where[0], picked.pop()) if where[1] == 0 and picked else where
                system(self, where)

        monkeypatch.setattr(socket, "socket", Picky)
        made = bind([V4, V6], 0)
    ports = {each.getsockname()[1] for each in made}
    assert len(ports) == 1
    assert ports != {port}
    for each in made:
        each.close()


async def test_an_address_keeps_its_scope() -> None:
    assert await resolve("127.0.0.1") == [V4]
    assert numeric_host(("::1", 0, 0, 0)) == "::1"
    assert join_host_port("fe80::1%lo", 1) == "[fe80::1%lo]:1"


def bound_here(port: int) -> list[tuple[str, int]]:
    """Return the addresses of this process's TCP sockets at a port; another process may take a port that was freed."""
    addresses = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(entry.name))) as each:
            if each.family in (socket.AF_INET, socket.AF_INET6) and each.getsockname()[1] == port:
                addresses.append(each.getsockname()[:2])
    return addresses


@needs_ipv6
async def test_an_admin_address_that_cannot_listen_frees_all_ports() -> None:
    with socket.socket(socket.AF_INET6) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("::1", 0))
        port = other.getsockname()[1]

        async def listen_first() -> None:
            # Both are bound and not listening yet; another process listens between our two addresses.
            for _ in itertools.count():
                if answers("127.0.0.1", port):
                    other.listen()
                    break
                await asyncio.sleep(0)

        listening = asyncio.create_task(listen_first())
        with pytest.raises(OSError, match="JOBGATEWAY_ADMIN_LISTEN") as raised:
            await gateway(admin_listen=f"localhost:{port}").start()
        await listening
        assert bound_here(port) == [other.getsockname()[:2]]
        del raised
