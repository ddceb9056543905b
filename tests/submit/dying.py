"""The gateway's own command, in a process that kills itself with -9 at one step of a submission (DIE_AT).

    DIE_AT=before_claim python -m tests.submit.dying

Without DIE_AT it is `jobgateway serve`.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from gateway.__main__ import main
from gateway.submit import redis_connection
from gateway.submit.redis_store import SETTLE, RedisIdempotencyStore
from gateway.submit.sqlite_records import Records
from gateway.submit.sqlite_store import SqliteIdempotencyStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

STEPS = ("before_claim", "after_claim", "during_post", "before_settle", "during_settle", "after_settle")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(method)
    async def changed(*_: object, **__: object) -> None:
        die()

    return changed


def after(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(method)
    async def changed(*arguments: object, **named: object) -> None:
        await method(*arguments, **named)
        die()

    return changed


def die_within_the_transaction() -> None:
    prepare = Records._prepare  # noqa: SLF001 - the connection that settles

    def changed(self: Records, now: float) -> None:
        prepare(self, now)
        database = self._database
        database.create_function("die", 0, die)
        database.execute("CREATE TEMP TRIGGER dying AFTER UPDATE OF outcome ON main.records BEGIN SELECT die(); END")

    Records._prepare = changed  # type: ignore[method-assign]  # noqa: SLF001 - as above


def die_before_the_reply() -> None:
    reply = redis_connection._reply  # noqa: SLF001 - the step between command and reply
    pack = redis_connection._pack  # noqa: SLF001 - as above
    sent: list[bool] = []

    def packing(link: Any, commands: Any) -> Any:
        sent.append(any(command[1] == SETTLE.sha for command in commands))
        return pack(link, commands)

    async def replying(link: Any) -> Any:
        if sent[-1]:
            die()
        return await reply(link)

    redis_connection._pack = packing  # noqa: SLF001 - as above
    redis_connection._reply = replying  # noqa: SLF001 - as above


def arrange(step: str) -> None:
    # The test kills a gateway during the POST.
    if step in ("", "during_post"):
        return
    if step == "during_settle":
        die_within_the_transaction()
        die_before_the_reply()
        return
    when, _, method = step.partition("_")
    for store in (SqliteIdempotencyStore, RedisIdempotencyStore):
        setattr(store, method, {"before": before, "after": after}[when](getattr(store, method)))


if __name__ == "__main__":
    arrange(os.environ.pop("DIE_AT", ""))
    sys.argv = ["jobgateway", "serve"]
    main()
