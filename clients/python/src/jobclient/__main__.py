"""The client, over the sync API."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import grpc
from jobgateway.v1 import job_service_pb2 as pb

from jobclient.connection import Connection
from jobclient.failure import LOGIN, Failure
from jobclient.resume import Attempts
from jobclient.scenario import Reporter, UnaryRetries, unary_request, watch_request
from jobclient.watch import watch


class StepFailedError(Exception):
    """A step ended with an error that was reported."""


def call(connection: Connection, step: dict[str, Any], uid: int) -> pb.Job:
    """Makes a unary call, again where its error says so."""
    method, request, seconds = unary_request(step, uid)
    reporter, retries, attempts = Reporter(step["do"]), UnaryRetries(request), Attempts()
    while True:
        try:
            job: pb.Job = getattr(connection.stub, method)(request, metadata=connection.metadata, timeout=seconds)
        except grpc.RpcError as error:
            failure = Failure.of(error)
            reporter.failure(failure)
            if not retries.may_retry(failure):
                raise StepFailedError from error
            time.sleep(attempts.wait(failure))
            if failure.action == LOGIN:
                connection.log_in()
            continue
        reporter.job(job)
        if job.done or step["do"] != "wait":
            return job


def follow(connection: Connection, step: dict[str, Any], uid: int) -> None:
    """Watches a job up to its end."""
    reporter = Reporter("watch")
    try:
        for event in watch(connection, watch_request(step, uid), reporter.resumption):
            reporter.event(event)
    except grpc.RpcError as error:
        reporter.failure(Failure.of(error))
        raise StepFailedError from error


def main() -> None:
    """Does the steps of a scenario."""
    target, scenario, service_config = sys.argv[1:]
    connection = Connection(
        target,
        Path(service_config).read_text(),
        os.environ["JOBGATEWAY_TOKEN"],
        lambda: os.environ["JOBGATEWAY_FRESH_TOKEN"],
    )
    uid = 0
    try:
        for step in json.loads(Path(scenario).read_text())["steps"]:
            about = int(step.get("uid", uid))
            with contextlib.suppress(StepFailedError):  # it was reported
                if step["do"] == "watch":
                    follow(connection, step, about)
                else:
                    uid = call(connection, step, about).uid
    finally:
        connection.close()


if __name__ == "__main__":
    main()
