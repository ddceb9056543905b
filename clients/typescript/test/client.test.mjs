import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { inspect } from "node:util";
import { Metadata, status } from "@grpc/grpc-js";
import { ContentFormat, Job, JobEvent, resultOf } from "jobgateway-client";
import { BadRequest } from "nice-grpc-error-details";
import { connect, end, event, fail, failure, gate, result, serve } from "./support.mjs";

test("a new connection does not disturb the watches of the old one", async (t) => {
  const calls = { broken: 0, steady: 0 };
  const begun = gate();
  const resumed = gate();
  const client = await serve(t, {
    async watchJob(call) {
      if (call.request.uid === "2") {
        calls.steady++;
        begun.resolve();
        await resumed.promise;
      } else if (++calls.broken === 1) {
        await begun.promise;
        fail(call, status.UNAVAILABLE);
        return;
      } else {
        resumed.resolve();
      }
      call.write(end(call.request.uid));
      call.end();
    },
  });
  const connections = [];
  const onRetry = ({ newConnection }) => connections.push(newConnection);
  await Promise.all(["1", "2"].map((uid) => client.watch(uid, { onRetry }).finish()));
  assert.deepEqual([calls, connections], [{ broken: 2, steady: 1 }, [true]]);
});

test("a run is sent again only with a request_id", async (t) => {
  for (const requestId of ["", "id"]) {
    let runs = 0;
    const client = await serve(t, {
      runJob(call) {
        if (++runs === 1) {
          fail(call, status.INTERNAL);
          return;
        }
        call.write(end("7"));
        call.end();
      },
    });
    const finished = client.run({ requestId }).finish();
    if (requestId) assert.equal((await finished).job.uid, "7");
    else
      await assert.rejects(finished, { name: "GatewayError", code: "INTERNAL", action: "retry" });
    assert.equal(runs, requestId ? 2 : 1);
  }
});

const damages = {
  "nothing of its 3 bytes arrived": { contentSize: 3, contentSha256: "00" },
  "2 of 3 bytes arrived": { ...result("[1]"), result: result("[]").result },
  "all 3 bytes arrived, with a wrong SHA-256": { ...result("[1]"), contentSha256: "00" },
};

for (const [problem, job] of Object.entries(damages)) {
  test(`a damaged result is an error: ${problem}`, async (t) => {
    let calls = 0;
    const client = await serve(t, {
      watchJob(call) {
        calls++;
        call.write(end("7", job));
        call.end();
      },
      getJob(call, answer) {
        calls++;
        answer(null, end(call.request.uid, job).payload.value);
      },
    });
    const expected = { name: "GatewayError", code: "DATA_LOSS", uid: "7" };
    const watch = client.watch("7");
    for (const attempt of [() => watch.finish(), () => watch.finish(), () => client.get("7")]) {
      const error = await attempt().catch((thrown) => thrown);
      assert.deepEqual({ name: error.name, code: error.code, uid: error.uid }, expected);
      assert.ok(error.message.includes(problem), error.message);
    }
    assert.equal(calls, 2);
  });
}

test("a result that the gateway left out is no damage", async (t) => {
  const omitted = { contentSize: 3, contentSha256: "00", contentOmitted: true };
  const client = await serve(t, {
    runJob(call) {
      call.write(end("0", omitted));
      call.end();
    },
    getJob: (_, answer) => answer(null, end("7", omitted).payload.value),
    watchJob(call) {
      call.write(end("7", omitted));
      call.end();
    },
  });
  const { job, result: json } = await client.run({}).finish();
  assert.deepEqual([job.uid, job.contentOmitted, json.length], ["0", true, 0]);
  assert.equal((await client.get("7")).contentOmitted, true);
  const contentFormat = ContentFormat.CONTENT_FORMAT_NONE;
  assert.equal((await client.watch("7", { contentFormat }).finish()).result.length, 0);
});

