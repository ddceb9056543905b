"""A client of the Job Gateway, sync and asyncio.

`Client` and `AsyncClient` send jobs, and watch them over broken connections. `jobgateway.v1.job_service_pb2` has the
messages of the contract.
"""

from jobgateway.v1.job_service_pb2 import (
    ContentFormat,
    GetJobRequest,
    Heartbeat,
    Job,
    JobEvent,
    JobStatus,
    RunJobRequest,
    SendJobRequest,
    WaitJobRequest,
    WatchJobRequest,
)

from jobgateway_client.aio import AsyncClient
from jobgateway_client.aio_credential import AsyncToken
from jobgateway_client.aio_many import AsyncWatchAll
from jobgateway_client.aio_watch import AsyncWatch
from jobgateway_client.calls import Finished, OnProgress, OnReplayed, OnRetry
from jobgateway_client.client import Client
from jobgateway_client.credential import Token
from jobgateway_client.errors import ClosedError, FieldViolation, GatewayError, ResultDamagedError
from jobgateway_client.many import WatchAll
from jobgateway_client.many_rules import WatchFailed
from jobgateway_client.rules import Action, AfterSend, Retry, action, after_send
from jobgateway_client.tls import Tls, TlsFileError
from jobgateway_client.version import __version__
from jobgateway_client.watch import Watch

__all__ = [
    "Action",
    "AfterSend",
    "AsyncClient",
    "AsyncToken",
    "AsyncWatch",
    "AsyncWatchAll",
    "Client",
    "ClosedError",
    "ContentFormat",
    "FieldViolation",
    "Finished",
    "GatewayError",
    "GetJobRequest",
    "Heartbeat",
    "Job",
    "JobEvent",
    "JobStatus",
    "OnProgress",
    "OnReplayed",
    "OnRetry",
    "ResultDamagedError",
    "Retry",
    "RunJobRequest",
    "SendJobRequest",
    "Tls",
    "TlsFileError",
    "Token",
    "WaitJobRequest",
    "Watch",
    "WatchAll",
    "WatchFailed",
    "WatchJobRequest",
    "__version__",
    "action",
    "after_send",
]
