"""The store `redis:`, which all gateways of a fleet share. Redis runs each change as one script.

All times are those of the Redis server, so the clocks of the gateways do not matter. All keys of one caller are in one
slot of a Cluster.
"""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING

import structlog

from gateway.clock import sleep_until
from gateway.errors import StateUnavailable
from gateway.limits.fair_budget import Usage
from gateway.submit.records import OWNER_LOST, IdempotencyRecord, decode, encode
from gateway.submit.redis_connection import FAILURES, NOW, PREFIX, RedisConnection, Script, read_url
from gateway.submit.store import KEEP_RECORD_SECONDS, KeyDiffers, exhausted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.clock import Clock
    from gateway.submit.health import StoreHealth
    from gateway.submit.records import Claim

# One caller may hold three quarters, which is more than a million.
MAX_RECORDS = 1_400_000
# How often a gateway compares the keys, adds its new records to the total of all callers, and reads it, in seconds.
TOTAL_SECONDS = 5.0
TOTAL_KEY = f"{PREFIX}:ids"
KEYS_KEY = f"{PREFIX}:keys"
KEEP_MS = int(KEEP_RECORD_SECONDS * 1000)

# The number of records is counted by the hour of their claim. A count is over after 26 hours, with its last record.
_COUNT = f"""{NOW}
local hour = math.floor(now / 3600000)
local function count(key)
  local sum, fields = 0, redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    if tonumber(fields[i]) < hour - 25 then redis.call('HDEL', key, fields[i]) else sum = sum + fields[i + 1] end
  end
  return sum
end
"""

GRANTED, GRANTED_BEFORE = 0, -1
# KEYS: the record, the counts of the caller. ARGV: fence, fingerprint, duration, time to keep, free records.
# Replies: 0 if the claim is granted, -1 if it was granted before, 1 and the caller's records if it may have no more, or
# a record: its fingerprint alone while it is claimed, else with its outcome, which is "" for a lost owner.
CLAIM = Script.of(
    f"""{_COUNT}
local record = redis.call('HMGET', KEYS[1], 'fence', 'fingerprint', 'until', 'outcome')
if record[1] then
  if record[4] then return {{record[2], record[4]}} end
  if record[1] == ARGV[1] then return -1 end
  if now < tonumber(record[3]) then return {{record[2]}} end
  return {{record[2], ''}}
end
local held, free = count(KEYS[2]), tonumber(ARGV[5])
if free < 1 or (held > 0 and held + 1 > 3 * (free - 1)) then return 1 + held end
redis.call('HSET', KEYS[1], 'fence', ARGV[1], 'fingerprint', ARGV[2], 'hour', hour,
  'until', string.format('%.0f', now + ARGV[3]))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('HINCRBY', KEYS[2], hour, 1)
redis.call('PEXPIRE', KEYS[2], ARGV[4] + 3600000)
return 0
"""
)

# KEYS: the record. ARGV: fence, duration.
RENEW = Script.of(
    f"""{NOW}
local record = redis.call('HMGET', KEYS[1], 'fence', 'outcome', 'until')
if record[1] ~= ARGV[1] or record[2] or tonumber(record[3]) <= now then return 0 end
redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now + ARGV[2]))
return 1
"""
)

# KEYS: the record. ARGV: fence, fingerprint, outcome, time to keep.
SETTLE = Script.of(
    """
local record = redis.call('HMGET', KEYS[1], 'fence', 'outcome')
if record[1] and record[1] ~= ARGV[1] then return 0 end
if record[2] then return record[2] == ARGV[3] and 1 or 0 end
redis.call('HSET', KEYS[1], 'fence', ARGV[1], 'fingerprint', ARGV[2], 'outcome', ARGV[3])
if not record[1] then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return 1
"""
)

# KEYS: the record, the counts of the caller. ARGV: fence.
RELEASE = Script.of(
    """
local record = redis.call('HMGET', KEYS[1], 'fence', 'outcome', 'hour')
if record[1] ~= ARGV[1] or record[2] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HINCRBY', KEYS[2], record[3], -1)
return 1
"""
)

# KEYS: the counts of all callers. ARGV: new records, time to keep. Replies with the sum. If it runs twice, it counts
# too many, which only brings the limit of all callers nearer.
TOTAL = Script.of(
    f"""{_COUNT}
if ARGV[1] ~= '0' then
  redis.call('HINCRBY', KEYS[1], hour, ARGV[1])
  redis.call('PEXPIRE', KEYS[1], ARGV[2] + 3600000)
end
return count(KEYS[1])
"""
)

# KEYS: a hash with the keys of each gateway, as their marks, and the time at which its ids have expired. ARGV: time to
# keep, the marks of our keys. Replies 0 if ids may be there that were claimed without any of our keys, or else 1.
USE_KEYS = Script.of(
    f"""{NOW}
local known = redis.call('HGETALL', KEYS[1])
for i = 1, #known, 2 do
  if tonumber(known[i + 1]) <= now then
    redis.call('HDEL', KEYS[1], known[i])
  else
    local shared = false
    for j = 2, #ARGV do shared = shared or string.find(known[i], ARGV[j], 1, true) end
    if not shared then return 0 end
  end
end
redis.call('HSET', KEYS[1], table.concat(ARGV, ' ', 2), string.format('%.0f', now + ARGV[1]))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
"""
)