test("a stream that delivers nothing of a result is damage", async (t) => {
  const write = (call, uid) => {
    call.write(end(uid, { contentSize: 3, contentSha256: "00", contentOmitted: true }));
    call.end();
  };
  const client = await serve(t, {
    runJob: (call) => write(call, "7"),
    watchJob: (call) => write(call, "7"),
    watchJobs: (call) => call.on("data", ({ action }) => write(call, action.value.uid)),
  });
  const expected = { code: "DATA_LOSS", message: /nothing of its 3 bytes arrived/ };
  const { CONTENT_FORMAT_STRUCT, CONTENT_FORMAT_JSON_CHUNKS } = ContentFormat;
  for (const contentFormat of [undefined, CONTENT_FORMAT_STRUCT, CONTENT_FORMAT_JSON_CHUNKS]) {
    await assert.rejects(client.run({ contentFormat }).finish(), expected);
    await assert.rejects(client.watch("7", { contentFormat }).finish(), expected);
    const { value } = await client.watchAll(["7"], { contentFormat }).next();
    assert.deepEqual([value.kind, value.error.code], ["failed", "DATA_LOSS"]);
  }
  const none = client.watchAll(["7"], { contentFormat: ContentFormat.CONTENT_FORMAT_NONE });
  assert.equal((await none.next()).value.kind, "job");
});

for (const [code, reason] of [
  ["UNAVAILABLE", "DRAINING"],
  ["UNAUTHENTICATED", "UPSTREAM_UNAUTHENTICATED"],
]) {
  test(`a job that an error names is watched, not sent again: ${code}`, async (t) => {
    const calls = [];
    const named = { reason, metadata: { uid: "7" } };
    const client = await serve(
      t,
      {
        runJob(call) {
          calls.push("run");
          fail(call, status[code], named);
        },
        watchJob(call) {
          calls.push(`watch ${call.request.uid}`);
          call.write(end("7"));
          call.end();
        },
        sendJob(_, answer) {
          calls.push("send");
          answer(failure(status[code], named));
        },
      },
      { token: () => "token" },
    );
    const watch = client.run({ requestId: "id" });
    assert.equal((await watch.finish()).job.uid, "7");
    await assert.rejects(client.send({ requestId: "id" }), { uid: "7" });
    assert.deepEqual(calls, ["run", "watch 7", "send"]);
  });
}

test("a failed run knows the job of its error", async (t) => {
  const named = { reason: "UPSTREAM_UNAUTHENTICATED", metadata: { uid: "7" } };
  const client = await serve(
    t,
    { runJob: (call) => fail(call, status.UNAUTHENTICATED, named) },
    { token: () => (++asked === 1 ? "token" : Promise.reject(new Error("no login"))) },
  );
  let asked = 0;
  const watch = client.run({});
  await assert.rejects(watch.finish(), /no login/);
  assert.equal(watch.uid, "7");
});

test("a result can be had after a loop, in each form", async (t) => {
  const forms = {
    1: result("[1]"),
    2: { ...result("[1]"), result: { $case: "content", value: { data: 1 } } },
    3: { ...result("[1]"), result: undefined, contentOmitted: true },
  };
  const write = (call, uid) => {
    if (uid === "3") {
      const value = { offset: 0, data: Buffer.from("[1]"), contentSize: 3 };
      call.write(JobEvent.fromPartial({ uid, payload: { $case: "contentChunk", value } }));
    }
    call.write(end(uid, forms[uid]));
  };
  const client = await serve(t, {
    watchJob(call) {
      write(call, call.request.uid);
      call.end();
    },
    watchJobs(call) {
      call.on("data", ({ action }) => write(call, action.value.uid));
      call.on("end", () => call.end());
    },
  });
  const expected = { 1: "[1]", 2: '{"data":1}', 3: "[1]" };
  const [one, all] = [{}, {}];
  for (const uid of Object.keys(forms)) {
    const watch = client.watch(uid);
    for await (const seen of watch) assert.ok(seen);
    one[uid] = (await watch.finish()).result.toString();
  }
  for await (const seen of client.watchAll(Object.keys(forms))) {
    if (seen.kind === "job") all[seen.uid] = resultOf(seen).toString();
  }
  assert.deepEqual([one, all], [expected, expected]);
});

