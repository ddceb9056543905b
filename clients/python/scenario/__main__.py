"""The program over the sync API."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import Client, GatewayError, Watch

from scenario.report import (
    EachReporter,
    Login,
    ManyReporter,
    Reporter,
    run_request,
    wait_request,
    watch_request,
    watch_requests,
)


def do(client: Client, step: dict[str, Any], sent: list[int]) -> None:
    """Do one step. `sent` are the jobs that were sent so far."""
    uid = int(step.get("uid", sent[-1] if sent else 0))
    reporter = Reporter(step["do"])
    match step["do"]:
        case "watch":
            follow(client.watch(watch_request(step, uid), on_retry=reporter.resumption), reporter)
        case "run":
            follow(client.run(run_request(step), on_retry=reporter.resumption), reporter)
        case "watch_each":
            with ThreadPoolExecutor(max_workers=len(sent)) as threads:
                list(threads.map(lambda each: watch_one(client, watch_request(step, each)), sent))
        case "watch_all":
            watch_all(client, step, sent)
        case _:
            call(client, step, uid, sent)


def call(client: Client, step: dict[str, Any], uid: int, sent: list[int]) -> None:
    """Do a step without a stream."""
    reporter = Reporter(step["do"])
    match step["do"]:
        case "wait":
            done = False
            while not done:
                job = client.wait(wait_request(step, uid), on_retry=reporter.retry)
                reporter.job(job)
                done = job.done
        case "send":
            for _ in range(step.get("count", 1)):
                job = client.send(pb.SendJobRequest(**step["request"]), on_retry=reporter.retry)
                reporter.job(job)
                sent.append(job.uid)
        case "get":
            reporter.job(client.get(uid, on_retry=reporter.retry))
        case "cancel":
            reporter.job(client.cancel(uid, on_retry=reporter.retry))
        case unknown:
            raise ValueError(f"no step is called {unknown}")


def follow(watch: Watch, reporter: Reporter) -> None:
    """Report the events of a watch."""
    for event in watch:
        reporter.event(event, watch.result)


def watch_one(client: Client, request: pb.WatchJobRequest) -> None:
    """Watch one of several jobs."""
    reporter = EachReporter(request.uid)
    try:
        follow(client.watch(request, on_retry=reporter.resumption), reporter)
    except GatewayError as error:
        reporter.error(error)


def watch_all(client: Client, step: dict[str, Any], sent: list[int]) -> None:
    """Watch the jobs that were sent, and those of the step."""
    reporter = ManyReporter(step)
    watch = client.watch_all(watch_requests(step, sent), on_retry=reporter.retried)
    for item in watch:
        reporter.item(item, watch.result(item.uid))
        time.sleep(reporter.pause())
    reporter.ended()


def main() -> None:
    """Do the steps of a scenario."""
    target, scenario, service_config = sys.argv[1:]
    sent: list[int] = []
    with Client(target, token=Login(), service_config=Path(service_config).read_text()) as client:
        for step in json.loads(Path(scenario).read_text())["steps"]:
            try:
                do(client, step, sent)
            except GatewayError as error:
                Reporter(step["do"]).error(error)


if __name__ == "__main__":
    main()
