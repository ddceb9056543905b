"""The simulator, without the gateway."""

import asyncio
import email.utils
import gzip
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any, get_args

import httpx
import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

import gateway.simulator
from gateway.simulator import Fault, Recorded, Simulator, faults, parameters
from gateway.simulator.faults import FaultPlan, ResponseKind, WireKind
from gateway.simulator.json_fields import members
from gateway.simulator.parameters import Parameters
from gateway.simulator.recording import MAX_BODY_BYTES, MAX_REQUESTS, Recording
from gateway.simulator.script import Ending, JobScript, State, state_at
from tests.support.upstream import JOBS

TOKEN = "owner-token"
PROMPTLY = 5  # seconds after which a test that waits for a response fails


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def simulator(clock: Clock) -> AsyncIterator[Simulator]:
    simulator = Simulator(tokens=frozenset({"owner-token", "other"}), clock=clock)
    await simulator.start("127.0.0.1", 0)
    yield simulator
    await simulator.stop()


def connect(simulator: Simulator, token: str = TOKEN) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(),
        trust_env=False,
        timeout=PROMPTLY,
        base_url=simulator.url,
        headers={"Authorization": f"Bearer {token}"},
    )


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    async with connect(simulator) as client:
        yield client


async def submit(client: httpx.AsyncClient, method_name: str = "succeed", **params: Any) -> str:
    response = await client.post(JOBS, json={"method_name": method_name, "params": params})
    assert response.status_code == 201, response.text
    return f"/jobs/{response.json()['uid']}/"


async def first_request(simulator: Simulator) -> None:
    async with asyncio.timeout(PROMPTLY):
        while not simulator.requests:  # noqa: ASYNC110 - the simulator has no event for it
            await asyncio.sleep(0)


async def poll(client: httpx.AsyncClient, path: str) -> Any:
    response = await client.get(path)
    assert response.status_code == 200, response.text
    return response.json()


def script(ending: Ending = Ending.SUCCEED, *, time_limit: float = 86_400, hides_end: bool = False) -> JobScript:
    return JobScript(ending=ending, duration=10, time_limit=time_limit, steps=4, hides_end=hides_end)


def test_a_script_runs_through_its_steps_to_its_end() -> None:
    states = [state_at(script(), elapsed) for elapsed in (0, 2.4, 2.5, 9.9, 10, 99)]
    assert [(state.step, state.since, state.ending) for state in states] == [
        (0, 0, None),
        (0, 0, None),
        (1, 2.5, None),
        (3, 7.5, None),
        (3, 10, Ending.SUCCEED),
        (3, 10, Ending.SUCCEED),
    ]
    assert [state.ended for state in states] == [False] * 4 + [True] * 2


def test_the_earliest_of_end_timeout_and_cancellation_wins() -> None:
    assert state_at(script(time_limit=10), 20).ending is Ending.SUCCEED
    assert state_at(script(time_limit=9), 20).ending is Ending.TIMEOUT
    assert state_at(script(time_limit=9), 20, cancelled_at=8) == State(
        ending=Ending.CANCEL, ended=True, step=3, since=8
    )
    assert state_at(script(), 20, cancelled_at=11).ending is Ending.SUCCEED


def test_a_script_without_end_runs_until_it_is_cancelled() -> None:
    assert not state_at(script(Ending.NEVER), 80_000).ended
    assert state_at(script(Ending.NEVER), 80_000, cancelled_at=3).ended
    hidden = state_at(script(Ending.UNKNOWN_STATUS, hides_end=True), 80_000)
    assert (hidden.ended, hidden.ending) == (False, Ending.UNKNOWN_STATUS)