test("a watch that failed or was left stays failed", async (t) => {
  let calls = 0;
  const begin = (call) => {
    calls++;
    if (call.request?.uid === "8") fail(call, status.NOT_FOUND, { reason: "JOB_NOT_FOUND" });
    else call.write(event("7"));
  };
  const client = await serve(t, { watchJob: begin, watchJobs: begin });

  const failed = client.watch("8");
  const left = client.watch("7");
  const many = client.watchAll(["7"]);
  for await (const seen of left) if (seen) break;
  for await (const seen of many) if (seen) break;
  const pending = client.watch("7");
  const events = pending[Symbol.asyncIterator]();
  await events.next();
  const [waiting] = [events.next(), events.return()];
  await assert.rejects(waiting, { code: "CANCELLED", reason: "CLOSED" });

  for (const watch of [failed, left, many, pending]) {
    const code = watch === failed ? "NOT_FOUND" : "CANCELLED";
    for (let use = 0; use < 2; use++) {
      const loop = async () => {
        for await (const seen of watch) assert.fail(seen);
      };
      await assert.rejects(loop(), { code });
      if (watch !== many) await assert.rejects(watch.finish(), { code });
    }
  }
  assert.equal(calls, 4);
});

test("a watch ignores events after the end", async (t) => {
  const write = (call) => {
    call.write(end("7"));
    call.write(end("7", { message: "another" }));
    call.write(JobEvent.fromPartial({ payload: { $case: "heartbeat", value: {} } }));
    call.end();
  };
  const client = await serve(t, { watchJob: write, watchJobs: write });
  for (const watch of [client.watch("7"), client.watchAll(["7"])]) {
    const kinds = [];
    for await (const { kind, job } of watch) kinds.push(`${kind} ${job?.done}`);
    for await (const seen of watch) assert.fail(seen);
    assert.deepEqual(kinds, ["job true"]);
  }
});

const wrong = {
  "a uid that is no number": (client) => client.watch("abc"),
  "a uid with a fraction": (client) => client.get("1.5"),
  "a uid with white space": (client) => client.cancel("7\n"),
  "a uid over 64 bits": (client) => client.wait("99999999999999999999"),
  "a wrong uid of many": (client) => client.watchAll(["1", "abc"]),
  "an interval that is no number": (client) => client.watch("7", { heartbeatSeconds: Number.NaN }),
  "an endless interval": (client) => client.watchAll(["7"], { heartbeatSeconds: 1 / 0 }),
  "a time limit that is no number": (client) => client.wait("7", { timeoutSeconds: Number.NaN }),
  "a field of another type": (client) => client.send({ entityId: "abc", requestId: "id" }),
  "a field of another type in a run": (client) => client.run({ entityId: "abc", requestId: "id" }),
};

for (const [name, call] of Object.entries(wrong)) {
  test(`fails at once: ${name}`, async (t) => {
    const client = connect(t, "127.0.0.1:1");
    await assert.rejects(async () => call(client), { code: "INVALID_ARGUMENT", action: "fix" });
  });
}

test("each call says what is wrong with a uid", async (t) => {
  const client = connect(t, "127.0.0.1:1");
  for (const method of ["get", "cancel", "wait", "watch"]) {
    const message = 'uid must be a whole number as a string (got "abc")';
    await assert.rejects(async () => client[method]("abc"), { message });
  }
});

test("durations may have fractions", async (t) => {
  const seen = [];
  const client = await serve(t, {
    watchJob(call) {
      seen.push(call.request.heartbeatInterval);
      call.write(end("7"));
      call.end();
    },
    waitJob(call, answer) {
      seen.push(call.request.timeout);
      answer(null, Job.fromPartial({ uid: "7" }));
    },
  });
  await client.watch("7", { heartbeatSeconds: 1.5 }).finish();
  assert.equal((await client.wait("7", { timeoutSeconds: 0.25 })).done, false);
  const [interval, timeout] = seen;
  assert.deepEqual(interval, { seconds: 1, nanos: 500_000_000 });
  // The rest of the time.
  assert.ok(timeout.seconds === 0 && timeout.nanos > 0 && timeout.nanos < 250_000_000, timeout);
});

