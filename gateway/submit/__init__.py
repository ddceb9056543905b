"""Submits jobs: at most one POST that the upstream can have seen, and at most one job per request id."""

from gateway.submit.attempts import longest_seconds
from gateway.submit.fingerprint import fingerprint_of
from gateway.submit.keys import RequestKeys
from gateway.submit.memory_store import InMemoryIdempotencyStore
from gateway.submit.records import Claim, IdempotencyKey, IdempotencyRecord, Outcome
from gateway.submit.store import IdempotencyStore
from gateway.submit.submission import Submission, SubmissionCall, SubmissionResult
from gateway.submit.submitter import Submitter

__all__ = [
    "Claim",
    "IdempotencyKey",
    "IdempotencyRecord",
    "IdempotencyStore",
    "InMemoryIdempotencyStore",
    "Outcome",
    "RequestKeys",
    "Submission",
    "SubmissionCall",
    "SubmissionResult",
    "Submitter",
    "fingerprint_of",
    "longest_seconds",
]