@given(
    duration=st.floats(0, 1e5),
    steps=st.integers(0, 100),
    times=st.lists(st.floats(0, 2e5), min_size=2, max_size=9),
)
def test_a_state_never_goes_back(duration: float, steps: int, times: list[float]) -> None:
    one = JobScript(ending=Ending.FAIL, duration=duration, time_limit=86_400, steps=steps)
    states = [state_at(one, elapsed) for elapsed in sorted(times)]
    assert [state.ended for state in states] == sorted(state.ended for state in states)
    reached = [state.step for state in states if state.step is not None]
    assert reached == sorted(reached)
    assert all(0 <= step < steps for step in reached)
    assert all(state.since <= elapsed for state, elapsed in zip(states, sorted(times), strict=True))


@given(
    st.dictionaries(
        st.text(max_size=3),
        st.recursive(st.text(max_size=3) | st.floats(allow_nan=False, allow_infinity=False), st.lists, max_leaves=3),
        max_size=3,
    ),
    st.sampled_from([None, 1]),
)
def test_members_are_the_bytes_of_their_values(value: dict[str, Any], indent: int | None) -> None:
    found = members(json.dumps(value, indent=indent).encode())
    assert {name: json.loads(raw) for name, raw in found.items()} == value


def test_members_keep_their_exact_bytes() -> None:
    raw = rb'[1.50, 1e400, -0, 18446744073709551617, "\ud800", {"a" :1}]'
    assert members(b'\n{"a" : ' + raw + b' , "b":2} ') == {"a": raw, "b": b"2"}


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{",
        b"{}x",
        b'{"a"}',
        b'{"a":}',
        b'{"a":1,}',
        b"{1:2}",
        b'{"a":NaN}',
        b'{"a":"\xff"}',
        b'{"a":' + b"[" * 100_000,
    ],
)
def test_members_reject_other_documents(document: bytes) -> None:
    with pytest.raises(ValueError):
        members(document)


async def test_official_clients_computation(simulator: Simulator, clock: Clock) -> None:
    headers = {"Authorization": "Bearer owner-token", "Content-Type": "application/json", "Accept": "*/*"}
    async with connect(simulator) as client:
        sent = await client.post(
            JOBS, headers=headers, content=b'{"params": {"a": 1}, "method_name": "m", "timeout": 30}'
        )
        assert sent.status_code == 201
        uid = sent.json()["uid"]
        assert isinstance(uid, int)
        seen = []
        while (job := (await client.get(f"/jobs/{uid}/", headers=headers)).json())["status"] == "running":
            seen.append((job["message"]["message"], job["message"]["percentage"]))
            clock.now += 1.0
    assert seen == [("Step 1 of 4", 0), ("Step 3 of 4", 50)]
    assert job == {
        "uid": uid,
        "kind": "result",
        "status": "success",
        "result": {"data": {"sum": 3}},
        "completed_at": job["completed_at"],
    }
    assert [(one.method, one.path) for one in simulator.requests] == [
        ("POST", "/api" + JOBS),
        *[("GET", f"/api/jobs/{uid}/")] * 3,
    ]
    assert simulator.requests[0].headers["Accept"] == "*/*"
    assert simulator.requests[0].body == b'{"params": {"a": 1}, "method_name": "m", "timeout": 30}'
    assert [one.time for one in simulator.requests] == [1000, 1000, 1001, 1002]


@pytest.mark.parametrize(
    ("method_name", "first", "second", "error_type"),
    [
        ("succeed", "success", "success", None),
        ("fail", "error", "failed", "error_code"),
        ("user_error", "error_user", "failed", "error_user"),
        ("timeout", "error_timeout", "failed", "error_timeout"),
        ("stop", "stopped", "cancelled", "stopped"),
        ("cancel", "stopped", "cancelled", None),
        ("expire", "expired", "failed", "expired"),
        ("reload", "error_app_reloading", "failed", "error_app_reloading"),
        ("unknown_status", "archived", "archived", None),
    ],
)
async def test_every_ending_in_both_shapes(
    client: httpx.AsyncClient, method_name: str, first: str, second: str, error_type: str | None
) -> None:
    job = await poll(client, await submit(client, method_name, duration=0, shape="first"))
    assert job["status"] == first
    assert ("error_message" in job) == (error_type is not None)
    assert ("content" in job) == (method_name == "succeed")
    assert ("error_stack_trace" in job) == (method_name == "fail")
    job = await poll(client, await submit(client, method_name, duration=0))
    assert job["status"] == second
    assert job.get("error", {}).get("type") == error_type
    assert ("result" in job) == (method_name == "succeed")
    assert "completed_at" in job


