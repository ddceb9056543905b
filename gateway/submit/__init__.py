"""Submits jobs: at most one POST that the upstream can have seen, and at most one job per request_id."""

from gateway.submit.fingerprint import fingerprint
from gateway.submit.store import MemoryStore, Record, RecordKey, Store
from gateway.submit.submitter import Sent, Submission, Submitter

__all__ = ["MemoryStore", "Record", "RecordKey", "Sent", "Store", "Submission", "Submitter", "fingerprint"]
