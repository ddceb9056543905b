"""The query of the status page: filter, order and page."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

import msgspec
from msgspec.structs import replace

from gateway.models import JobStatus

if TYPE_CHECKING:
    from typing import Self

MAX_CHARACTERS = 500
MAX_PARAMETERS = 10
MAX_PAGE = 1_000_000
# Before the first read, a job has no status.
NOT_READ = "NOT_READ"
STATUSES = (NOT_READ, *(each.name for each in JobStatus))
COLUMNS = (
    *("uid", "status", "progress", "watchers", "age"),
    *("last_read", "next_read", "failures", "reason", "client"),
)
DESCENDING = "-"
PARAMETERS = frozenset({"uid", "client", "status", "failing", "sort", "page"})


class InvalidQuery(Exception):
    """The query has a parameter or a value that does not exist; the message says which."""


class Query(msgspec.Struct, frozen=True):
    """A query.

    Attributes:
        uid: Show only this job. A text that is no uid matches none.
        client: Show only jobs of clients whose fingerprint begins with this text.
        status: Show only jobs with this status, one of `STATUSES`.
        failing: Show only jobs whose last read failed.
        sort: One of `COLUMNS`, with "-" before it for descending order.
        page: The page, from 1.
    """

    uid: str = ""
    client: str = ""
    status: str = ""
    failing: bool = False
    sort: str = "-failures"
    page: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the query in the text after the question mark. Raises `InvalidQuery`."""
        if len(text) > MAX_CHARACTERS:
            raise InvalidQuery(f"the query has {len(text)} characters; it may have at most {MAX_CHARACTERS}")
        try:
            given = dict(parse_qsl(text, max_num_fields=MAX_PARAMETERS))
        except ValueError:
            raise InvalidQuery(f"the query may have at most {MAX_PARAMETERS} parameters") from None
        if unknown := given.keys() - PARAMETERS:
            known = ", ".join(sorted(PARAMETERS))
            raise InvalidQuery(f"{min(unknown)!r}: there is no such parameter; use {known}")
        query = cls(
            uid=given.get("uid", "").strip(),
            client=given.get("client", "").strip().lower(),
            status=given.get("status", ""),
            failing=given.get("failing", "") not in ("", "0"),
            sort=given.get("sort", cls().sort),
            page=_page(given.get("page", "1")),
        )
        if query.status and query.status not in STATUSES:
            raise InvalidQuery(f"status: {query.status!r} is no status; use one of {', '.join(STATUSES)}")
        if query.sort.removeprefix(DESCENDING) not in COLUMNS:
            raise InvalidQuery(f"sort: {query.sort!r} is no column; use one of {', '.join(COLUMNS)}")
        return query

    @property
    def column(self) -> str:
        """The column that orders the jobs."""
        return self.sort.removeprefix(DESCENDING)

    @property
    def is_descending(self) -> bool:
        """True if the largest value comes first."""
        return self.sort.startswith(DESCENDING)

    @property
    def is_filtering(self) -> bool:
        """True if some jobs may not be shown."""
        return bool(self.uid or self.client or self.status or self.failing)

    def by_column(self, column: str) -> Query:
        """Return the query with another order; the same column again reverses it."""
        descending = column == self.column and not self.is_descending
        return replace(self, sort=DESCENDING * descending + column, page=1)

    def at_page(self, page: int) -> Query:
        """Return the query of another page."""
        return replace(self, page=page)

    def __str__(self) -> str:
        default = Query()
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        changed = {name: value for name, value in values.items() if value != getattr(default, name)}
        return urlencode({name: int(value) if value is True else value for name, value in changed.items()})


def _page(text: str) -> int:
    # Texts have at most MAX_CHARACTERS, so that this is no long number.
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MAX_PAGE):
        raise InvalidQuery(f"page: {text!r} is no page; use a number from 1 to {MAX_PAGE}")
    return int(text)
