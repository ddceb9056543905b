"""`Retry-After`: a wait from zero to a day, exact for seconds and for HTTP dates, or None."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from gateway.upstream.errors import read_retry_after

NOW = 1_700_000_000.0
DAY = 86_400.0
IMF_FIXDATE = re.compile(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", re.ASCII)


def check(data: bytes) -> None:
    """Read one header."""
    text = data.decode("latin-1")
    wait = read_retry_after(text, NOW)
    assert wait is None or 0.0 <= wait <= DAY
    bare = text.strip()
    if re.fullmatch(r"[0-9]+", bare):
        assert wait == min(int(bare[-4_000:]) if len(bare) <= 4_000 else DAY, DAY)
    elif IMF_FIXDATE.fullmatch(bare):
        _check_date(bare, wait)


def _check_date(text: str, wait: float | None) -> None:
    try:
        moment = datetime.strptime(text, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    except ValueError:
        return
    assert wait == min(max(0.0, moment.timestamp() - NOW), DAY)
