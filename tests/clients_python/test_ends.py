"""The ends of calls and watches of the Python client: a failure is final, and closing or leaving ends every wait."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import Action, AsyncClient, Client, ClosedError, GatewayError, Retry, action, rules

from tests.support.client_gateway import Fail, Hold, ScriptedGateway, end, state
from tests.support.many_jobs import End, ManyJobsGateway, Read, ReadAll, failure
from tests.support.many_jobs import Hold as HoldStream
from tests.support.many_jobs import end as end_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients_python.conftest import Connect

CODE = grpc.StatusCode
SEND = pb.SendJobRequest(workspace_id="1", entity_id=7)
FINAL = Fail(CODE.NOT_FOUND, "UPSTREAM_NOT_FOUND")
LONG = Fail(CODE.UNAVAILABLE, "DRAINING", retry=3_600)


async def failure_of(use: Any) -> Exception:
    try:
        await use
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return error
    raise AssertionError("it did not fail")


async def read(watch: Any) -> list[Any]:
    return [item async for item in watch]


async def test_a_failure_is_final(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.script = [[state(10), FINAL]]
    async with connect(gateway.target) as client:
        watch = client.watch(7)
        error = await failure_of(read(watch))
        assert isinstance(error, GatewayError)
        assert error.code is CODE.NOT_FOUND
        assert await failure_of(read(watch)) is error
        assert await failure_of(watch.finish()) is error
    assert len(gateway.calls) == 1


async def test_a_failure_of_the_watch_of_many_jobs_is_final(connect: Connect) -> None:
    with ManyJobsGateway([Read(2), end_of(1), End(CODE.UNIMPLEMENTED, "NO")]) as gateway:
        async with connect(gateway.target) as client:
            watch = client.watch_all([1, 2])
            error = await failure_of(read(watch))
            assert await failure_of(read(watch)) is error
            assert watch.pending == 1
    assert len(gateway.streams) == 1


async def test_an_error_of_a_callback_is_final(gateway: ScriptedGateway, connect: Connect) -> None:
    def stop(_: object) -> None:
        raise RuntimeError("enough")

    gateway.script = [[end()]]
    async with connect(gateway.target) as client:
        watch = client.watch(7, on_progress=stop)
        error = await failure_of(read(watch))
        assert str(error) == "enough"
        assert await failure_of(watch.finish()) is error


@pytest.mark.parametrize("started", [True, False])
async def test_a_watch_that_was_closed_has_no_end(gateway: ScriptedGateway, connect: Connect, started: bool) -> None:
    gateway.script = [[state(10), Hold()]]
    async with connect(gateway.target) as client:
        watch = client.watch(7)
        if started:
            await anext(watch)
        await watch.close()
        for later in (read(watch), watch.finish()):
            error = await failure_of(later)
            assert isinstance(error, ClosedError)
            assert (error.message, action(error)) == ("the watch was closed", Action.GIVE_UP)
    assert len(gateway.calls) == started


async def test_a_watch_that_has_ended_stays_ended(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.script = [[state(10), end()]]
    async with connect(gateway.target) as client:
        watch = client.watch(7)
        assert len(await read(watch)) == 2
        await watch.close()
        assert await read(watch) == []
        assert (await watch.finish()).succeeded
    assert len(gateway.calls) == 1


async def test_nothing_after_the_end_counts(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.script = [[end(), state(10), end(), Hold()]]
    async with connect(gateway.target) as client:
        assert [event.job.done for event in await read(client.watch(7))] == [True]
    assert len(gateway.calls) == 1


USES: list[Callable[[Any, Any], Any]] = [
    lambda client, on_retry: client.get(7, on_retry=on_retry),
    lambda client, on_retry: client.wait(7, on_retry=on_retry),
    lambda client, on_retry: client.send(SEND, on_retry=on_retry),
    lambda client, on_retry: client.watch(7, on_retry=on_retry).finish(),
    lambda client, on_retry: client.run(SEND, on_retry=on_retry).finish(),
]


@pytest.mark.parametrize("use", USES)
async def test_closing_the_client_ends_a_wait(
    gateway: ScriptedGateway, connect: Connect, use: Callable[[Any, Any], Any]
) -> None:
    gateway.script = [[LONG]]
    async with connect(gateway.target) as client:
        waiting = asyncio.Event()
        wake = asyncio.get_running_loop().call_soon_threadsafe
        using = asyncio.create_task(failure_of(use(client, lambda _: wake(waiting.set))))
        await waiting.wait()
        await client.close()
        error = await using
    assert isinstance(error, ClosedError)
    assert error.message == "the client was closed"


async def test_closing_the_client_ends_the_wait_of_many_jobs(connect: Connect) -> None:
    later = failure(1, CODE.UNAVAILABLE, "UPSTREAM_OUTAGE")
    later.failure.retry_delay.CopyFrom(Duration(seconds=3_600))
    with ManyJobsGateway([Read(1), later, End(CODE.UNAVAILABLE)]) as gateway:
        async with connect(gateway.target) as client:
            waiting = asyncio.Event()
            wake = asyncio.get_running_loop().call_soon_threadsafe
            watch = client.watch_all([1], on_retry=lambda retry: None if retry.uid else wake(waiting.set))
            reading = asyncio.create_task(failure_of(read(watch)))
            await waiting.wait()
            await client.close()
            assert isinstance(await reading, ClosedError)


@pytest.mark.parametrize("script", [[state(10), Hold()], [Hold()]])
async def test_a_watch_can_be_closed_while_it_is_read(
    gateway: ScriptedGateway, connect: Connect, script: list[Any]
) -> None:
    gateway.script = [script]
    async with connect(gateway.target) as client:
        watch = client.watch(7)
        reading = asyncio.create_task(failure_of(read(watch)))
        await gateway.called.wait()
        await watch.close()
        error = await reading
        await gateway.left.wait()
    assert isinstance(error, ClosedError)


async def test_closing_a_watch_ends_its_wait(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.script = [[LONG]]
    async with connect(gateway.target) as client:
        waiting = asyncio.Event()
        wake = asyncio.get_running_loop().call_soon_threadsafe
        watch = client.watch(7, on_retry=lambda _: wake(waiting.set))
        reading = asyncio.create_task(failure_of(read(watch)))
        await waiting.wait()
        # The thread has the condition until it waits.
        await asyncio.to_thread(lambda: None)
        await watch.close()
        assert isinstance(await reading, ClosedError)


async def test_one_reader_reads_at_a_time(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.script = [[Hold()]]
    async with connect(gateway.target) as client:
        watch = client.watch(7)
        reading = asyncio.create_task(failure_of(read(watch)))
        await gateway.called.wait()
        with pytest.raises(RuntimeError, match="is reading this watch"):
            await anext(watch)
        await watch.close()
        await reading


async def cancelled(use: Any) -> None:
    """Cancel a task that waits."""
    task = asyncio.ensure_future(use)
    # Far enough that it waits for something.
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelled_reader_can_go_on(gateway: ScriptedGateway) -> None:
    more = asyncio.Event()
    gateway.script = [[more, state(10), end()]]
    async with AsyncClient(gateway.target) as client, client.run(SEND) as watch:
        for _ in range(3):
            await cancelled(anext(watch))
        more.set()
        assert [event.job.done async for event in watch] == [False, True]
    assert [name for name, _ in gateway.calls] == ["RunJob"]


async def test_cancelled_readers_do_not_shorten_a_wait(gateway: ScriptedGateway) -> None:
    gateway.script = [[state(10), Fail(CODE.UNAVAILABLE, "DRAINING", retry=0.3)], [end()]]
    resumed: list[Retry] = []
    async with AsyncClient(gateway.target) as client, client.watch(7, on_retry=resumed.append) as watch:
        await anext(watch)
        while not resumed:
            await cancelled(anext(watch))
        await cancelled(anext(watch))
        assert (await watch.finish()).succeeded
    assert len(resumed) == 1
    assert gateway.times[1] - gateway.times[0] >= 0.3


async def test_cancelled_readers_notice_silence(gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "LEAST_SILENCE", 0.3)
    request = pb.WatchJobRequest(uid=7, heartbeat_interval=Duration(nanos=1))
    gateway.script = [[Hold()], *([[end()]] * 1_000)]
    resumed: list[Retry] = []
    async with asyncio.timeout(30), AsyncClient(gateway.target) as client:
        watch = client.watch(request, on_retry=resumed.append)
        while not resumed:
            try:
                await asyncio.wait_for(anext(watch), 0.05)
            except TimeoutError:
                continue
        await watch.close()
    assert resumed[0].error.reason == "SILENT"


async def test_a_cancelled_reader_does_not_lose_a_login() -> None:
    asked: list[None] = []
    login = asyncio.Event()

    async def token() -> str:
        asked.append(None)
        if len(asked) > 1:
            await login.wait()
        return f"token-{len(asked)}"

    refused = failure(1, CODE.UNAUTHENTICATED, "UPSTREAM_UNAUTHENTICATED")
    with ManyJobsGateway([Read(1), refused, HoldStream()], [Read(1), end_of(1), ReadAll()]) as gateway:
        async with AsyncClient(gateway.target, token=token) as client, client.watch_all([1]) as watch:
            while len(asked) < 2:
                await cancelled(anext(watch))
            await cancelled(anext(watch))
            login.set()
            assert [item.uid async for item in watch] == [1]
    assert [stream.token for stream in gateway.streams] == ["Bearer token-1", "Bearer token-2"]


async def test_a_cancelled_call_is_not_repeated(gateway: ScriptedGateway) -> None:
    gateway.script = [[Hold()]]
    async with AsyncClient(gateway.target) as client:
        getting = asyncio.create_task(client.get(7))
        await gateway.called.wait()
        getting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await getting
        await gateway.left.wait()
    assert len(gateway.calls) == 1


async def test_a_sync_watch_that_is_dropped_ends_its_call(gateway: ScriptedGateway) -> None:
    gateway.script = [[state(10), Hold()]]
    with Client(gateway.target) as client:
        watch = client.watch(7)
        await asyncio.to_thread(next, watch)
        del watch
        gc.collect()
        async with asyncio.timeout(30):
            await gateway.left.wait()


async def test_a_process_ends_although_a_stopped_thread_has_a_lock(gateway: ScriptedGateway) -> None:
    gateway.script = [[state(10), Hold()]]
    # Daemon threads stop when Python ends. The silence of a stream is limited by such a thread, which has its lock.
    code = f"""