test("the gateway's error for a bad interval ends a watch", async (t) => {
  const client = await serve(t, {
    watchJob: (call) => fail(call, status.INVALID_ARGUMENT, { reason: "INVALID_REQUEST" }),
  });
  for (const heartbeatSeconds of [0, -1, 1e11]) {
    const watch = client.watch("7", { heartbeatSeconds, onRetry: assert.fail });
    await assert.rejects(watch.finish(), { reason: "INVALID_REQUEST" });
  }
});

test("a target with a scheme or white space is rejected", (t) => {
  for (const target of ["", "http://a:1", "HTTPS://a", " a:1", "a b:1"]) {
    assert.throws(() => connect(t, target), /target must be HOST:PORT/);
  }
  for (const target of ["dns:///a:1", "unix:/tmp/a", "a"]) connect(t, target);
});

test("a wait outlives the gateway", async (t) => {
  let calls = 0;
  const client = await serve(t, {
    waitJob(_, answer) {
      if (++calls < 9) answer(failure(status.UNAVAILABLE));
      else answer(null, Job.fromPartial({ uid: "7", done: true }));
    },
  });
  // No wait.
  t.mock.method(Math, "random", () => -1);
  assert.equal((await client.wait("7")).done, true);
  assert.equal(calls, 9);
});

test("a wait ends at its time limit", async (t) => {
  const timeouts = [];
  const client = await serve(t, {
    waitJob(call, answer) {
      timeouts.push(call.request.timeout);
      const later = { reason: "DRAINING", retryAfterSeconds: 600 };
      answer(failure(status.UNAVAILABLE, timeouts.length === 1 ? {} : later));
    },
  });
  const error = await client.wait("7", { timeoutSeconds: 300 }).catch((thrown) => thrown);
  assert.deepEqual([error.code, error.cause.code], ["DEADLINE_EXCEEDED", "UNAVAILABLE"]);
  assert.deepEqual([error.reason, error.cause.reason], ["", "DRAINING"]);
  assert.match(error.message, /within 300 s; the last attempt failed: UNAVAILABLE: sent by/);
  const [first, second] = timeouts.map(({ seconds, nanos }) => seconds + nanos / 1e9);
  assert.ok(second <= first - 0.1 && first < 300, [first, second]);
});

test("a time limit of a wait covers its login", async (t) => {
  const asked = gate();
  const token = () => {
    asked.resolve();
    return new Promise(() => {});
  };
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const client = connect(t, "127.0.0.1:1", { token });
  const waiting = client.wait("7", { timeoutSeconds: 5 });
  await asked.promise;
  t.mock.timers.tick(35_000);
  await assert.rejects(waiting, { code: "DEADLINE_EXCEEDED", message: "no response within 5 s" });
});

test("a wait repeats a failure of the upstream a few times", async (t) => {
  let calls = 0;
  const client = await serve(t, {
    waitJob(_, answer) {
      const reason = ++calls % 2 === 0 ? "UPSTREAM_ERROR" : "UPSTREAM_OUTAGE";
      const code = calls % 2 === 0 ? status.INTERNAL : status.UNAVAILABLE;
      if (calls < 20) answer(failure(code, { reason }));
      else answer(null, Job.fromPartial({ uid: "7", done: true }));
    },
  });
  // No wait.
  t.mock.method(Math, "random", () => -1);
  await assert.rejects(client.wait("7"), { reason: "UPSTREAM_ERROR" });
  assert.equal(calls, 10);
});

test("an unknown outcome is never sent again", async (t) => {
  let calls = 0;
  const client = await serve(t, {
    sendJob(_, answer) {
      calls++;
      answer(failure(status.UNKNOWN, { reason: "SUBMIT_OUTCOME_UNKNOWN" }));
    },
  });
  await assert.rejects(client.send({ requestId: "id" }), { action: "look" });
  assert.equal(calls, 1);
});

test("each violation of a field is reported", async (t) => {
  const fieldViolations = ["first", "second"].map((description) => ({ field: "a", description }));
  const value = BadRequest.encode(BadRequest.fromPartial({ fieldViolations })).finish();
  const details = [{ typeUrl: "type.googleapis.com/google.rpc.BadRequest", value }];
  const client = await serve(t, {
    getJob: (_, answer) => answer(failure(status.INVALID_ARGUMENT, { details })),
  });
  const fields = ["first", "second"].map((problem) => ({ field: "a", problem }));
  await assert.rejects(client.get("7"), { fields });
});

