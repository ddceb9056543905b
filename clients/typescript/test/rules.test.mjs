import assert from "node:assert/strict";
import { test } from "node:test";
import { status } from "@grpc/grpc-js";
import { GatewayError, JobEvent } from "jobgateway-client";
import { Backoff } from "../dist/backoff.js";
import { isServiceError } from "../dist/errors.js";
import { JobWatches } from "../dist/job-watches.js";
import { ResumePolicy } from "../dist/resume.js";
import { silenceMs } from "../dist/stream.js";
import { end, event, failure } from "./support.mjs";

test("waits double to five seconds, and are half random", (t) => {
  const backoff = new Backoff();
  t.mock.method(Math, "random", () => 1);
  const waits = () => Array.from({ length: 7 }, () => backoff.next());
  assert.deepEqual(waits(), [200, 400, 800, 1600, 3200, 5000, 5000]);
  Math.random = () => 0;
  backoff.reset();
  assert.deepEqual(waits(), [100, 200, 400, 800, 1600, 2500, 2500]);
  assert.equal(backoff.next(60), 60_000);
});

test("silence is three intervals, and three seconds at least", () => {
  const found = [15, 1, 0.1, 0, -5, 1e300].map(silenceMs);
  assert.deepEqual(found, [45_000, 3000, 3000, 3000, 3000, 2 ** 31 - 1]);
});

const REASONED = { reason: "UPSTREAM_ERROR" };
const SILENT = { reason: "SILENT" };
const LIMITED = { ...REASONED, retryAfterSeconds: 1 };

// The code and details of a status, and whether a watch resumes before and after its first event.
const statuses = [
  ["UNAVAILABLE", {}, true, true],
  ["UNAVAILABLE", REASONED, true, true],
  ["RESOURCE_EXHAUSTED", LIMITED, true, true],
  ["RESOURCE_EXHAUSTED", REASONED, false, false],
  ["RESOURCE_EXHAUSTED", {}, false, true],
  ["OUT_OF_RANGE", {}, false, true],
  ["INTERNAL", {}, true, true],
  ["INTERNAL", REASONED, false, false],
  ["UNKNOWN", {}, true, true],
  ["CANCELLED", {}, true, true],
  ["CANCELLED", SILENT, true, true],
  ["DEADLINE_EXCEEDED", {}, true, true],
  ["OK", {}, true, true],
  ["UNIMPLEMENTED", {}, false, true],
  ["PERMISSION_DENIED", {}, false, true],
  ["NOT_FOUND", REASONED, false, false],
  ["UNAUTHENTICATED", REASONED, false, false],
  ["UNAUTHENTICATED", {}, false, true],
];

for (const [code, details, before, after] of statuses) {
  test(`a watch resumes after ${code} ${details.reason ?? ""}: ${before}, ${after}`, () => {
    const error = new GatewayError(code, "", details);
    const found = [false, true].map((received) => {
      const policy = new ResumePolicy();
      policy.opened();
      if (received) policy.received({ provesToken: true });
      return policy.decide(error, "a", false) !== undefined;
    });
    assert.deepEqual(found, [before, after]);
  });
}

test("a size limit is final when it comes again at one place", () => {
  const policy = new ResumePolicy();
  const error = new GatewayError("RESOURCE_EXHAUSTED", "");
  policy.received({ provesToken: true });
  const resumes = ["a", "a", "b", "b"].map((place) => policy.decide(error, place, false));
  assert.deepEqual(
    resumes.map((each) => each !== undefined),
    [true, false, true, false],
  );
});

test("a fresh token is final until an event proves it", () => {
  const policy = new ResumePolicy();
  const error = new GatewayError("UNAUTHENTICATED", "", REASONED);
  assert.equal(policy.wantsToken(error), true);
  assert.ok(policy.decide(error, "", true));
  policy.received({ provesToken: false });
  assert.equal(policy.wantsToken(error), false);
  policy.received({ provesToken: true });
  assert.equal(policy.wantsToken(error), true);
});

test("only a stream that works for five seconds resets the wait", (t) => {
  t.mock.method(Math, "random", () => 1);
  let nowMs = 0;
  const policy = new ResumePolicy(() => nowMs);
  const wait = (ms) => {
    policy.opened();
    nowMs += ms;
    policy.received({ provesToken: true });
    return policy.retry(new GatewayError("UNAVAILABLE", "")).waitMs;
  };
  assert.deepEqual([wait(0), wait(5000), wait(5001), wait(0)], [200, 400, 200, 400]);
});

