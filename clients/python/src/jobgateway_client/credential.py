"""The token of the sync client, which all its calls share."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from jobgateway_client import calls

if TYPE_CHECKING:
    from jobgateway_client.waiting import Closing, Waiting

Token: TypeAlias = str | Callable[[], str | None]
"""A token, or a function that returns one.

The function is called before the first call, and again whenever the gateway rejects the token. It returns None if there
is no (other) token: a first call is then made without one, and a rejected call fails. It runs in a thread of its own,
once for all calls that wait for it, so that each of them waits no longer than its timeout.
"""


class _Login:
    """A call of the function, and its result."""

    def __init__(self) -> None:
        self.done = False
        self.token: str | None = None
        self.error: BaseException | None = None

    def is_done(self) -> bool:
        """Return True if there is a result."""
        return self.done


class Credential:
    """The token of a client.

    Raises:
        ValueError: The token is a text that metadata cannot carry.

    """

    def __init__(self, source: Token | None, closing: Closing) -> None:
        self._source = source
        self._closing = closing
        self._asked = not callable(source)
        self._token = None if callable(source) else calls.checked_token(source)
        self._login: _Login | None = None

    def token(self, waiting: Waiting) -> str | None:
        """Return the current token.

        Raises:
            GatewayError: The time is over, or the client or the watch was closed.
            Exception: That of the function.

        """
        if not self._asked:
            self._log_in(waiting, lambda: not self._asked)
        return self._token

    def renew(self, rejected: str | None, waiting: Waiting) -> bool:
        """Get another token than the one that was rejected; return False if there is none.

        Raises:
            GatewayError: The time is over, or the client or the watch was closed.
            Exception: That of the function.

        """
        # Another call may have renewed it meanwhile.
        if self._token != rejected:
            return True
        return callable(self._source) and self._log_in(waiting, lambda: self._token == rejected)

    def _log_in(self, waiting: Waiting, is_needed: Callable[[], bool]) -> bool:
        """Wait for the login that is running, or for a new one if there is none or if it fails.

        Returns:
            False if it returned no token.

        """
        while True:
            with self._closing.changed:
                # A login of another thread may have ended since the caller looked.
                if not is_needed():
                    return True
                login, is_own = self._login, self._login is None
                if login is None:
                    login = self._login = self._begin()
            waiting.until(login.is_done)
            if login.error is None:
                return login.token is not None
            if is_own:
                raise login.error

    def _begin(self) -> _Login:
        login = _Login()
        # A daemon, because a function that hangs must not keep the process.
        run = contextvars.copy_context().run
        threading.Thread(target=run, args=(self._ask, login), daemon=True).start()
        return login

    def _ask(self, login: _Login) -> None:
        try:
            login.token = calls.checked_token(self._source() if callable(self._source) else None)
        except BaseException as error:  # noqa: BLE001 - the threads that wait raise it
            login.error = error
        with self._closing.changed:
            if login.error is None:
                self._token = self._token if login.token is None else login.token
                self._asked = True
            self._login = None
            login.done = True
            self._closing.changed.notify_all()