/** Starts each kind of call of a client whose gateway asks for a wait of a month. */
async function postponed(t, settings, options) {
  const waiting = gate();
  const refuse = { reason: "UPSTREAM_RATE_LIMITED", retryAfterSeconds: 3_000_000 };
  const error = failure(status.UNAVAILABLE, refuse);
  const client = await serve(
    t,
    {
      watchJob: (call) => call.emit("error", error),
      watchJobs: (call) => call.emit("error", error),
      getJob: (_, answer) => answer(error),
      waitJob: (_, answer) => answer(error),
    },
    options,
  );
  let left = 4;
  const onRetry = ({ waitMs }) => {
    assert.ok(waitMs >= 3_000_000_000);
    if (--left === 0) waiting.resolve();
  };
  const calls = [
    client.watch("7", { ...settings, onRetry }).finish(),
    client.watchAll(["7"], { ...settings, onRetry }).next(),
    client.get("7", { ...settings, onRetry }),
    client.wait("7", { ...settings, onRetry }),
  ].map((call) => call.catch((thrown) => thrown));
  await waiting.promise;
  return { client, calls };
}

test("closing the client ends each wait, and it stays closed", async (t) => {
  const { client, calls } = await postponed(t, {});
  client.close();
  for (const error of await Promise.all(calls)) {
    assert.deepEqual([error.code, error.reason, error.action], ["CANCELLED", "CLOSED", "give_up"]);
  }
  await assert.rejects(client.get("7"), /the client was closed/);
  await assert.rejects(client.watch("7").finish(), /the client was closed/);
});

test("a signal ends each wait, with its reason", async (t) => {
  const controller = new AbortController();
  const { calls } = await postponed(t, { signal: controller.signal });
  const reason = new Error("left");
  controller.abort(reason);
  for (const error of await Promise.all(calls)) assert.equal(error, reason);
});

test("a time limit has the last failure as its cause", async (t) => {
  const controller = new AbortController();
  const { calls } = await postponed(t, { signal: controller.signal });
  controller.abort(new DOMException("too late", "TimeoutError"));
  for (const error of await Promise.all(calls)) {
    assert.deepEqual([error.name, error.cause.reason], ["TimeoutError", "UPSTREAM_RATE_LIMITED"]);
    assert.match(error.message, /^too late; the last attempt failed: UNAVAILABLE: sent by/);
  }
});

test("a call waits for a login only until its signal", async (t) => {
  const asked = gate();
  const token = () => {
    asked.resolve();
    return new Promise(() => {});
  };
  const client = connect(t, "127.0.0.1:1", { token });
  const controller = new AbortController();
  const { signal } = controller;
  const left = [
    client.get("7", { signal }),
    client.watch("7", { signal }).finish(),
    client.watchAll(["7"], { signal }).next(),
  ];
  const closed = client.get("7");
  await asked.promise;
  const reason = new Error("left");
  controller.abort(reason);
  for (const call of left) await assert.rejects(call, reason);
  client.close();
  await assert.rejects(closed, { reason: "CLOSED" });
});

test("any number of watches may share a signal", async (t) => {
  const warnings = [];
  const warn = ({ name }) => warnings.push(name);
  process.on("warning", warn);
  t.after(() => process.off("warning", warn));
  const client = await serve(t, { watchJob: (call) => call.write(event("7")) });
  const controller = new AbortController();
  const { signal } = controller;
  const watches = Array.from({ length: 20 }, () => client.watch("7", { signal }));
  await Promise.all(watches.map((watch) => watch[Symbol.asyncIterator]().next()));
  controller.abort(new Error("left"));
  await Promise.allSettled(watches.map((watch) => watch.finish()));
  assert.deepEqual([warnings, getEventListeners(signal, "abort").length], [[], 0]);
});

