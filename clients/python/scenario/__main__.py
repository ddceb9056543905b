"""The program over the sync API."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import Client, GatewayError

from scenario.report import Login, Reporter, wait_request, watch_request


def do(client: Client, step: dict[str, Any], uid: int) -> int:
    """Do one step about the job `uid`, and return the job of the next one."""
    reporter = Reporter(step["do"])
    match step["do"]:
        case "watch":
            watch = client.watch(watch_request(step, uid), on_resume=reporter.resumption)
            for event in watch:
                reporter.event(event, watch.result)
            return uid
        case "wait":
            done = False
            while not done:
                job = client.wait(wait_request(step, uid), on_retry=reporter.retry)
                reporter.job(job)
                done = job.done
            return uid
        case "send":
            job = client.send(pb.SendJobRequest(**step["request"]), on_retry=reporter.retry)
        case "get":
            job = client.get(uid, on_retry=reporter.retry)
        case "cancel":
            job = client.cancel(uid, on_retry=reporter.retry)
        case unknown:
            raise ValueError(f"no step is called {unknown}")
    reporter.job(job)
    return job.uid


def main() -> None:
    """Do the steps of a scenario."""
    target, scenario, service_config = sys.argv[1:]
    uid = 0
    with Client(target, token=Login(), service_config=Path(service_config).read_text()) as client:
        for step in json.loads(Path(scenario).read_text())["steps"]:
            try:
                uid = do(client, step, int(step.get("uid", uid)))
            except GatewayError as error:
                Reporter(step["do"]).error(error)


if __name__ == "__main__":
    main()
