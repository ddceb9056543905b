"""The names of a client: the identity in its certificate, its address, and its own text."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from gateway.text import cut

if TYPE_CHECKING:
    from grpc.aio import ServicerContext


# The identities of a certificate, the best first: the SPIFFE id, the complete subject, the alternative names.
IDENTITIES = ("peer_spiffe_id", "x509_subject", "x509_subject_alternative_name")

# In characters.
MAX_SHOWN_PEER = 256
# Clients have one address per connection, and seldom differ in their own text. Each entry takes at most 1 kB.
REMEMBERED = 4_096


def peer_of(context: ServicerContext[Any, Any]) -> str:
    """Return the identity in the client's verified certificate, as it is; "" without a certificate."""
    shown = context.auth_context()
    if "x509_pem_cert" not in shown:
        return ""
    found = next((values for values in map(shown.get, IDENTITIES) if values and any(values)), [])
    return b",".join(found).decode("latin-1")


def address_of(context: ServicerContext[Any, Any]) -> str:
    """Return the address from which a client, or the proxy in front of it, has connected."""
    return shown_address(context.peer())


def printable(text: str) -> str:
    """Return a foreign text for the log: one line of at most `MAX_SHOWN_PEER` characters."""
    # One character more, so that `cut` marks what it cuts.
    return _printable(text[: MAX_SHOWN_PEER + 1])


@lru_cache(REMEMBERED)
def _printable(text: str) -> str:
    return cut(re.sub(r"[^ -~]", "?", text), MAX_SHOWN_PEER)


@lru_cache(REMEMBERED)
def shown_address(uri: str) -> str:
    """Return HOST:PORT for grpc's `ipv4:` and `ipv6:`, and the other addresses, such as `unix:`, as they are."""
    kind, _, address = uri.partition(":")
    return printable(unquote(address) if kind in ("ipv4", "ipv6") else uri)
