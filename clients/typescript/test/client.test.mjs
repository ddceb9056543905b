import assert from "node:assert/strict";
import { test } from "node:test";
import { Metadata, Server, ServerCredentials, status } from "@grpc/grpc-js";
import {
  Client,
  GatewayError,
  Job,
  JobEvent,
  JobServiceService,
  JobStatus,
} from "jobgateway-client";
import { Credential } from "../dist/connections.js";

/** Serves `methods` until the end of the test, and returns a client. */
async function serve(t, methods, options) {
  const server = new Server();
  server.addService(JobServiceService, methods);
  const port = await new Promise((resolve, reject) => {
    const bound = (error, found) => (error ? reject(error) : resolve(found));
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), bound);
  });
  const client = new Client(`127.0.0.1:${port}`, options);
  t.after(() => {
    client.close();
    server.forceShutdown();
  });
  return client;
}

/** A promise that a test resolves. Node.js 20 has no `Promise.withResolvers`. */
function gate() {
  let resolve;
  const promise = new Promise((done) => {
    resolve = done;
  });
  return { promise, resolve };
}

function event(uid, job = {}) {
  const value = Job.fromPartial({ uid, ...job });
  return JobEvent.fromPartial({ uid, resumeToken: "a", payload: { $case: "job", value } });
}

function end(uid) {
  return event(uid, { done: true, status: JobStatus.JOB_STATUS_SUCCESS });
}

function fail(call, code) {
  call.emit("error", { code, details: "sent by a proxy", metadata: new Metadata() });
}

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

test("calls share one login", async () => {
  let logins = 0;
  const credential = new Credential(async () => String(++logins));
  const first = await credential.token();
  await Promise.all(Array.from({ length: 20 }, () => credential.renew(first)));
  assert.deepEqual([logins, await credential.token()], [2, "2"]);
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

test("a damaged result ends a watch", async (t) => {
  let watches = 0;
  const client = await serve(t, {
    watchJob(call) {
      watches++;
      const result = { $case: "contentJson", value: Buffer.from("[1]") };
      call.write(event("7", { done: true, contentSize: 3, contentSha256: "00", result }));
      call.end();
    },
  });
  await assert.rejects(client.watch("7").finish(), { code: "DATA_LOSS" });
  assert.equal(watches, 1);
});

test("closing the client ends a watch, and a signal too", async (t) => {
  const client = await serve(t, { watchJob: (call) => call.write(event("7")) });
  const aborted = new AbortController();
  const onProgress = () => aborted.abort(new Error("left"));
  await assert.rejects(client.watch("7", { onProgress, signal: aborted.signal }).finish(), /left/);
  const closed = client.watch("7", { onProgress: () => client.close() }).finish();
  await assert.rejects(
    closed,
    (error) => error instanceof GatewayError && /closed/.test(error.message),
  );
  await assert.rejects(client.get("7"), /closed/);
});