async def test_invalid_fields_in_both_forms(client: httpx.AsyncClient) -> None:
    job = await poll(client, await submit(client, "user_error", duration=0))
    assert job["error"]["invalid_fields"] == {"width": ["Must be larger than 0."]}
    job = await poll(client, await submit(client, "user_error", duration=0, shape="first", invalid_fields="array"))
    assert job["invalid_fields"] == [{"name": "width", "message": "Must be larger than 0."}]


async def test_chosen_error_message(client: httpx.AsyncClient) -> None:
    job = await poll(client, await submit(client, "fail", duration=0, error_message="Größe"))
    assert job["error"] == {"type": "error_code", "message": "Größe"}


@pytest.mark.parametrize("sign", ["none", "completed_at", "result", "error"])
async def test_unknown_status_and_its_sign_of_end(client: httpx.AsyncClient, sign: str) -> None:
    path = await submit(client, "unknown_status", duration=0, sign_of_end=sign)
    job = await poll(client, path)
    assert job.keys() - {"uid", "kind", "status"} == {sign} - {"none"}
    assert (await client.delete(path)).status_code == (204 if sign == "none" else 409)


async def test_chosen_progress(client: httpx.AsyncClient, clock: Clock) -> None:
    path = await submit(client, duration=4, percentages=[10, 60.5, 30, None], messages=["a", "b"], message_type="info")
    seen = []
    for _ in range(4):
        seen.append((await poll(client, path))["message"])
        clock.now += 1
    assert [(one["message"], one["percentage"]) for one in seen] == [
        ("a", 10),
        ("b", 60.5),
        ("b", 30),
        ("b", None),
    ]
    assert {one["message_type"] for one in seen} == {"info"}
    stamps = [one["timestamp_epoch"] for one in seen]
    assert [later - stamps[0] for later in stamps] == pytest.approx([0, 1, 2, 3], abs=1e-3)


async def test_absent_progress_and_other_message_shapes(client: httpx.AsyncClient) -> None:
    job = await poll(client, await submit(client, percentages=None))
    assert "percentage" not in job["message"]
    assert (await poll(client, await submit(client, steps=0)))["message"] is None
    job = await poll(client, await submit(client, message_shape="string"))
    assert (job["status"], job["message"]) == ("running", "Step 1 of 4")
    job = await poll(client, await submit(client, shape="first"))
    assert (job["status"], job["message"]) == ("message", "Step 1 of 4")
    job = await poll(client, await submit(client, shape="first", message_shape="object"))
    assert job["message"]["percentage"] == 0


async def test_mixed_shape_alternates(client: httpx.AsyncClient) -> None:
    path = await submit(client, shape="mixed")
    assert [(await poll(client, path))["status"] for _ in range(3)] == ["message", "running", "message"]


async def test_result_byte_for_byte(client: httpx.AsyncClient) -> None:
    raw = rb'{"a": 1.50, "b": [18446744073709551617, 1e400, "\ud800"]}'
    body = b'{"params": {"duration": 0, "result": ' + raw + b"}}"
    sent = await client.post(JOBS, content=body, headers={"Content-Type": "application/json"})
    job = await client.get(f"/jobs/{sent.json()['uid']}/")
    assert b'"result":' + raw in job.content


async def test_results_of_any_size_depth_and_content(client: httpx.AsyncClient) -> None:
    job = await client.get(await submit(client, duration=0, result_bytes=50_000_000, big_integers=True))
    result = members(job.content)["result"]
    assert len(result) == 50_000_000
    assert json.loads(result)["table"]["ids"][:2] == [2**53 + 1, 2**64 + 1]
    job = await client.get(await submit(client, duration=0, result_depth=5000))
    assert b'{"a":' * 5000 + b"1" + b"}" * 5000 in job.content
    job = await client.get(await submit(client, duration=0, lone_surrogate=True, invalid_utf8=True))
    assert rb'"\ud800"' in job.content
    assert b'"\xff"' in job.content


