"""The work of `demo`: jobs through a gateway and a simulated upstream, over real sockets."""

import hashlib
import logging
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import structlog
import typer
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import Client, GatewayError
from jobgateway_client.deadline import Deadline
from rich.console import Console

from gateway.cli.client.follow import follow
from gateway.cli.client.session import Session
from gateway.cli.exit_codes import INTERRUPTS, JOB_FAILED, REFUSED, SUCCESS
from gateway.cli.failures.problems import output_lost
from gateway.cli.options.params import read_params
from gateway.cli.options.shared import DEMO_TOKEN, OutputOptions
from gateway.cli.output import stdio
from gateway.cli.output.formatting import counted
from gateway.cli.servers.demo_servers import DemoServers

_SECONDS = 15.0
_WATCHERS = 50
_LARGE_BYTES = 50_000_000


def show() -> None:
    """Start both servers, run jobs through them, and stop them. Leave the process with the exit code."""
    console = Console(highlight=False, soft_wrap=True)
    # The log of the servers would be mixed with the lines of the jobs.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        with stdio.interruptible(), DemoServers() as servers:
            addresses = f"{servers.upstream}, and a gateway in front of it at {servers.gateway}"
            console.print(f"A simulated upstream listens at {addresses}.")
            as_expected = _Demo(console, servers).run()
        console.print("\nBoth are stopped. Next: run [bold]jobgateway dev[/] and follow its instructions.")
        stdio.check()
    except KeyboardInterrupt as error:
        raise typer.Exit(stdio.interrupt_code()) from error
    except stdio.OutputLost as error:
        raise typer.Exit(output_lost(error)) from error
    if not as_expected:
        raise typer.Exit(JOB_FAILED)


class _Demo:
    def __init__(self, console: Console, servers: DemoServers) -> None:
        self._console = console
        self._servers = servers

    def run(self) -> bool:
        """Show everything, and return whether it went as expected."""
        return all(
            [
                self._job("A job that reports its progress and succeeds", "succeed", ["duration=2", "steps=5"]),
                self._job("A job whose code fails: the call succeeds, the job does not", "fail", ["duration=0.5"]),
                self._job(
                    "A job that the upstream rejects: no job is created, and the error names the fields", "refuse", []
                ),
                self._restart(),
                self._many_watchers(),
                self._large_result(),
            ]
        )

    def _job(self, title: str, method: str, param: list[str], save: Path | None = None) -> bool:
        """Run one job as `run` does, and return True if it ended as its method says."""
        words = ["jobgateway run --workspace 1 --entity 1 --method", method, *(f"--param {each}" for each in param)]
        if save:
            words.append(f"--save {save.name}")
        self._title(title, " ".join(words))
        request = pb.SendJobRequest(workspace_id="1", entity_id=1, method_name=method)
        request.params_json = read_params(param, None, None) or b"{}"
        request.content_format = pb.CONTENT_FORMAT_JSON_CHUNKS
        code = SUCCESS
        target = self._servers.gateway
        with Client(target, token=DEMO_TOKEN, attempts=1) as client:
            current = Session(client, target, Deadline(_SECONDS), connection=("--target", target))
            try:
                follow(current, pb.RunJobRequest(request=request), OutputOptions(save=save), cancel=False)
            except typer.Exit as left:
                code = left.exit_code
        if code in INTERRUPTS:
            raise typer.Exit(code)
        if code == SUCCESS and save is None and not self._console.is_terminal:
            # The bytes of the result have no line break, and only a terminal gets one.
            self._console.print()
        self._console.print(f"[dim]exit code {code}[/]")
        return code == {"fail": JOB_FAILED, "refuse": REFUSED}.get(method, SUCCESS)

    def _restart(self) -> bool:
        self._servers.restart_gateway(after=1.0, down=1.0)
        return self._job("A watch that survives a restart of the gateway after one second", "succeed", ["duration=5"])

    def _many_watchers(self) -> bool:
        self._title(f"{_WATCHERS} watchers of one job cost the upstream as much as one")
        with Client(self._servers.gateway, token=DEMO_TOKEN) as client:
            request = pb.SendJobRequest(workspace_id="1", entity_id=1, method_name="succeed")
            request.params_json = b'{"duration": 1.5}'
            uid = client.send(request).uid
            succeeded: list[bool] = []

            def watch() -> None:
                # An interrupt of the demo closes the client.
                with suppress(GatewayError):
                    succeeded.append(client.watch(uid, timeout=_SECONDS).finish().succeeded)

            watching = [threading.Thread(target=watch) for _ in range(_WATCHERS)]
            for each in watching:
                each.start()
            for each in watching:
                each.join()
        reads = self._servers.reads(uid)
        asked = f"the upstream was asked {counted(reads, 'time')}"
        self._console.print(f"{succeeded.count(True)} watchers saw job {uid} succeed, and {asked}.")
        return succeeded == [True] * _WATCHERS and 0 < reads < _WATCHERS

    def _large_result(self) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "result.json")
            param = ["duration=0", f"result_bytes={_LARGE_BYTES}"]
            if not self._job("A large result, which arrives in verified chunks", "succeed", param, file):
                return False
            with file.open("rb") as result:
                self._console.print(f"SHA-256 of {file.name}: {hashlib.file_digest(result, 'sha256').hexdigest()}")
            return file.stat().st_size >= _LARGE_BYTES

    def _title(self, title: str, command: str = "") -> None:
        stdio.check()
        shown = f"\n[dim]$ {command}[/]" if command else ""
        self._console.print(f"\n[bold]{title}[/]{shown}")
