"""Restart two gateways behind a client-side balancer, one after the other, and count lost and repeated ends of watches.

The gateways (with TLS) and the simulator are separate processes. This process is a service that watches many jobs with
the published client (`clients/python`). The jobs end one after the other: before, during and after each restart.
Between the two restarts, the certificates change on disk. It takes less than a minute. The exit code is 1 if an end was
lost or repeated.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import ssl
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from cryptography import x509
from google.protobuf.duration_pb2 import Duration
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import AsyncClient, GatewayError, Retry, Tls

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from gateway.simulator import Simulator
from tests.support.certificates import Authority, Certificate, MountedSecret

TOKEN = "token-of-the-service"  # noqa: S105 - made up
HEARTBEAT_SECONDS = 2
# The duration of the first job. All watches open before its end.
FIRST_END_SECONDS = 8.0
# The time of a restart in addition to the grace, and the time after the second restart.
START_SECONDS, REST_SECONDS = 3.0, 8.0
SENDERS = 20


def _client(addresses: list[str], authority: bytes) -> AsyncClient:
    """Return the client of all gateways that the watches share."""
    return AsyncClient(
        f"ipv4:{','.join(addresses)}",
        token=TOKEN,
        tls=Tls(ca=authority),
        service_config=(ROOT / "clients/service_config_direct.json").read_text(),
        options=[("grpc.ssl_target_name_override", "localhost")],
    )


@dataclass
class Watched:
    """A job with the observations of its watch. Times are in seconds of the monotonic clock."""

    number: int
    uid: int
    last_event: float = field(default_factory=time.monotonic)
    ends: list[float] = field(default_factory=list)
    wrong_results: int = 0
    states: Counter[tuple[int, str]] = field(default_factory=Counter)
    resume_reasons: list[str] = field(default_factory=list)
    longest_gap: float = 0.0
    failure: str = ""
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, client: AsyncClient) -> None:
        """Watch the job to its end."""
        request = pb.WatchJobRequest(uid=self.uid, heartbeat_interval=Duration(seconds=HEARTBEAT_SECONDS))
        try:
            async with client.watch(request, on_retry=self._resumption) as events:
                async for event in events:
                    self._take(event)
        except GatewayError as error:
            self.failure = repr(error)
        finally:
            self.opened.set()

    def _resumption(self, retry: Retry) -> None:
        self.resume_reasons.append(retry.error.reason or retry.error.code.name)

    def _take(self, event: pb.JobEvent) -> None:
        now = time.monotonic()
        self.longest_gap = max(self.longest_gap, now - self.last_event)
        self.last_event = now
        if event.WhichOneof("payload") != "job":
            return
        self.opened.set()
        # The simulator's messages have the number of the step, so each state has a different one.
        self.states[event.job.status, event.job.progress.message] += 1
        if event.job.done:
            self.ends.append(now)
            self.wrong_results += dict(event.job.content) != {"number": self.number}


class Instance:
    """One of the two gateways, which keeps its address when it is restarted."""

    def __init__(self, upstream: str, certificates: MountedSecret, grace: float) -> None:
        self.address = "127.0.0.1:0"
        self.unexpected_lines: list[str] = []
        self._environment = os.environ | {
            "JOBGATEWAY_UPSTREAM_URL": upstream,
            "JOBGATEWAY_ADMIN_LISTEN": "127.0.0.1:0",
            "JOBGATEWAY_TLS_CERT_FILE": str(certificates.cert),
            "JOBGATEWAY_TLS_KEY_FILE": str(certificates.key),
            "JOBGATEWAY_DRAIN_GRACE_SECONDS": str(grace),
        }
        self._process: asyncio.subprocess.Process | None = None
        self._log: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start a process, and return when it serves."""
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "serve"),
            stderr=asyncio.subprocess.PIPE,
            env=self._environment | {"JOBGATEWAY_LISTEN": self.address},
            cwd=ROOT,
        )
        assert process.stderr
        line: dict[str, Any] = {}
        while line.get("event") != "serving":
            # If the process ends, the line is empty and raises an error.
            line = json.loads(await process.stderr.readline())
        self.address = line["address"]
        self._log = asyncio.create_task(self._read_log(process.stderr))

    async def stop(self) -> int:
        """Send SIGTERM, and return the exit code when the process has ended."""
        assert self._process
        assert self._log
        self._process.terminate()
        await self._log
        return await self._process.wait()

    async def kill(self) -> None:
        """Kill the process if it still runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def served_serial(self, authority: bytes) -> int:
        """Return the serial number of the certificate that a new connection gets."""
        context = ssl.create_default_context(cadata=authority.decode())
        context.set_alpn_protocols(["h2"])
        host, _, port = self.address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="localhost")
        serial = int(writer.get_extra_info("peercert")["serialNumber"], 16)
        # A TLS shutdown would wait, because the gateway has started to send HTTP/2 frames.
        writer.transport.abort()
        return serial

    async def _read_log(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            try:
                expected = json.loads(line)["level"] == "info"
            except ValueError:
                expected = False
            if not expected:
                self.unexpected_lines.append(line.decode().strip())


class Restart:
    """A rolling restart of two gateways, with the watches and the problems that it found."""

    def __init__(self, upstream: str, folder: Path, count: int, grace: float, pause: float) -> None:
        self._count = count
        self._pause = pause
        self._authority = Authority()
        self._mounted = MountedSecret(folder)
        self._certificate = self._issue()
        self.instances = [Instance(upstream, self._mounted, grace) for _ in range(2)]
        self._span = 2 * (grace + START_SECONDS) + pause + REST_SECONDS
        self.watches: list[Watched] = []
        self.problems: list[str] = []
        self._start = time.monotonic()

    async def run(self) -> None:
        """Open the watches, restart both gateways, and wait for all ends."""
        for instance in self.instances:
            await instance.start()
        client = _client([instance.address for instance in self.instances], self._authority.pem)
        await self._send(client)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each.follow(client)) for each in self.watches]
            for each in self.watches:
                await each.opened.wait()
            self._print("all watches are open")
            await self._until(FIRST_END_SECONDS + 2)
            await self._restart(0)
            await self._rotate_certificates()
            await asyncio.sleep(self._pause)
            await self._restart(1)
            _, hanging = await asyncio.wait(tasks, timeout=self._span)
            for task in hanging:
                task.cancel()
        await client.close()
        self._print("all watches have ended")
        for number in range(2):
            code = await self.instances[number].stop()
            self._expect(code == 0, f"gateway {number + 1}: exit code {code} at the end")

    async def _send(self, client: AsyncClient) -> None:
        self._start = time.monotonic()
        numbers = iter(range(self._count))

        async def send() -> None:
            for number in numbers:
                duration = FIRST_END_SECONDS + self._span * number / self._count
                job = {"duration": duration, "steps": int(duration), "result": {"number": number}}
                request = pb.SendJobRequest(workspace_id="1", entity_id=1, params_json=json.dumps(job).encode())
                sent = await client.send(request)
                self.watches.append(Watched(number, sent.uid))

        await asyncio.gather(*(send() for _ in range(SENDERS)))

    async def _restart(self, number: int) -> None:
        instance = self.instances[number]
        self._print(f"gateway {number + 1} gets SIGTERM")
        code = await instance.stop()
        self._print(f"gateway {number + 1} has ended with exit code {code}")
        self._expect(code == 0, f"gateway {number + 1}: exit code {code}")
        await instance.start()
        self._print(f"gateway {number + 1} serves again, at {instance.address}")

    async def _rotate_certificates(self) -> None:
        before = await self._check_certificate("first")
        self._certificate = self._issue()
        after = await self._check_certificate("new")
        self._print(f"certificates rotated: both gateways serve {after:x} instead of {before:x}")

    async def _check_certificate(self, name: str) -> int:
        serial = x509.load_pem_x509_certificate(self._certificate.chain).serial_number
        for instance in self.instances:
            served = await instance.served_serial(self._authority.pem)
            self._expect(served == serial, f"the {name} certificate is not served")
        return serial

    def _issue(self) -> Certificate:
        certificate = self._authority.server()
        self._mounted.put(certificate)
        return certificate

    def _expect(self, condition: bool, problem: str) -> None:
        if not condition:
            self.problems.append(problem)

    def _print(self, text: str) -> None:
        ended = sum(bool(each.ends) for each in self.watches)
        resumes = sum(len(each.resume_reasons) for each in self.watches)
        print(f"{time.monotonic() - self._start:6.1f} s  {ended:4} ended  {resumes:4} resumes  {text}")

    async def _until(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, self._start + seconds - time.monotonic()))

    def report(self) -> None:
        """Print the observations of the watches, and add lost and repeated ends to the problems."""
        ends = Counter(len(each.ends) for each in self.watches)
        resumes = Counter(len(each.resume_reasons) for each in self.watches)
        undisturbed = [each.longest_gap for each in self.watches if not each.resume_reasons]
        figures = {
            "watches": len(self.watches),
            "with exactly one end": ends[1],
            "ends lost": ends[0],
            "ends repeated": sum(times - 1 for each in self.watches if (times := len(each.ends)) > 1),
            "ends with another result": sum(each.wrong_results for each in self.watches),
            "states": sum(each.states.total() for each in self.watches),
            "states repeated": sum(each.states.total() - len(each.states) for each in self.watches),
            "resumes": dict(Counter(reason for each in self.watches for reason in each.resume_reasons)),
            "watches by resumes": dict(sorted(resumes.items())),
            "longest gap without an event, s": round(max(each.longest_gap for each in self.watches), 1),
            "the same without resumes, s": round(max(undisturbed, default=0.0), 1),
        }
        for name, figure in figures.items():
            print(f"{name:32} {figure}")
        for name in ("ends lost", "ends repeated", "ends with another result"):
            self._expect(not figures[name], f"{figures[name]} {name}")
        self.problems += [f"job {each.uid}: {each.failure}" for each in self.watches if each.failure]
        for instance in self.instances:
            for line in instance.unexpected_lines:
                print(f"log: {line}")


async def simulate() -> None:
    """Run the simulator."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    simulator = Simulator(tokens=frozenset({TOKEN}))
    await simulator.start("127.0.0.1", 0)
    print(simulator.url, flush=True)
    await asyncio.Event().wait()


async def restart(options: Any) -> list[str]:
    """Start the processes, restart the gateways, and return the problems."""
    simulator = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--part", "simulator"), stdout=asyncio.subprocess.PIPE
    )
    assert simulator.stdout
    upstream = (await simulator.stdout.readline()).decode().strip()
    with tempfile.TemporaryDirectory() as folder:
        rolling = Restart(upstream, Path(folder), options.watches, options.grace, options.pause)
        try:
            await rolling.run()
        finally:
            for instance in rolling.instances:
                await instance.kill()
            simulator.kill()
            await simulator.wait()
    rolling.report()
    return rolling.problems


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watches", type=int, default=500)
    parser.add_argument("--grace", type=float, default=9.0, help="seconds of a drain")
    parser.add_argument("--pause", type=float, default=5.0, help="seconds between the restarts, as `preStop` sleeps")
    parser.add_argument("--part", choices=["simulator"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        asyncio.run(simulate())
        return
    if problems := asyncio.run(restart(options)):
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