async def test_the_201_identifies_the_job_as_chosen(client: httpx.AsyncClient) -> None:
    bodies = {}
    for form in ("uid", "url", "absolute_url", "both"):
        sent = await client.post(JOBS, json={"params": {"answer": form}})
        assert sent.status_code == 201
        bodies[form] = sent.json()
    assert bodies["uid"].keys() == {"uid"}
    assert bodies["url"].keys() == bodies["absolute_url"].keys() == {"url"}
    assert bodies["url"]["url"] == f"/api/jobs/{bodies['uid']['uid'] + 1}/"
    assert (await client.get(bodies["absolute_url"]["url"])).status_code == 200
    assert bodies["both"] | {"kind": "result", "status": "running"} == bodies["both"]
    assert bodies["both"]["url"].endswith(f"/{bodies['both']['uid']}/")


async def test_poll_result_returns_a_job_that_ends_in_time(
    client: httpx.AsyncClient, simulator: Simulator, clock: Clock
) -> None:
    async def held(**params: Any) -> httpx.Response:
        return await client.post(JOBS, json={"poll_result": True, "params": params})

    at_once = await held(duration=0)
    assert (at_once.status_code, at_once.json()["status"]) == (200, "success")
    assert (await held(duration=9, hold=0)).status_code == 201
    for duration, status in ((0.5, 200), (9, 201)):
        simulator.requests.clear()
        response = asyncio.create_task(held(duration=duration))
        await first_request(simulator)
        clock.now += 1
        assert (await response).status_code == status


async def test_timeout_of_the_submission(client: httpx.AsyncClient, clock: Clock) -> None:
    sent = await client.post(JOBS, json={"method_name": "never", "timeout": 30})
    path = f"/jobs/{sent.json()['uid']}/"
    clock.now += 29.9
    assert (await poll(client, path))["status"] == "running"
    clock.now += 0.2
    assert (await poll(client, path))["error"]["type"] == "error_timeout"


async def test_cancellation(client: httpx.AsyncClient, clock: Clock) -> None:
    path = await submit(client, "never")
    gone = await client.delete(path)
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await poll(client, path))["status"] == "cancelled"
    assert (await client.delete(path)).status_code == 409
    assert (await client.delete("/jobs/7/")).status_code == 404
    stubborn = await submit(client, duration=5, ignore_cancel=True)
    assert (await client.delete(stubborn)).status_code == 204
    clock.now += 5
    assert (await poll(client, stubborn))["status"] == "success"


async def test_session(client: httpx.AsyncClient) -> None:
    response = await client.post("/workspaces/1/entities/7/session/")
    assert response.status_code == 200
    assert uuid.UUID(response.json()["editor_session"])


@pytest.mark.parametrize("value", [None, "Bearer wrong", "Bearer", "Basic owner-token", "owner-token"])
async def test_credentials_are_checked_everywhere(simulator: Simulator, value: str | None) -> None:
    async with connect(simulator) as client:
        del client.headers["Authorization"]
        headers = {} if value is None else {"Authorization": value}
        for method, path in (
            ("POST", simulator.url + JOBS),
            ("POST", simulator.url + "/workspaces/1/entities/7/session/"),
            ("GET", simulator.url + "/jobs/7/"),
            ("DELETE", simulator.url + "/jobs/7/"),
            ("POST", simulator.url.removesuffix("/api") + "/faults/"),
            ("DELETE", simulator.url.removesuffix("/api") + "/faults/"),
        ):
            response = await client.request(method, path, headers=headers)
            assert response.status_code == 401
            assert response.json().keys() == {"detail"}


