"""The status page and the runbook as HTML that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from gateway import __version__
from gateway.server.status_page.problems import CRITICAL, WARNING
from gateway.server.status_page.query import STATUSES
from gateway.server.status_page.texts import age, count, duration, size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from gateway.server.status_page.model import Status
    from gateway.server.status_page.query import Query

FOLDER = Path(__file__).parent
TEMPLATES = FOLDER / "templates"
# A link to docs/operations/alerts.md, so that the wheel has the page that belongs to its version.
RUNBOOK = FOLDER / "runbook.md"


class Column(NamedTuple):
    """A column of the table of jobs: its key in the query, its heading, and its meaning."""

    key: str
    heading: str
    meaning: str
    is_number: bool = False


COLUMNS = (
    Column("uid", "Job", "The uid of the job."),
    Column("status", "Status", "The status at the last read. A word that the gateway does not know is UNSPECIFIED."),
    Column("progress", "Progress", "The percentage that the job reports, if it does."),
    Column("watchers", "Watchers", "Clients that wait for news of this job. One read serves them all.", is_number=True),
    Column("age", "Watched for", "The time since the first of these clients came.", is_number=True),
    Column("last_read", "Last read", "The time since the last read that succeeded.", is_number=True),
    Column(
        "next_read", "Next read", "The time until the next read. “Now” means that it is in progress.", is_number=True
    ),
    Column(
        "failures",
        "Failures",
        "Reads that failed since the last success. The watch ends if it lasts too long.",
        is_number=True,
    ),
    Column("reason", "Reason", "The reason of the last failure, as in docs/reference/errors.md."),
    Column("client", "Client", "The fingerprint of the credential, as in the log. It reveals no token."),
)
TLS_MODES = {"plaintext": "no TLS", "tls": "TLS", "mtls": "TLS with client certificates"}
LIMIT_MEANINGS = {
    "watches": "Watches of jobs in flight. New ones over the limit are rejected.",
    "calls": "Other calls in flight. New ones over the limit are rejected.",
    "submissions": "Jobs that are being sent. More are rejected.",
    "polls": "Reads of watched jobs in flight. More wait for their turn.",
    "large_requests": "Memory of requests over 1 MiB. More are rejected.",
    "large_responses": "Memory of upstream responses over 1 MiB. More wait.",
    "large_messages": "Memory of messages over 256 KiB to clients. More wait.",
    "request_ids": "Request ids that are remembered. Submissions with more are rejected.",
}
WORDS = {CRITICAL: "Problem", WARNING: "Warning"}


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class HtmlPages:
    """Makes the pages. Each loads nothing, and `policy` is the Content-Security-Policy that lets it load nothing."""

    def __init__(self) -> None:
        style, script = (Markup((TEMPLATES / name).read_text("utf-8")) for name in ("page.css", "page.js"))  # noqa: S704 - our files
        self.policy = "; ".join(
            (
                "default-src 'none'",
                f"style-src {_hash(style)}",
                f"script-src {_hash(script)}",
                *("connect-src 'self'", "img-src data:", "form-action 'self'"),
                *("base-uri 'none'", "frame-ancestors 'none'"),
            )
        )
        environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {"age": age, "duration": duration, "size": size, "clock": _clock, "day": _day}
        environment.globals |= {
            "count": count,
            "columns": COLUMNS,
            "statuses": STATUSES,
            "tls_modes": TLS_MODES,
            "limit_meanings": LIMIT_MEANINGS,
            "words": WORDS,
            "style": style,
            "script": script,
            "version": __version__,
        }
        self._status = environment.get_template("status.html")
        self._runbook = environment.get_template("runbook.html")

    def status(self, status: Status, query: Query) -> bytes:
        """Return the status page."""
        return self._status.render(status=status, query=query).encode()

    @cached_property
    def runbook(self) -> bytes:
        """The page with the action for each alert."""
        text = RUNBOOK.read_text("utf-8")
        markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        tokens = markdown.parse(text)
        _prepare(tokens)
        body = Markup(markdown.renderer.render(tokens, markdown.options, {}))  # noqa: S704 - our file, without HTML
        return self._runbook.render(body=body).encode()


def _clock(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%H:%M:%S}"


def _day(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


def _prepare(tokens: list[Token]) -> None:
    """Give headings their anchors, and replace links to pages that the gateway does not serve by their names."""
    for token, following in zip(tokens, [*tokens[1:], Token("", "", 0)], strict=True):
        if token.type == "heading_open":
            token.attrSet("id", re.sub(r"[^a-z0-9 -]", "", following.content.lower()).replace(" ", "-"))
        if token.children:
            token.children = list(_without_relative_links(token.children))


def _without_relative_links(tokens: Iterable[Token]) -> Iterator[Token]:
    page = ""
    for token in tokens:
        href = str(token.attrGet("href") or "")
        if token.type == "link_open" and not href.startswith(("#", "https://")):
            page = href.partition("#")[0]
        elif token.type == "link_close" and page:
            yield Token("text", "", 0, content=f" ({page.rpartition('/')[2]})")
            page = ""
        else:
            yield token
