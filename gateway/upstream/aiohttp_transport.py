"""The interface of httpx on a session of aiohttp, with as little between them as can be.

httpx-aiohttp does the same for every user of httpx, and takes longer: it reads each header several times over. And it
turns aiohttp's exceptions into httpx's, which say less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import aiohttp

# The headers of an answer that the gateway reads.
READ_HEADERS = frozenset({b"content-encoding", b"content-length", b"content-type", b"location", b"retry-after"})


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends requests on the session that `make_session` makes within the event loop, on first use.

    An answer has no headers but `READ_HEADERS`. Bodies are not decoded, and redirects not followed. Raises aiohttp's
    exceptions, also while a body is read. `timeout` is for each request; one of its own in `request.extensions` does
    not count.
    """

    def __init__(self, make_session: Callable[[], aiohttp.ClientSession], timeout: aiohttp.ClientTimeout) -> None:
        self._make_session = make_session
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As httpx has it."""
        if self._session is None:
            self._session = self._make_session()
        response = await self._session.request(
            request.method,
            str(request.url),
            headers=[(name.decode(), value.decode()) for name, value in request.headers.raw],
            data=_data(request.stream),
            allow_redirects=False,
            auto_decompress=False,
            timeout=self._timeout,
        )
        # An answer may have thousands of headers, and httpx looks at each several times.
        headers = [each for each in response.raw_headers if each[0].lower() in READ_HEADERS]
        return httpx.Response(response.status, headers=headers, stream=_Body(response))

    async def aclose(self) -> None:
        """Closes all connections."""
        if self._session is not None:
            await self._session.close()


def _data(stream: httpx.SyncByteStream | httpx.AsyncByteStream) -> object:
    # A body that is there as a whole goes out with the header, in one piece.
    return (b"".join(stream) or None) if isinstance(stream, httpx.ByteStream) else stream


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._response.content.iter_any())

    async def aclose(self) -> None:
        self._response.release()
        await self._response.wait_for_close()