async def test_two_tokens_are_refused(client: httpx.AsyncClient) -> None:
    response = await client.get(
        "/jobs/7/", headers=[("Authorization", "Bearer owner-token"), ("Authorization", "Bearer other")]
    )
    assert response.status_code == 401


async def test_a_job_belongs_to_its_token(simulator: Simulator, client: httpx.AsyncClient) -> None:
    path = await submit(client, "never")
    async with connect(simulator, "other") as other:
        assert (await other.get(path)).status_code == 404
        assert (await other.delete(path)).status_code == 403
    assert (await poll(client, path))["status"] == "running"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("poll_result", "yes"),
        ("method_name", ""),
        ("method_name", None),
        ("method_type", 1),
        ("editor_session", "not a uuid"),
        ("params", [1]),
        ("params", "text"),
        ("events", "text"),
        ("events", [1]),
        ("timeout", 0),
        ("timeout", 86_401),
        ("timeout", 1.5),
        ("timeout", True),
        ("arguments", 1),
        ("method", ""),
    ],
)
async def test_bad_field_is_named(client: httpx.AsyncClient, field: str, value: object) -> None:
    response = await client.post(JOBS, json={"unknown": 1, field: value})
    assert response.status_code == 400
    [(name, messages)] = response.json().items()
    assert name == field
    assert [type(message) for message in messages] == [str]


async def test_every_bad_field_is_named_including_nested_ones(client: httpx.AsyncClient) -> None:
    response = await client.post(JOBS, json={"timeout": 0, "params": {"duration": "long", "steps": -1}})
    assert response.status_code == 400
    assert response.json().keys() == {"timeout", "params"}
    assert response.json()["params"].keys() == {"duration", "steps"}


async def test_valid_bodies(client: httpx.AsyncClient) -> None:
    full = {
        "poll_result": False,
        "method_name": "m",
        "method_type": "t",
        "editor_session": str(uuid.uuid4()),
        "params": {"anything": [1]},
        "events": ["e"],
        "timeout": 86_400,
        "arguments": None,
        "method": "m",
    }
    for body in ({}, full, {"params": None}, {"arguments": {"duration": 0}, "method": "fail"}):
        sent = await client.post(JOBS, json=body)
        assert sent.status_code == 201
    assert (await poll(client, f"/jobs/{sent.json()['uid']}/"))["status"] == "failed"


async def test_invalid_requests_are_refused(client: httpx.AsyncClient) -> None:
    as_json = {"Content-Type": "application/json"}
    for response, status in (
        (await client.post(JOBS, content=b"{", headers=as_json), 400),
        (await client.post(JOBS, content=b"[]", headers=as_json), 400),
        (await client.post(JOBS, content=b"{}", headers={"Content-Type": "text/plain"}), 415),
        (await client.post(JOBS.removesuffix("/"), json={}), 404),
        (await client.put(JOBS, json={}), 405),
        (await client.post("/workspaces/404/entities/7/jobs/", json={}), 404),
        (await client.post("/workspaces/1/entities/404/session/"), 404),
        (await client.get("/jobs/none/"), 404),
        (await client.get("/jobs/" + "9" * 5000 + "/"), 404),
    ):
        assert response.status_code == status
        assert response.json().keys() == {"detail"}
    response = await client.post("/workspaces/1/entities/seven/jobs/", json={})
    assert (response.status_code, list(response.json())) == (400, ["id"])


async def test_refused_submission(client: httpx.AsyncClient) -> None:
    response = await client.post(JOBS, json={"method_name": "refuse"})
    assert response.status_code == 400
    assert response.json()["params"]["beam"] == {"length": ["Must be larger than 0."]}
    chosen = {"x": {"y": ["bad"]}}
    response = await client.post(JOBS, json={"method_name": "refuse", "params": {"errors": chosen}})
    assert (response.status_code, response.json()) == (400, chosen)


