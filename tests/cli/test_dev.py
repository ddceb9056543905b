"""`dev` as a process, and its choice of a port."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys

import pytest

from gateway.cli.servers.dev import free_or_any
from tests.cli.test_commands import start


@pytest.mark.slow
def test_dev_shows_commands_that_run_as_they_stand() -> None:
    with start("dev", "--listen", "127.0.0.1:0") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        shown = ""
        while "jobgateway run" not in shown:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            shown += line
        commands = "\n".join(re.findall(r"^  (\S.*)$", shown, re.MULTILINE))
        script = commands.replace("jobgateway", f"{sys.executable} -m gateway").replace("duration=5", "duration=0")
        done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False)  # noqa: S603
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"data": {"sum": 3}}
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out.strip(), err) == (0, "", "")


@pytest.mark.slow
def test_dev_names_an_address_that_it_cannot_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        for address, problem in (
            (listen, "cannot be bound: Address already in use"),
            ("0.0.0.0:0", "is not the HOST:PORT of a loopback address, such as 127.0.0.1:50051"),
        ):
            with start("dev", "--listen", address) as process:
                out, err = process.communicate()
            assert (process.returncode, out, err) == (2, "", f"--listen: {address} {problem}\n")


async def test_a_taken_port_is_replaced() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        assert await free_or_any(listen) == "127.0.0.1:0"
    assert await free_or_any(listen) == listen