test("a new connection is for errors that may be of the old one", () => {
  const wants = ["", "DRAINING", "SILENT", "UPSTREAM_ERROR"].map((reason) => {
    const error = new GatewayError("UNAVAILABLE", "", { reason });
    return new ResumePolicy().retry(error).newConnection;
  });
  assert.deepEqual(wants, [true, true, true, false]);
});

test("an error of the client is not taken for one of gRPC", () => {
  const errors = [Object.assign(new Error(), failure(5)), new GatewayError("DATA_LOSS", "")];
  assert.deepEqual(errors.map(isServiceError), [true, false]);
});

function failed(uid, code, about = {}, resumeToken = "") {
  const value = { code, message: "", reason: "OF_A_TEST", metadata: {}, ...about };
  return JobEvent.fromPartial({ uid, resumeToken, payload: { $case: "failure", value } });
}

/** Returns watches whose requests were all sent, and a clock. */
function begun(uids) {
  const clock = { ms: 0 };
  const watches = new JobWatches(uids, undefined, 15, () => clock.ms);
  watches.begin();
  return { watches, clock, sent: () => requests(watches) };
}

function requests(watches) {
  const found = [];
  for (;;) {
    const request = watches.nextRequest();
    if (!request) return found;
    found.push(request.action.value);
  }
}

test("each job is watched, and again from its own place", () => {
  const { watches, sent } = begun(["1", "2", "1"]);
  assert.deepEqual(
    sent().map(({ uid, heartbeatInterval }) => [uid, heartbeatInterval.seconds]),
    [
      ["1", 15],
      ["2", 15],
    ],
  );
  watches.take(event("1", {}, "a"));
  watches.take(event("1", {}, ""));
  watches.take(end("2"));
  watches.begin();
  assert.deepEqual(
    sent().map(({ uid, resumeToken }) => [uid, resumeToken]),
    [["1", "a"]],
  );
});

test("one job is watched again after a growing wait of its own", (t) => {
  t.mock.method(Math, "random", () => 1);
  const { watches, clock, sent } = begun(["1", "2"]);
  sent();
  const again = (about) => watches.take(failed("1", status.UNAVAILABLE, about)).retry.waitMs;
  assert.equal(again(), 200);
  assert.deepEqual([sent(), watches.nextDueMs], [[], 200]);
  clock.ms = 200;
  assert.deepEqual(
    sent().map(({ uid }) => uid),
    ["1"],
  );
  assert.equal(again({ retryDelay: { seconds: 60 } }), 60_000);
  clock.ms = 60_199;
  assert.equal(sent().length, 0);
  clock.ms = 60_200;
  assert.equal(sent().length, 1);
  assert.equal(again(), 800);
  clock.ms = 61_000;
  sent();
  clock.ms += 5001;
  watches.take(event("1"));
  assert.equal(again(), 200);
});

test("a failure is no progress, and ends its own job only", () => {
  const { watches, sent } = begun(["1", "2"]);
  sent();
  const found = watches.take(failed("1", status.NOT_FOUND, {}, "a"));
  assert.deepEqual([found.kind, found.uid, found.error.code], ["failed", "1", "NOT_FOUND"]);
  assert.deepEqual([watches.pending, watches.position], [1, 0]);
  watches.take(event("2", {}, "b"));
  assert.equal(watches.position, 1);
  assert.equal(watches.take(event("1")), undefined);
  const twice = failed("2", status.ALREADY_EXISTS, { reason: "ALREADY_WATCHED" });
  assert.deepEqual([watches.take(twice), watches.pending], [undefined, 1]);
});

test("a fresh token is proven for each job, or for all by synced", () => {
  const rejected = (uid) => failed(uid, status.UNAUTHENTICATED);
  const { watches, sent } = begun(["1", "2", "3"]);
  const resume = () => {
    watches.tokenRenewed();
    watches.begin();
    return sent().length;
  };
  sent();
  assert.equal(watches.take(rejected("1")).kind, "login");
  resume();
  watches.take(event("1"));
  assert.deepEqual(
    ["1", "2"].map((uid) => watches.take(rejected(uid)).kind),
    ["login", "failed"],
  );
  const watchRequests = resume();
  const synced = (count) =>
    JobEvent.fromPartial({ payload: { $case: "synced", value: { watchRequests: count } } });
  assert.equal(watches.take(synced(watchRequests - 1)).kind, "synced");
  assert.equal(watches.take(rejected("1")).kind, "failed");
  watches.take(synced(watchRequests));
  const outcome = watches.take(rejected("3"));
  assert.equal(outcome.kind, "login");
  assert.equal(watches.withoutLogin(outcome).kind, "failed");
});
