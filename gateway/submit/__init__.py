"""Submits jobs: at most one POST that the upstream can have seen, and at most one job per request_id."""

from gateway.submit.fingerprint import fingerprint_of
from gateway.submit.store import IdempotencyKey, IdempotencyRecord, IdempotencyStore, InMemoryIdempotencyStore
from gateway.submit.submitter import Submission, SubmissionResult, Submitter

__all__ = [
    "IdempotencyKey",
    "IdempotencyRecord",
    "IdempotencyStore",
    "InMemoryIdempotencyStore",
    "Submission",
    "SubmissionResult",
    "Submitter",
    "fingerprint_of",
]
