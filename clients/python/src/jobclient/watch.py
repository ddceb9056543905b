"""The resuming watch: one job's events up to its end, over as many calls as that takes (docs/clients/index.md)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Timer
from typing import TYPE_CHECKING, Any

import grpc
from jobgateway.v1 import job_service_pb2 as pb

from jobclient.failure import Failure
from jobclient.resume import NO_END, SILENT, Attempts, OnResume, silence_seconds

if TYPE_CHECKING:
    from jobclient.connection import Connection


def watch(connection: Connection, request: pb.WatchJobRequest, on_resume: OnResume) -> Iterator[pb.JobEvent]:
    """Yields the events of a job; the last one has `job.done`. `on_resume` is told before each further call.

    Raises:
        grpc.RpcError: a status that is final.

    """
    going_on = pb.WatchJobRequest()
    going_on.CopyFrom(request)
    attempts = Attempts()
    while True:
        attempts.opened()
        stub = connection.stub
        call = stub.WatchJob(going_on, metadata=connection.metadata)
        done = False
        try:
            for event in _Listening(call, silence_seconds(request)):
                attempts.heard(event)
                going_on.resume_token = event.resume_token or going_on.resume_token
                done = event.job.done
                yield event
        except TimeoutError:
            failure = SILENT
        except grpc.RpcError as error:
            failure = Failure.of(error)
            if not done and not attempts.may_go_on(failure, going_on.resume_token):
                raise
        else:
            failure = NO_END
        finally:
            call.cancel()  # a call that was merely abandoned stays open
        if done:
            return
        on_resume(failure)
        time.sleep(attempts.wait(failure))
        connection.recover(failure, stub)


class _Listening:
    """The events of a call. `TimeoutError` where one takes longer than `limit` seconds; the call is cancelled then."""

    def __init__(self, call: Any, limit: float) -> None:
        self._silent = False
        self._call = call
        self._limit = limit

    def __iter__(self) -> Iterator[pb.JobEvent]:
        return self

    def __next__(self) -> pb.JobEvent:
        timer = Timer(self._limit, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            event: pb.JobEvent = next(self._call)
        except (StopIteration, grpc.RpcError):
            # Silence counts, whatever the call ended with before it was cancelled.
            if self._silent:
                raise TimeoutError from None
            raise
        finally:
            timer.cancel()
        return event

    def _give_up(self) -> None:
        self._silent = True
        self._call.cancel()