test("null is no signal", async (t) => {
  let calls = 0;
  const client = await serve(t, {
    getJob: (_, answer) =>
      ++calls === 1 ? answer(failure(status.UNAVAILABLE)) : answer(null, Job.fromPartial({})),
  });
  await client.get("7", { signal: null });
  assert.equal(calls, 2);
});

test("the error of a callback ends the call, also a late one", async (t) => {
  const replayed = new Metadata();
  replayed.set("jobgateway-replayed", "true");
  const client = await serve(t, {
    runJob(call) {
      call.write(end("7"));
      call.end(replayed);
    },
    sendJob: (_, answer) => answer(null, Job.fromPartial({ uid: "7" }), replayed),
    getJob: (_, answer) => answer(failure(status.UNAVAILABLE)),
  });
  const thrown = new Error("of the callback");
  const throws = () => {
    throw thrown;
  };
  const rejects = async () => throws();
  for (const callback of [throws, rejects]) {
    for (const call of [
      () => client.run({}, { onReplayed: callback }).finish(),
      () => client.run({}, { onProgress: callback }).finish(),
      () => client.send({}, { onReplayed: callback }),
      () => client.get("7", { onRetry: callback }),
    ]) {
      await assert.rejects(call, thrown);
    }
  }
});

test("a retry waits, as long as the gateway asks", async (t) => {
  const at = {};
  const answer = (kind, fails, succeeds) => {
    at[kind] ??= [];
    const count = at[kind].push(performance.now());
    const asks = { reason: "UPSTREAM_RATE_LIMITED", retryAfterSeconds: 1 };
    if (count === 3) succeeds();
    else fails(failure(status.UNAVAILABLE, count === 1 ? { reason: "DRAINING" } : asks));
  };
  const stream = (kind) => (call) =>
    answer(
      kind,
      (error) => call.emit("error", error),
      () => {
        call.write(end("7"));
        call.end();
      },
    );
  const client = await serve(t, {
    watchJob: stream("watch"),
    watchJobs: stream("watchAll"),
    getJob: (_, done) => answer("get", done, () => done(null, Job.fromPartial({}))),
  });
  await Promise.all([client.watch("7").finish(), client.watchAll(["7"]).next(), client.get("7")]);
  for (const [kind, [one, two, three]] of Object.entries(at)) {
    // A timer may be a millisecond early.
    assert.ok(two - one >= 95 && three - two >= 995, `${kind}: ${two - one}, ${three - two}`);
  }
  assert.deepEqual(Object.keys(at).sort(), ["get", "watch", "watchAll"]);
});

test("a watch continues from a resume token", async (t) => {
  const tokens = [];
  const client = await serve(t, {
    watchJob(call) {
      tokens.push(call.request.resumeToken);
      call.write(end("7"));
      call.end();
    },
  });
  const watch = client.watch("7", { resumeToken: "old" });
  await watch.finish();
  assert.deepEqual([tokens, watch.resumeToken], [["old"], "a"]);
});

test("the gateway sees the name and version of the client", async (t) => {
  let seen;
  const client = await serve(t, {
    getJob(call, answer) {
      [seen] = call.metadata.get("user-agent");
      answer(null, Job.fromPartial({}));
    },
  });
  await client.get("7");
  const { version } = JSON.parse(await readFile(new URL("../package.json", import.meta.url)));
  assert.ok(seen.startsWith(`jobgateway-typescript/${version} grpc-node-js/`), seen);
});

test("a client never shows its token", async (t) => {
  const token = "top-secret";
  const client = connect(t, "127.0.0.1:1", { token });
  assert.doesNotMatch(inspect(client, { depth: 20, showHidden: true }), /top-secret/);
  for (const bad of [`${token}\n`, ` ${token}`, `${token}\u00fc`, ""]) {
    const check = (error) =>
      error.code === "INVALID_ARGUMENT" &&
      /the token is empty, or has a line break/.test(error.message) &&
      !inspect(error, { depth: 20 }).includes(token);
    assert.throws(() => connect(t, "127.0.0.1:1", { token: bad }), check);
    const asking = connect(t, "127.0.0.1:1", { token: async () => bad });
    await assert.rejects(asking.get("7"), check);
    await assert.rejects(asking.watch("7", { onRetry: assert.fail }).finish(), check);
  }
});