import gc, threading
from jobgateway_client import Client
# The watch is in a cycle, which Python collects at its end.
gc.disable()
locked = threading.Event()
def lock(stream):
    stream._changed.acquire()
    locked.set()
    threading.Event().wait()
def main():
    watch = Client({gateway.target!r}).watch(7)
    watch.cycle = watch
    next(watch)
    threading.Thread(target=lock, args=(watch._stream,), daemon=True).start()
    locked.wait()
main()
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    try:
        async with asyncio.timeout(60):
            assert await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


async def test_an_asyncio_watch_that_is_dropped_ends_its_call(gateway: ScriptedGateway) -> None:
    gateway.script = [[state(10), Hold()]]
    async with AsyncClient(gateway.target) as client:
        watch = client.watch(7)
        await anext(watch)
        await cancelled(anext(watch))
        del watch
        gc.collect()
        async with asyncio.timeout(30):
            await gateway.left.wait()


async def test_ctrl_c_closes_a_watch(gateway: ScriptedGateway) -> None:
    def interrupt(_: pb.Job) -> None:
        raise KeyboardInterrupt

    gateway.script = [[state(10), Hold()]]

    def use() -> None:
        with Client(gateway.target) as client:
            watch = client.watch(7, on_progress=interrupt)
            with pytest.raises(KeyboardInterrupt):
                next(watch)
            with pytest.raises(ClosedError):
                next(watch)

    await asyncio.to_thread(use)
