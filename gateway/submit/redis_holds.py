"""The holds of a fleet: every gateway writes its own to one small hash in Redis, and reads all once a second."""

from __future__ import annotations

import asyncio
import contextlib
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING

from gateway.clock import sleep_until
from gateway.errors import StateUnavailable
from gateway.limits.holds import MAX_HOLD_SECONDS
from gateway.submit.redis_connection import NOW, PREFIX, Script

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from gateway.clock import Clock
    from gateway.limits.holds import Holds
    from gateway.submit.redis_connection import RedisConnection

HOLDS_KEY = f"{PREFIX}:holds"
READ_SECONDS = 1.0
# More credentials are not shared, because each gateway reads all of them.
MAX_HELD = 1_000

# KEYS: the holds. ARGV: credential, duration, longest duration, most credentials.
HOLD = Script.of(
    f"""{NOW}
local until_, held = now + ARGV[2], redis.call('HGETALL', KEYS[1])
for i = 1, #held, 2 do
  if held[i] == ARGV[1] and tonumber(held[i + 1]) >= until_ then return 0 end
end
if #held >= 2 * ARGV[4] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', until_))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
)

# KEYS: the holds. Replies with credentials, each followed by the milliseconds that are left.
HELD = Script.of(
    f"""{NOW}
local left, held = {{}}, redis.call('HGETALL', KEYS[1])
for i = 1, #held, 2 do
  local ms = held[i + 1] - now
  if ms > 0 then
    left[#left + 1] = held[i]
    left[#left + 1] = ms
  else
    redis.call('HDEL', KEYS[1], held[i])
  end
end
return left
"""
)


class SharedHolds:
    """Keeps `holds` the same on all gateways of a fleet.

    If Redis does not respond, each gateway follows its own holds.
    """

    def __init__(self, connection: RedisConnection, clock: Clock, holds: Holds) -> None:
        self._connection = connection
        self._clock = clock
        self._holds = holds
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Share holds from now on, in the background."""
        self._holds.share = self._share
        self._run(self._read_for_ever())

    def _share(self, credential: bytes, seconds: float) -> None:
        self._run(self.write(credential, seconds))

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def write(self, credential: bytes, seconds: float) -> None:
        """Hold a credential for `seconds` on all gateways."""
        longest = int(MAX_HOLD_SECONDS * 1000)
        with contextlib.suppress(StateUnavailable):
            await self._connection.run(HOLD, [HOLDS_KEY], b64encode(credential), int(seconds * 1000), longest, MAX_HELD)

    async def read(self) -> None:
        """Follow the holds of all gateways."""
        with contextlib.suppress(StateUnavailable):
            pairs = iter(await self._connection.run(HELD, [HOLDS_KEY]))
            held = {b64decode(credential): ms / 1000 for credential, ms in zip(pairs, pairs, strict=True)}
            if held:
                self._holds.follow(held)

    async def _read_for_ever(self) -> None:
        while True:
            await self.read()
            await sleep_until(self._clock, self._clock.monotonic() + READ_SECONDS)

    async def aclose(self) -> None:
        """Stop sharing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
