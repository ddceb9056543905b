import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createConnection, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { connectivityState, ServerCredentials, status } from "@grpc/grpc-js";
import { Job } from "jobgateway-client";
import { Connections, credentialsOf } from "../dist/connections.js";
import { Credential } from "../dist/credential.js";
import { connect, end, event, fail, failure, gate, listen, serve } from "./support.mjs";

function isClosed({ stub }) {
  return stub.getChannel().getConnectivityState(false) === connectivityState.SHUTDOWN;
}

test("a replaced connection is closed after its last call", (t) => {
  const connections = new Connections("127.0.0.1:1", credentialsOf(undefined), {});
  t.after(() => connections.close());
  const first = connections.current;
  first.calls = 2;
  connections.replace(first);
  const second = connections.current;
  assert.notEqual(second, first);
  connections.replace(first);
  assert.equal(connections.current, second);
  const closed = [isClosed(first)];
  for (let call = 0; call < 2; call++) {
    connections.release(first);
    closed.push(isClosed(first));
  }
  assert.deepEqual(closed, [false, false, true]);
  connections.replace(second);
  assert.deepEqual([isClosed(second), isClosed(connections.current)], [true, false]);
});

test("calls leave no trace on the connection", async (t) => {
  const peers = new Set();
  const target = await listen(t, {
    watchJob(call) {
      peers.add(call.getPeer());
      if (call.request.uid === "1") fail(call, status.NOT_FOUND);
      else call.write(event(call.request.uid));
    },
    getJob(call, answer) {
      peers.add(call.getPeer());
      answer(null, Job.fromPartial({}));
    },
  });
  const client = connect(t, target);
  await client.get("7");
  await assert.rejects(client.watch("1").finish(), { code: "NOT_FOUND" });
  for await (const seen of client.watch("7")) if (seen) break;
  const failing = async () => {
    for await (const seen of client.watch("7")) throw new Error(seen.kind);
  };
  await assert.rejects(failing(), /job/);
  assert.equal(peers.size, 1);
});

