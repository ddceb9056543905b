"""The identity of a client by its certificate."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from gateway.text import cut

if TYPE_CHECKING:
    from grpc.aio import ServicerContext


# The identities of a certificate, the best first: the SPIFFE id, the complete subject, the alternative names.
IDENTITIES = ("peer_spiffe_id", "x509_subject", "x509_subject_alternative_name")

# In characters.
MAX_SHOWN_PEER = 256


def peer_of(context: ServicerContext[Any, Any]) -> str:
    """Return the identity in the client's verified certificate, as it is; "" without a certificate."""
    shown = context.auth_context()
    if "x509_pem_cert" not in shown:
        return ""
    found = next((values for values in map(shown.get, IDENTITIES) if values and any(values)), [])
    return b",".join(found).decode("latin-1")


def printable(peer: str) -> str:
    """Return an identity for the log: one line of at most `MAX_SHOWN_PEER` characters."""
    return cut(re.sub(r"[^ -~]", "?", peer), MAX_SHOWN_PEER)