_log = structlog.get_logger()


def open_redis(url: str, marks: Sequence[str], clock: Clock, health: StoreHealth) -> RedisIdempotencyStore:
    """Return the store that a URL names, without a look at it.

    Raises:
        ConfigError: The URL has a wrong option.
    """
    return RedisIdempotencyStore(RedisConnection(read_url(url), health), marks, clock, health)


class RedisIdempotencyStore:
    """A store of about 1,400,000 records.

    The records of one caller are counted exactly. Their total is some seconds old, because it is in another slot.
    """

    def __init__(self, connection: RedisConnection, marks: Sequence[str], clock: Clock, health: StoreHealth) -> None:
        self.connection = connection
        self._marks = marks
        self._clock = clock
        self._health = health
        self._keys_known = False
        self._free = MAX_RECORDS
        self._new_records = 0
        self._watching: asyncio.Task[None] | None = None
        health.probe_with(self._use_keys)

    def start(self) -> None:
        """Check the server and count the records from now on, in the background."""
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    @property
    def usage(self) -> Usage:
        """See `CountedStore`."""
        return Usage(MAX_RECORDS - self._free + self._new_records, MAX_RECORDS)

    async def claim(self, claim: Claim, fingerprint: bytes, seconds: float) -> IdempotencyRecord | None:
        """See `IdempotencyStore`."""
        if not (self._keys_known and self._health.available):
            await self._use_keys()
        reply = await self.connection.run(
            CLAIM, _keys(claim), claim.fence, fingerprint, int(seconds * 1000), KEEP_MS, self._free
        )
        if reply in (GRANTED, GRANTED_BEFORE):
            self._new_records += reply == GRANTED
            return None
        if isinstance(reply, int):
            raise exhausted(MAX_RECORDS, reply - 1)
        return _record(*reply)

    async def renew(self, claim: Claim, seconds: float) -> bool:
        """See `IdempotencyStore`."""
        return bool(await self.connection.run(RENEW, _keys(claim)[:1], claim.fence, int(seconds * 1000)))

    async def settle(self, claim: Claim, record: IdempotencyRecord) -> bool:
        """See `IdempotencyStore`."""
        assert record.outcome is not None, "a settled record has an outcome"  # noqa: S101 - a bug of ours
        outcome = encode(record.outcome)
        return bool(
            await self.connection.run(SETTLE, _keys(claim)[:1], claim.fence, record.fingerprint, outcome, KEEP_MS)
        )

    async def release(self, claim: Claim) -> bool:
        """See `IdempotencyStore`."""
        released = bool(await self.connection.run(RELEASE, _keys(claim), claim.fence))
        self._new_records -= released
        return released

    async def aclose(self) -> None:
        """See `IdempotencyStore`."""
        if self._watching is not None:
            self._watching.cancel()
        await self.connection.aclose()

    async def _use_keys(self) -> None:
        """Compare the keys, and write ours, to see whether that is possible.

        Raises:
            StateUnavailable: It is not, or gateways with other keys use the store.
        """
        self._keys_known = bool(await self.connection.run(USE_KEYS, [KEYS_KEY], KEEP_MS, *self._marks))
        if not self._keys_known:
            self._health.key_differs()
            raise KeyDiffers

    async def _watch(self) -> None:
        checked = False
        while True:
            try:
                # Another gateway may have come first on a Redis that lost its data, and a read-only one may be back.
                await self._use_keys()
                await self._count_total()
                if not checked:
                    await self._check_server()
                checked = True
            except StateUnavailable:
                # It may be another server that comes back.
                checked = False
            await sleep_until(self._clock, self._clock.monotonic() + TOTAL_SECONDS)

    async def _count_total(self) -> None:
        # If the reply is lost, they may have been counted. Counted again and again, they would use up the store.
        new, self._new_records = self._new_records, 0
        total = await self.connection.run(TOTAL, [TOTAL_KEY], new, KEEP_MS)
        self._free = max(0, MAX_RECORDS - total)

    async def _check_server(self) -> None:
        try:
            facts = await self.connection.info()
        except FAILURES:
            # A user without the right to ask may still be able to do everything else.
            return
        policy = facts.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            _log.warning("state.may_evict", maxmemory_policy=policy)


def _keys(claim: Claim) -> list[str]:
    caller = _text(claim.key.caller)
    return [f"{PREFIX}:{{{caller}}}:{_text(claim.key.request)}", f"{PREFIX}:{{{caller}}}"]


def _text(key: bytes) -> str:
    return urlsafe_b64encode(key).rstrip(b"=").decode()


def _record(fingerprint: bytes, outcome: bytes | None = None) -> IdempotencyRecord:
    if not outcome:
        return IdempotencyRecord(fingerprint, None if outcome is None else OWNER_LOST)
    return IdempotencyRecord(fingerprint, decode(outcome))