/** Forwards connections to `target`. Returns its own target, and for each connection a promise of its end. */
async function forward(t, target) {
  const closed = [];
  const [host, port] = target.split(":");
  const server = createServer((socket) => {
    const upstream = createConnection({ host, port });
    closed.push(new Promise((resolve) => socket.on("close", resolve)));
    for (const each of [socket, upstream]) each.on("error", () => {});
    socket.pipe(upstream).pipe(socket);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  return { target: `127.0.0.1:${server.address().port}`, closed };
}

const calls = {
  watch: (client) => client.watch("7").finish(),
  watchAll: (client) => client.watchAll(["7"]).next(),
  get: (client) => client.get("7"),
};

for (const [kind, begin] of Object.entries(calls)) {
  test(`a retry uses a new connection and closes the old one: ${kind}`, async (t) => {
    const peers = [];
    const draining = failure(status.UNAVAILABLE, { reason: "DRAINING" });
    const stream = (call) => {
      if (peers.push(call.getPeer()) === 1) call.emit("error", draining);
      else {
        call.write(end("7"));
        call.end();
      }
    };
    const getJob = (call, answer) => {
      if (peers.push(call.getPeer()) === 1) answer(draining);
      else answer(null, Job.fromPartial({}));
    };
    const gateway = await listen(t, { watchJob: stream, watchJobs: stream, getJob });
    const { target, closed } = await forward(t, gateway);
    await begin(connect(t, target));
    assert.deepEqual([new Set(peers).size, closed.length], [2, 2]);
    await closed[0];
  });
}

test("calls share one login", async () => {
  let logins = 0;
  const credential = new Credential(async () => {
    logins++;
    return "same";
  });
  const first = await credential.current();
  const renew = () => credential.renew(first);
  const renewed = await Promise.all(Array.from({ length: 20 }, renew));
  // Too late for the login of the others, but before a rejection of its result.
  renewed.push(await renew());
  assert.deepEqual([logins, new Set(renewed)], [2, new Set([true])]);
  assert.notEqual(await credential.current(), first);
});

test("a failed login fails one call, and the next one tries it again", async () => {
  let logins = 0;
  const credential = new Credential(async () => {
    if (++logins === 1) throw new Error("of the login");
    return "token";
  });
  const calls = Array.from({ length: 5 }, () => credential.current());
  const found = await Promise.allSettled(calls);
  assert.deepEqual(
    found.map(({ value, reason }) => value?.token ?? reason.message),
    ["of the login", "token", "token", "token", "token"],
  );
  assert.equal(logins, 2);
});

test("a login without another token is final", async () => {
  const tokens = ["one"];
  const credential = new Credential(() => tokens.pop());
  const login = await credential.current();
  assert.deepEqual([login.token, await credential.renew(login)], ["one", false]);
  const fixed = new Credential("one");
  assert.equal(await fixed.renew(await fixed.current()), false);
});

test("a watch tries the same token once more", async (t) => {
  let calls = 0;
  const client = await serve(
    t,
    {
      watchJob(call) {
        calls++;
        fail(call, status.UNAUTHENTICATED, { reason: "TOKEN_REJECTED" });
      },
    },
    { token: () => "same" },
  );
  await assert.rejects(client.watch("7").finish(), { reason: "TOKEN_REJECTED" });
  assert.equal(calls, 2);
});

/** Returns a certificate of 127.0.0.1, which is its own authority, and its key. */
function certificate(t) {
  const folder = mkdtempSync(join(tmpdir(), "jobgateway-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const [cert, key] = ["cert.pem", "key.pem"].map((name) => join(folder, name));
  const options = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=test";
  const names = "subjectAltName=IP:127.0.0.1";
  const args = ["req", ...options.split(" "), "-addext", names, "-keyout", key, "-out", cert];
  execFileSync("openssl", args, { stdio: "ignore" });
  return { cert: readFileSync(cert), key: readFileSync(key) };
}

test("both sides prove their identity with TLS", async (t) => {
  const [server, own] = [certificate(t), certificate(t)];
  const pair = { cert_chain: server.cert, private_key: server.key };
  const credentials = ServerCredentials.createSsl(own.cert, [pair], true);
  const getJob = (call, answer) => answer(null, Job.fromPartial({ uid: call.request.uid }));
  const target = await listen(t, { getJob }, credentials);
  const get = async (tls) => {
    const controller = new AbortController();
    let seen;
    const onRetry = ({ error }) => {
      seen = error.message;
      controller.abort();
    };
    const client = connect(t, target, { tls });
    const job = await client.get("7", { onRetry, signal: controller.signal }).catch(() => {});
    return job?.uid ?? seen;
  };
  assert.equal(await get({ ca: server.cert, ...own }), "7");
  assert.match(await get({ ca: own.cert, ...own }), /self-signed certificate/);
  assert.match(await get({ ca: server.cert }), /certificate required|client certificate/);
  assert.match(await get(undefined), /the peer closed the connection|ECONNRESET/);
});

test("malformed certificates are rejected", (t) => {
  const [one, other] = [certificate(t), certificate(t)];
  const garbage = Buffer.from("garbage");
  for (const tls of [
    { ca: garbage },
    { cert: garbage, key: garbage },
    { cert: one.cert },
    { key: one.key },
    { cert: one.cert, key: other.key },
  ]) {
    assert.throws(() => connect(t, "127.0.0.1:1", { tls }), /^GatewayError: tls must have/);
  }
});

test("the error names a peer that is no gateway", async (t) => {
  const server = createServer((socket) => socket.end());
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  const client = connect(t, `127.0.0.1:${server.address().port}`);
  const seen = gate();
  const watch = client.watch("7", { onRetry: ({ error }) => seen.resolve(error.message) });
  const ended = assert.rejects(watch.finish(), { reason: "CLOSED" });
  assert.match(await seen.promise, /the peer closed the connection|ECONNRESET/);
  client.close();
  await ended;
});
