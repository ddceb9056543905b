"""The caller's identity by its certificate."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from gateway.text import cut

if TYPE_CHECKING:
    from grpc.aio import ServicerContext


# What names a caller, the best first: the SPIFFE id of its certificate, else the whole subject, else its names.
IDENTITIES = ("peer_spiffe_id", "x509_subject", "x509_subject_alternative_name")

# In characters.
MAX_SHOWN_PEER = 256


def peer_of(context: ServicerContext[Any, Any]) -> str:
    """Who the caller is by its verified certificate, uncleaned; empty where it has shown none."""
    shown = context.auth_context()
    if "x509_pem_cert" not in shown:
        return ""
    found = next((values for values in map(shown.get, IDENTITIES) if values and any(values)), [])
    return b",".join(found).decode("latin-1")


def printable(peer: str) -> str:
    """A peer for the log: whatever the certificate says, it is short and of one line."""
    return cut(re.sub(r"[^ -~]", "?", peer), MAX_SHOWN_PEER)