@pytest.mark.parametrize(
    "status", [400, 401, 403, 404, 408, 409, 410, 413, 418, 422, 425, 429, 499, 500, 502, 503, 504, 599]
)
async def test_status_faults(simulator: Simulator, client: httpx.AsyncClient, status: int) -> None:
    path = await submit(client)
    simulator.inject(Fault(kind=status))
    response = await client.get(path)
    assert response.status_code == status
    assert response.json()
    assert (await client.get(path)).status_code == 200


async def test_fault_with_its_own_body_and_headers(simulator: Simulator, client: httpx.AsyncClient) -> None:
    simulator.inject(Fault(kind=400, body=msgspec.Raw(b'{"a":{"b":["c"]}}'), headers={"Set-Cookie": "a=1"}))
    response = await client.get("/jobs/7/")
    assert response.json() == {"a": {"b": ["c"]}}
    assert response.headers["Set-Cookie"] == "a=1"


async def test_retry_after_in_every_form(simulator: Simulator, client: httpx.AsyncClient) -> None:
    for given_value, expected in ((7, "7"), ("soon", "soon"), (None, None)):
        simulator.inject(Fault(kind=429, retry_after=given_value))
        assert (await client.get("/jobs/7/")).headers.get("Retry-After") == expected
    simulator.inject(Fault(kind=503, retry_after="date:120"))
    named = email.utils.parsedate_to_datetime((await client.get("/jobs/7/")).headers["Retry-After"])
    assert named.timestamp() - time.time() == pytest.approx(120, abs=PROMPTLY)


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


async def test_invalid_responses(simulator: Simulator, client: httpx.AsyncClient) -> None:
    path = await submit(client)

    async def response_to(kind: ResponseKind) -> httpx.Response:
        simulator.inject(Fault(kind=kind))
        return await client.get(path)

    page = await response_to("html")
    assert (page.status_code, page.headers["Content-Type"]) == (502, "text/html")
    assert not _is_json((await response_to("not_json")).content)
    assert not _is_json((await response_to("truncated")).content)
    assert isinstance((await response_to("list")).json(), list)
    assert (await response_to("null")).json() is None
    assert (await response_to("empty")).content == b""
    assert "uid" not in (await response_to("no_uid")).json()
    other = (await response_to("other_uid")).json()
    assert other["status"] == "success"
    assert str(other["uid"]) not in path
    redirect = await response_to("redirect")
    assert (redirect.status_code, redirect.next_request is not None) == (302, True)
    assert redirect.headers["Location"] == simulator.url.replace("127.0.0.1", "localhost").replace(
        "/api", "/redirected/"
    )


async def test_gzip_bomb(simulator: Simulator, client: httpx.AsyncClient) -> None:
    simulator.inject(Fault(kind="gzip_bomb"))
    async with client.stream("GET", "/jobs/7/") as response:
        packed = b"".join([chunk async for chunk in response.aiter_raw()])
    assert len(packed) < 1_000_000
    assert len(gzip.decompress(packed)) > 200_000_000


async def open_raw(simulator: Simulator) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = simulator.url.removeprefix("http://").removesuffix("/api").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=4_000_000)
    writer.write(b"GET /api/jobs/7/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer owner-token\r\n\r\n")
    return reader, writer


