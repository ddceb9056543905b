"""The store in Redis, with real Redis servers and their failures."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from redis.asyncio.connection import parse_url

from gateway.auth.credential import Credential
from gateway.clock import SystemClock
from gateway.errors import ConfigError, StateUnavailable
from gateway.submit import Claim, IdempotencyKey, IdempotencyRecord, Outcome, RequestKeys, redis_connection, redis_store
from gateway.submit.health import StoreHealth
from gateway.submit.redis_connection import RedisConnection, read_url
from gateway.submit.redis_store import KEEP_MS, TOTAL_KEY, RedisIdempotencyStore, _keys, open_redis
from tests.submit.stores import MARKS
from tests.support.certificates import Authority
from tests.support.paths import ROOT
from tests.support.raw import free_port
from tests.support.redis import Door, RedisCluster, RedisServer, eventually, need_redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

pytestmark = pytest.mark.tools

MARK = b"m" * 32
RECORD = IdempotencyRecord(MARK, Outcome(uid=7))
NODES = 3
# Claims of many callers, so that each node holds some.
CLAIMS = [Claim(IdempotencyKey(b"%016d" % number, b"1" * 16), number) for number in range(30)]


def claim_of(number: int) -> Claim:
    return Claim(IdempotencyKey(b"a" * 16, b"%016d" % number), number)


async def take(store: RedisIdempotencyStore, number: int) -> IdempotencyRecord | None:
    return await store.claim(claim_of(number), MARK, 100.0)


async def until(condition: Callable[[], object]) -> None:
    async def holds() -> object:
        return condition()

    await eventually(holds)


@pytest.fixture
async def open_store() -> AsyncIterator[Callable[[str], RedisIdempotencyStore]]:
    opened: list[tuple[RedisIdempotencyStore, StoreHealth]] = []

    def open_one(url: str) -> RedisIdempotencyStore:
        clock = SystemClock()
        health = StoreHealth(clock)
        store = open_redis(url, MARKS, clock, health)
        opened.append((store, health))
        return store

    yield open_one
    for store, health in opened:
        health.close()
        await store.aclose()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[RedisCluster]:
    need_redis()
    made = RedisCluster(tmp_path, NODES)
    try:
        await made.start()
        yield made
    finally:
        made.kill()


def health_of(store: RedisIdempotencyStore) -> StoreHealth:
    return store.connection._health  # noqa: SLF001 - a look inside


async def test_an_unreachable_redis_fails_fast_and_is_reused_later(
    own_redis: RedisServer, open_store: Callable[[str], RedisIdempotencyStore], logged: list[dict[str, object]]
) -> None:
    store = open_store(own_redis.url)
    assert await take(store, 1) is None
    own_redis.kill()
    for _ in range(3):
        with pytest.raises(StateUnavailable, match="nothing was sent") as raised:
            await take(store, 2)
        assert raised.value.retry_after
    assert [each["event"] for each in logged] == ["state.unavailable"]
    assert not health_of(store).available
    own_redis.start()
    await until(lambda: health_of(store).available)
    assert [each["event"] for each in logged] == ["state.unavailable", "state.available"]
    assert await store.claim(Claim(claim_of(1).key, 9), MARK, 100.0) == IdempotencyRecord(MARK), "it kept its data"


async def test_the_first_command_after_a_restart_of_redis_succeeds(
    own_redis: RedisServer, open_store: Callable[[str], RedisIdempotencyStore], logged: list[dict[str, object]]
) -> None:
    store = open_store(own_redis.url)
    await take(store, 1)
    own_redis.kill()
    own_redis.start()
    # Its scripts are gone as well.
    assert await take(store, 2) is None
    assert not logged


async def test_every_command_has_a_time_limit(
    own_redis: RedisServer,
    open_store: Callable[[str], RedisIdempotencyStore],
    monkeypatch: pytest.MonkeyPatch,
    logged: list[dict[str, object]],
) -> None:
    store = open_store(own_redis.url)
    await take(store, 1)
    # Only now, because a busy machine may take longer for the commands that succeed.
    monkeypatch.setattr(redis_connection, "COMMAND_SECONDS", 0.1)
    own_redis.stop_answering()
    with pytest.raises(StateUnavailable):
        await store.settle(claim_of(1), RECORD)
    assert logged[0]["why"] == "no reply within 0.1 s"
    monkeypatch.undo()
    own_redis.answer_again()
    await until(lambda: health_of(store).available)
    # A late reply is not taken for that of another command.
    assert await take(store, 2) is None
    assert await store.settle(claim_of(1), RECORD)
    assert await store.claim(Claim(claim_of(1).key, 9), MARK, 100.0) == RECORD


async def test_commands_behind_a_late_batch_fail_with_it(
    own_redis: RedisServer, open_store: Callable[[str], RedisIdempotencyStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(own_redis.url)
    await take(store, 1)
    batches: list[int] = []
    send_twice = RedisConnection._send_twice  # noqa: SLF001 - to count

    async def counted(connection: RedisConnection, batch: Sequence[object]) -> object:
        batches.append(len(batch))
        return await send_twice(connection, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(RedisConnection, "_send_twice", counted)
    monkeypatch.setattr(redis_connection, "COMMAND_SECONDS", 0.1)
    own_redis.stop_answering()
    late = await asyncio.gather(*(take(store, number) for number in range(2, 1_000)), return_exceptions=True)
    assert all(isinstance(each, StateUnavailable) for each in late)
    assert batches == [redis_connection.MAX_BATCH]
    own_redis.answer_again()


async def test_a_count_whose_reply_is_lost_is_not_repeated(
    own_redis: RedisServer, open_store: Callable[[str], RedisIdempotencyStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(own_redis.url)
    await asyncio.gather(*(take(store, number) for number in range(10)))
    await store._count_total()  # noqa: SLF001 - as it does every 5 seconds
    await asyncio.gather(*(take(store, number) for number in range(10, 20)))
    # The scripts run, and no replica acknowledges them.
    monkeypatch.setattr(store.connection, "_wait_replicas", 1)
    monkeypatch.setattr(redis_connection, "WAIT_SECONDS", 0.01)
    for _ in range(20):
        with pytest.raises(StateUnavailable):
            await store._count_total()  # noqa: SLF001 - as above
    async with own_redis.client() as client:
        assert sum(map(int, (await client.hgetall(TOTAL_KEY)).values())) == 20


async def test_a_gateway_that_is_cut_off_does_not_affect_others(
    redis: RedisServer, open_store: Callable[[str], RedisIdempotencyStore]
) -> None:
    door = Door(redis.port)
    await door.start()
    one, other = open_store(f"redis://127.0.0.1:{door.port}/3"), open_store(redis.url.replace("/0", "/3"))
    await take(one, 101)
    door.shut()
    with pytest.raises(StateUnavailable):
        await take(one, 102)
    assert await take(other, 102) is None
    door.open()
    assert await take(one, 103) is None
    await door.stop()


async def test_an_unreachable_redis_does_not_stop_the_start(
    open_store: Callable[[str], RedisIdempotencyStore], logged: list[dict[str, object]]
) -> None:
    store = open_store(f"redis://user:hunter2-secret@127.0.0.1:{free_port()}/0")
    store.start()
    await until(lambda: logged)
    assert logged[0]["event"] == "state.unavailable"
    assert "hunter2" not in str(logged)


async def test_a_read_only_redis_is_reported_at_the_start(
    own_redis: RedisServer, open_store: Callable[[str], RedisIdempotencyStore], logged: list[dict[str, object]]
) -> None:
    async with own_redis.client() as client:
        await client.replicaof("127.0.0.1", free_port())
    store = open_store(own_redis.url)
    store.start()
    await until(lambda: logged)
    assert logged[0]["event"] == "state.unavailable"
    assert "ReadOnlyError" in str(logged[0]["why"])
    assert not health_of(store).available


async def test_a_redis_that_may_evict_is_reported_once(
    own_redis: RedisServer, open_store: Callable[[str], RedisIdempotencyStore], logged: list[dict[str, object]]
) -> None:
    async with own_redis.client() as client:
        await client.config_set("maxmemory-policy", "allkeys-lru")
    store = open_store(own_redis.url)
    store.start()
    await until(lambda: logged)
    assert logged == [{"event": "state.may_evict", "maxmemory_policy": "allkeys-lru", "log_level": "warning"}]


async def test_a_full_redis_is_unavailable_and_forgets_nothing(
    own_redis: RedisServer, open_store: Callable[[str], RedisIdempotencyStore], logged: list[dict[str, object]]
) -> None:
    store = open_store(own_redis.url)
    await take(store, 1)
    await store._count_total()  # noqa: SLF001 - as it does every 5 seconds
    async with own_redis.client() as client:
        await client.config_set("maxmemory", 1)
        for number in range(20):
            with pytest.raises(StateUnavailable):
                await take(store, 2)
            # Done in the background, and changes nothing.
            await store.release(claim_of(100 + number))
            await store._count_total()  # noqa: SLF001 - as it does every 5 seconds
        assert not health_of(store).available
        await client.config_set("maxmemory", 0)
    assert "OutOfMemory" in str(logged[0]["why"])
    assert await take(store, 2) is None
    await until(lambda: health_of(store).available)
    assert [each["event"] for each in logged] == ["state.unavailable", "state.available"]
    assert await store.claim(Claim(claim_of(1).key, 9), MARK, 100.0) == IdempotencyRecord(MARK)


async def test_wait_replicas_needs_their_acknowledgement(
    own_redis: RedisServer,
    tmp_path: Path,
    open_store: Callable[[str], RedisIdempotencyStore],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_connection, "WAIT_SECONDS", 0.05)
    store = open_store(f"{own_redis.url}?wait_replicas=1")
    with pytest.raises(StateUnavailable):
        await take(store, 1)
    folder = tmp_path / "replica"
    folder.mkdir()
    replica = RedisServer(folder, "--replicaof", "127.0.0.1", str(own_redis.port), "--repl-diskless-sync-delay", "0")
    replica.start()
    try:
        async with own_redis.client() as client:

            async def online() -> bool:
                return bool((await client.info("replication")).get("slave0", {}).get("state") == "online")

            await eventually(online)
        monkeypatch.setattr(redis_connection, "WAIT_SECONDS", 2.0)
        assert await take(store, 2) is None
    finally:
        replica.kill()


def documented_user() -> list[str]:
    """Return the rules of the user in docs/operations/request-ids.md."""
    page = (ROOT / "docs/operations/request-ids.md").read_text()
    (rules,) = re.findall(r"^ACL SETUSER (.*)$", page, re.MULTILINE)
    return str(rules).replace("PASSWORD", "hunter2-secret").split()


async def test_tls_and_a_user_with_few_rights_work_by_the_url(
    tmp_path: Path, open_store: Callable[[str], RedisIdempotencyStore], logged: list[dict[str, object]]
) -> None:
    authority = Authority()
    certificate = authority.server()
    files = {"cert": certificate.chain, "key": certificate.key, "ca-cert": authority.pem}
    options = []
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        options += [f"--tls-{name}-file", str(tmp_path / name)]
    port = free_port()
    options += ["--tls-port", str(port), "--tls-auth-clients", "no"]
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder, *options, "--user", *documented_user())
    server.start()
    try:
        url = f"rediss://gateway:hunter2-secret@127.0.0.1:{port}/0"
        store = open_store(f"{url}?ssl_ca_certs={tmp_path / 'ca-cert'}")
        store.start()
        assert await take(store, 1) is None
        assert await store.settle(claim_of(1), RECORD)
        assert await take(store, 2) is None
        assert await store.renew(claim_of(2), 100.0)
        assert await store.release(claim_of(2))
        await store._count_total()  # noqa: SLF001 - as it does every 5 seconds
        await store._use_keys()  # noqa: SLF001 - as it does after a failure
        assert not logged
        for wrong in (url, url.replace("hunter2", "hunter3") + f"?ssl_ca_certs={tmp_path / 'ca-cert'}"):
            with pytest.raises(StateUnavailable):
                await take(open_store(wrong), 3)
        assert "CERTIFICATE_VERIFY_FAILED" in str(logged[0]["why"])
        assert "invalid username-password pair" in str(logged[1]["why"])
        assert "hunter" not in str(logged)
    finally:
        server.kill()


async def test_a_cluster_of_three_nodes_holds_each_caller_on_one(
    cluster: RedisCluster, open_store: Callable[[str], RedisIdempotencyStore]
) -> None:
    store, other = (open_store(f"{cluster.nodes[0].url}?cluster=true") for _ in range(2))
    store.start()
    assert await asyncio.gather(*(store.claim(each, MARK, 100.0) for each in CLAIMS)) == [None] * len(CLAIMS)
    assert all(await asyncio.gather(*(store.settle(each, RECORD) for each in CLAIMS[:-1])))
    assert await store.release(CLAIMS[-1])
    again = [Claim(each.key, 1_000) for each in CLAIMS]
    seen = await asyncio.gather(*(other.claim(each, MARK, 100.0) for each in again))
    assert seen == [*[RECORD] * (len(CLAIMS) - 1), None]
    await store._count_total()  # noqa: SLF001 - as it does every 5 seconds
    assert store._free == redis_store.MAX_RECORDS - len(CLAIMS) + 1  # noqa: SLF001 - a look inside
    assert 0 not in [len(await cluster.keys(node)) for node in range(NODES)]


async def test_an_id_whose_slot_moves_to_another_node_is_known_there(
    cluster: RedisCluster, open_store: Callable[[str], RedisIdempotencyStore], logged: list[dict[str, object]]
) -> None:
    store = open_store(f"{cluster.nodes[0].url}?cluster=true")
    claim = CLAIMS[0]
    await store.claim(claim, MARK, 100.0)
    await cluster.move(redis_store._keys(claim)[0])  # noqa: SLF001 - the key to move
    assert await store.settle(claim, RECORD)
    assert await store.claim(Claim(claim.key, 1_000), MARK, 100.0) == RECORD
    assert not logged


async def test_a_node_of_a_cluster_that_comes_back_is_used_again(
    cluster: RedisCluster, open_store: Callable[[str], RedisIdempotencyStore]
) -> None:
    store = open_store(f"{cluster.nodes[0].url}?cluster=true")
    await asyncio.gather(*(store.claim(each, MARK, 100.0) for each in CLAIMS))
    cluster.nodes[1].kill()
    results = await asyncio.gather(*(store.settle(each, RECORD) for each in CLAIMS), return_exceptions=True)
    assert any(isinstance(each, StateUnavailable) for each in results)
    cluster.nodes[1].start()
    await cluster.complete()
    assert all(await asyncio.gather(*(store.settle(each, RECORD) for each in CLAIMS)))


async def test_a_cluster_is_used_through_its_own_client(
    tmp_path: Path, open_store: Callable[[str], RedisIdempotencyStore], logged: list[dict[str, object]]
) -> None:
    folder = tmp_path / "cluster"
    folder.mkdir()
    # The default is the port plus 10,000, which may be none.
    server = RedisServer(folder, "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    server.start()
    try:
        async with server.client() as client:
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)

            async def complete() -> bool:
                return b"cluster_state:ok" in await client.execute_command("CLUSTER", "INFO")

            await eventually(complete)
        store = open_store(f"{server.url}?cluster=true")
        store.start()
        assert await asyncio.gather(*(take(store, number) for number in range(20))) == [None] * 20
        assert await store.settle(claim_of(1), RECORD)
        assert await store.release(claim_of(2))
        assert await store.claim(Claim(claim_of(1).key, 9), MARK, 100.0) == RECORD
        server.kill()
        for each in (store, open_store(f"{server.url}?cluster=true")):
            with pytest.raises(StateUnavailable):
                await take(each, 3)
            await each._check_server()  # noqa: SLF001 - as it does after a failure
        assert [each["event"] for each in logged] == ["state.unavailable"] * 2
        server.start()
        await until(lambda: health_of(store).available)
        assert await take(store, 3) is None
    finally:
        server.kill()


async def test_redis_holds_no_token_and_no_id_and_all_keys_expire(
    own_redis: RedisServer, open_store: Callable[[str], RedisIdempotencyStore]
) -> None:
    store = open_store(own_redis.url)
    key = RequestKeys(b"k" * 32).key_of(Credential("vktrpat_secret"), "order-4711")
    claim = Claim(key, 1)
    await store.claim(claim, MARK, 100.0)
    await store.settle(claim, RECORD)
    await store.settle(claim._replace(key=key._replace(request=b"lost claim".ljust(16))), RECORD)
    released = claim._replace(key=key._replace(request=b"released".ljust(16)))
    await store.claim(released, MARK, 100.0)
    await store.release(released)
    await store._count_total()  # noqa: SLF001 - as it does every 5 seconds
    async with own_redis.client() as client:
        assert list((await client.hgetall(_keys(claim)[1])).values()) == [b"1"]
        keys = await client.keys("*")
        everything = b" ".join([*keys, *[str(await client.hgetall(each)).encode() for each in keys]])
        lifetimes = [await client.pttl(each) for each in keys]
    assert len(keys) == 5
    assert all(0 < each <= KEEP_MS + 3_600_000 for each in lifetimes)
    assert not any(text in everything for text in (b"vktrpat", b"secret", b"order"))


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("socket_timeout=1", "unknown option or wrong value: socket_timeout; use cluster, ssl_ca_certs"),
        ("cluster=yes", "wrong value: cluster"),
        ("wait_replicas=-1", "wrong value: wait_replicas"),
        ("wait_replicas=1&cluster=true", "does not work with cluster=true"),
        ("ssl_ca_certs=/nowhere/ca.pem", "ssl_ca_certs=/nowhere/ca.pem cannot be read: No such file"),
        ("ssl_ca_certs=/dev/null", "ssl_ca_certs=/dev/null has no certificate in PEM form"),
        ("ssl_certfile=/dev/null", "ssl_certfile=/dev/null has no certificate in PEM form with its key"),
        ("ssl_keyfile=/dev/null", "ssl_keyfile needs ssl_certfile"),
    ],
)
def test_wrong_options_are_reported_without_the_password(query: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as raised:
        read_url(f"rediss://user:hunter2-secret@redis.example.com:6379/0?{query}")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://host:6379/0?ssl_ca_certs=/dev/null", "ssl_ca_certs is for TLS only; write rediss:// or remove it"),
        ("redis://host:6379/3?cluster=true", r"a Cluster has only the database 0 \(got 3\); write /0"),
    ],
)
def test_options_that_do_not_fit_the_url_are_reported(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        read_url(url)


def test_files_of_a_url_may_have_any_name(tmp_path: Path) -> None:
    file = tmp_path / "a b&c+d.pem"
    file.write_bytes(Authority().pem)
    target = read_url(f"rediss://host:6379/0?ssl_ca_certs={quote(str(file))}")
    assert dict(parse_url(target.url))["ssl_ca_certs"] == str(file)


def test_redis_py_is_imported_only_for_redis() -> None:
    code = (
        "import sys\n"
        "import gateway.server.gateway\n"
        "assert not any(name.split('.')[0] == 'redis' for name in sys.modules)\n"
        "sys.modules['redis'] = None\n"
        "import pathlib\n"
        "from gateway.submit.state import open_state\n"
        "from gateway.errors import ConfigError\n"
        "try:\n    open_state('redis://localhost', pathlib.Path('/etc/hostname'), None, None)\n"
        "except ConfigError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 - our own code
    assert "pip install 'jobgateway[redis]'" in done.stdout
