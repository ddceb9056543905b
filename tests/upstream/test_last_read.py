"""The memory of the last response to the reads of one job."""

from gateway.models import Job
from gateway.upstream.client import MAX_KEPT_BODY_BYTES, LastRead
from gateway.upstream.jobs import read_job

RUNNING = b'{"uid":7,"status":"running","message":"half"}'
OTHER = b'{"uid":7,"status":"running","message":"more"}'
DONE = b'{"uid":7,"status":"success","result":{"a":1}}'


def _read(body: bytes, observe_time: float) -> Job:
    return read_job(body, uid=7, observe_time=observe_time)


def test_an_equal_response_is_the_same_job_at_its_own_time() -> None:
    last = LastRead()
    assert last.read(RUNNING, 7, 1.0) == _read(RUNNING, 1.0)
    # Another object with the same bytes, as each response is.
    assert last.read(bytes(bytearray(RUNNING)), 7, 2.0) == _read(RUNNING, 2.0)


def test_another_response_is_read_anew() -> None:
    last = LastRead()
    for observe_time, body in enumerate((RUNNING, OTHER, RUNNING, DONE, RUNNING)):
        assert last.read(body, 7, observe_time) == _read(body, observe_time)


def test_neither_results_nor_large_responses_are_kept() -> None:
    last = LastRead()
    large = RUNNING + b" " * MAX_KEPT_BODY_BYTES
    for body in (DONE, large):
        last.read(RUNNING, 7, 1.0)
        last.read(body, 7, 2.0)
        assert (last.body, last.job) == (b"", None)