async def test_faults_of_the_connection(simulator: Simulator) -> None:
    async def received(kind: WireKind) -> bytes:
        simulator.inject(Fault(kind=kind))
        reader, writer = await open_raw(simulator)
        try:
            async with asyncio.timeout(PROMPTLY):
                return await reader.read()
        finally:
            writer.close()

    assert await received("close") == b""
    head, _, body = (await received("half_body")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert 0 < 2 * len(body) <= int(head.rpartition(b"Content-Length: ")[2])
    assert (await received("two_lengths")).count(b"Content-Length") == 2
    assert len((await received("header_flood")).partition(b"\r\n\r\n")[0]) > 1_000_000
    with pytest.raises(ConnectionResetError):
        await received("reset")


@pytest.mark.parametrize("kind", ["hang", "swallow"])
async def test_a_silent_fault_lasts_until_the_simulator_stops(simulator: Simulator, kind: WireKind) -> None:
    simulator.inject(Fault(kind=kind))
    reader, writer = await open_raw(simulator)
    if kind == "swallow":
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Content-Length" in head
    else:
        await first_request(simulator)
    rest = asyncio.create_task(reader.read())
    # A response in flight would arrive before the response of a later request.
    async with connect(simulator) as client:
        assert (await client.get("/jobs/7/")).status_code == 404
    assert not rest.done()
    start = time.monotonic()
    await simulator.stop()
    assert time.monotonic() - start < 0.9  # less than aiohttp's own grace
    async with asyncio.timeout(PROMPTLY):
        assert len(await asyncio.gather(rest, return_exceptions=True)) == 1
    writer.close()


async def test_faults_of_one_job(client: httpx.AsyncClient) -> None:
    faults: list[dict[str, Any]] = [
        {"on": "poll", "kind": 503, "after": 1, "times": 2},
        {"on": "cancel", "kind": 500},
    ]
    path = await submit(client, "never", faults=faults)
    other = await submit(client, "never")
    assert [(await client.get(path)).status_code for _ in range(4)] == [200, 503, 503, 200]
    assert (await client.get(other)).status_code == 200
    assert (await client.delete(path)).status_code == 500
    assert (await client.delete(path)).status_code == 204


async def test_submission_fails_with_or_without_a_job(simulator: Simulator, client: httpx.AsyncClient) -> None:
    last = int((await submit(client)).split("/")[2])
    for moment in ("submit", "after_submit"):
        response = await client.post(JOBS, json={"params": {"faults": [{"on": moment, "kind": 502}]}})
        assert response.status_code == 502
        made = (await client.get(f"/jobs/{last + 1}/")).status_code == 200
        assert made == (moment == "after_submit")
    simulator.inject(Fault(kind="close", on="after_submit"))
    assert (await client.get(f"/jobs/{last + 1}/")).status_code == 200
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post(JOBS, json={})
    assert (await client.get(f"/jobs/{last + 2}/")).status_code == 200


async def test_bad_fault_of_a_job_is_a_field_error(client: httpx.AsyncClient) -> None:
    for bad in ({"kind": "nonsense"}, {"kind": 700}, {"kind": 503, "retry_after": "date:x"}, {"on": "poll"}):
        response = await client.post(JOBS, json={"params": {"faults": [bad]}})
        assert response.status_code == 400
        assert list(response.json()["params"]) == ["faults"]


async def test_faults_over_http(simulator: Simulator, client: httpx.AsyncClient) -> None:
    faults = simulator.url.removesuffix("/api") + "/faults/"
    path = await submit(client)
    assert (await client.post(faults, json=[{"on": "poll", "kind": 504, "times": 0}])).status_code == 204
    assert [(await client.get(path)).status_code for _ in range(3)] == [504] * 3
    assert (await client.delete(faults)).status_code == 204
    assert (await client.get(path)).status_code == 200
    bad = await client.post(faults, json=[{"kind": "nonsense"}])
    assert (bad.status_code, list(bad.json())) == (400, ["detail"])


def test_a_plan_tries_faults_in_order_and_drops_used_ones() -> None:
    plan = FaultPlan([Fault(kind=500, on="poll", times=2), Fault(kind=502), Fault(kind=503, on="after_submit")])
    taken = [plan.take(moment) for moment in ("cancel", "poll", "after_submit", "poll", "poll", "cancel")]
    assert [fault.kind if fault else None for fault in taken] == [502, 500, 503, 500, None, None]


async def test_a_test_can_ask_whether_a_job_has_ended(
    simulator: Simulator, client: httpx.AsyncClient, clock: Clock
) -> None:
    uid = (await submit(client, duration=1)).rstrip("/").rpartition("/")[2]
    assert not simulator.has_ended(uid)
    clock.now += 1
    assert simulator.has_ended(uid)
    assert not simulator.has_ended("1")
    assert not simulator.has_ended("jobs")


async def test_refused_connections(simulator: Simulator, client: httpx.AsyncClient) -> None:
    path = await submit(client)
    for _ in range(2):
        await simulator.refuse(True)
        await simulator.refuse(True)
        with pytest.raises(httpx.TransportError):  # the idle connection was closed
            await client.get(path)
        with pytest.raises(httpx.ConnectError):
            await client.get(path)
        await simulator.refuse(False)
        await simulator.refuse(False)
        assert (await client.get(path)).status_code == 200
    await simulator.refuse(True)
    await simulator.stop()
    with pytest.raises(RuntimeError):
        await simulator.refuse(False)


async def test_requests_in_flight_finish_while_others_are_refused(
    simulator: Simulator, client: httpx.AsyncClient, clock: Clock
) -> None:
    body = {"poll_result": True, "params": {"duration": 0.5}}
    response = asyncio.create_task(client.post(JOBS, json=body))
    await first_request(simulator)
    await simulator.refuse(True)
    clock.now += 1
    assert (await response).status_code == 200
    with pytest.raises(httpx.ConnectError):
        await client.post(JOBS, json=body)


async def test_start_and_stop(clock: Clock) -> None:
    simulator = Simulator(tokens=frozenset({"owner-token"}), clock=clock)
    await simulator.stop()
    await simulator.start("localhost", 0)
    with pytest.raises(RuntimeError):
        await simulator.start("localhost", 0)
    port = int(simulator.url.removesuffix("/api").rpartition(":")[2])
    second = Simulator(tokens=frozenset())
    with pytest.raises(OSError):
        await second.start("localhost", port)
    await simulator.stop()
    await simulator.stop()
    await simulator.start("localhost", port)
    async with connect(simulator) as client:
        assert (await client.get("/jobs/7/")).status_code == 404
    await simulator.stop()


async def test_token_is_neither_logged_nor_shown(simulator: Simulator, client: httpx.AsyncClient) -> None:
    simulator.inject(Fault(kind=503))
    with structlog.testing.capture_logs() as logs:
        assert (await client.get("/jobs/7/?a=b")).status_code == 503
        assert (await client.get("/jobs/7/?a=b")).status_code == 404
    assert [log["event"] for log in logs] == ["simulator fault", "simulator request", "simulator request"]
    assert simulator.requests[0].path == logs[-1]["path"] == "/api/jobs/7/?a=b"
    assert TOKEN not in repr([simulator, simulator.requests, logs])


async def test_a_too_long_token_is_not_logged(simulator: Simulator, caplog: pytest.LogCaptureFixture) -> None:
    for length, status in ((8192, 401), (60_000, 401), (70_000, 400)):
        async with connect(simulator, "secret" * (length // 6)) as client:
            assert (await client.get("/jobs/7/")).status_code == status
    assert "a request could not be read" in caplog.text
    assert "secret" not in caplog.text


async def test_the_recording_is_limited(simulator: Simulator, client: httpx.AsyncClient) -> None:
    await client.get("/jobs/7/")
    one: Recorded = simulator.requests[0]
    recording = Recording()
    for _ in range(MAX_REQUESTS + 1):
        recording.record(one)
    assert len(recording) == MAX_REQUESTS
    large = Recorded(method="POST", path="/", headers=one.headers, body=bytes(MAX_BODY_BYTES), time=0)
    recording.record(large)
    assert len(recording) == MAX_REQUESTS
    recording.record(large)
    assert list(recording) == [large]


def test_documented_tables_are_complete() -> None:
    for field in msgspec.structs.fields(Parameters):
        assert f"\n`{field.name}` " in (parameters.__doc__ or "")
    for field in msgspec.structs.fields(Fault):
        assert f"\n`{field.name}` " in (faults.__doc__ or "")
    for kind in (*get_args(ResponseKind), *get_args(WireKind)):
        assert f"\n`{kind}` " in (faults.__doc__ or "")
    for ending in Ending:
        assert f"\n`{ending}` " in (gateway.simulator.__doc__ or "")
