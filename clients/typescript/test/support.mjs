/** A gateway for tests, whose methods are functions of the test. */

import { createHash } from "node:crypto";
import { Metadata, Server, ServerCredentials } from "@grpc/grpc-js";
import { Client, Job, JobEvent, JobServiceService, JobStatus } from "jobgateway-client";
import { ErrorInfo, RetryInfo } from "nice-grpc-error-details";
import { Status } from "nice-grpc-error-details/lib/proto/google/rpc/status.js";

/** Serves `methods` until the end of the test, and returns the target. */
export async function listen(t, methods, credentials = ServerCredentials.createInsecure()) {
  const server = new Server();
  server.addService(JobServiceService, methods);
  const port = await new Promise((resolve, reject) => {
    const bound = (error, found) => (error ? reject(error) : resolve(found));
    server.bindAsync("127.0.0.1:0", credentials, bound);
  });
  t.after(() => server.forceShutdown());
  return `127.0.0.1:${port}`;
}

/** Serves `methods` until the end of the test, and returns a client. */
export async function serve(t, methods, options) {
  return connect(t, await listen(t, methods), options);
}

export function connect(t, target, options) {
  const client = new Client(target, options);
  t.after(() => client.close());
  return client;
}

/** A promise that a test resolves. Node.js 20 has no `Promise.withResolvers`. */
export function gate() {
  let resolve;
  const promise = new Promise((done) => {
    resolve = done;
  });
  return { promise, resolve };
}

export function event(uid, job = {}, resumeToken = "a") {
  const value = Job.fromPartial({ uid, ...job });
  return JobEvent.fromPartial({ uid, resumeToken, payload: { $case: "job", value } });
}

export function end(uid, job = {}) {
  return event(uid, { done: true, status: JobStatus.JOB_STATUS_SUCCESS, ...job });
}

/** The fields of a job whose result is `json`. */
export function result(json) {
  const value = Buffer.from(json);
  return {
    contentSize: value.length,
    contentSha256: createHash("sha256").update(value).digest("hex"),
    result: { $case: "contentJson", value },
  };
}

/** An error of a call. With a `reason`, it is one of the gateway. */
export function failure(code, { reason, metadata = {}, retryAfterSeconds, details = [] } = {}) {
  const trailers = new Metadata();
  const found = [...details];
  if (reason) {
    const value = ErrorInfo.encode(
      ErrorInfo.fromPartial({ domain: "jobgateway", reason, metadata }),
    ).finish();
    found.push({ typeUrl: "type.googleapis.com/google.rpc.ErrorInfo", value });
  }
  if (retryAfterSeconds) {
    const retryDelay = { seconds: retryAfterSeconds };
    const value = RetryInfo.encode(RetryInfo.fromPartial({ retryDelay })).finish();
    found.push({ typeUrl: "type.googleapis.com/google.rpc.RetryInfo", value });
  }
  if (found.length > 0) {
    const encoded = Status.encode(Status.fromPartial({ code, details: found })).finish();
    trailers.set("grpc-status-details-bin", Buffer.from(encoded));
  }
  return { code, details: "sent by the test", metadata: trailers };
}

/** Ends a stream with an error. */
export function fail(call, code, about) {
  call.emit("error", failure(code, about));
}
