import type { ClientUnaryCall, Metadata, ServiceError, StatusObject } from "@grpc/grpc-js";
import { Backoff } from "./backoff.js";
import { Cancellation } from "./cancellation.js";
import { type Connection, type Connections, isReplayed, metadataFor } from "./connections.js";
import { verify } from "./content.js";
import type { Credential } from "./credential.js";
import { GatewayError } from "./errors.js";
import type { Job } from "./gen/jobgateway/v1/job_service.js";
import { asEncoded } from "./requests.js";

const MAX_ATTEMPTS = 5;
/** The time limit of a read. The gateway gives up after 10 silent seconds. */
export const READ_SECONDS = 30;

/** A further attempt after an error. */
export interface Retry {
  error: GatewayError;
  waitMs: number;
  newConnection: boolean;
  /** The job that a `watchAll` watches again on the same stream. */
  uid?: string;
  /** The number of jobs of a `watchAll` that have not ended. */
  jobs?: number;
}

/**
 * Options of every call. The call waits for a callback that returns a promise. If a callback fails, its error ends the call.
 */
export interface CallSettings {
  /** Is called before the wait for each further attempt. */
  onRetry?: ((retry: Retry) => unknown) | undefined;
  /**
   * Is called if a submission returned the job of an earlier one with the same `requestId`. A `run` knows it at the end of its
   * stream, after the last event: it is not called if you leave the loop before.
   */
  onReplayed?: (() => unknown) | undefined;
  /**
   * Ends the call, with its reason as the error. A `TimeoutError`, that of `AbortSignal.timeout`, has the failure from
   * which the call was recovering as its `cause`.
   */
  signal?: AbortSignal | null | undefined;
}

/** A unary call. */
export interface UnaryCall {
  method: { path: string; responseDeserialize: (bytes: Buffer) => Job };
  /** Returns the encoded request of an attempt, and the time after which the connection counts as dead. */
  attempt: (spentSeconds: number) => { request: Buffer; deadlineSeconds: number };
  /** The job that the call is about. */
  uid?: string;
  mayRetry: (error: GatewayError) => boolean;
  /**
   * The call waits for a job: it retries an outage as often as needed, up to this total time, and other errors up to five
   * attempts.
   */
  waitSeconds?: number;
}

type Response = { job: Job; trailers: Metadata } | { error: GatewayError };

/** Makes a unary call. Retries it after a wait, or once with a fresh token, if the error allows that. */
export async function unary(
  connections: Connections,
  credential: Credential,
  call: UnaryCall,
  { onRetry, onReplayed, signal }: CallSettings,
): Promise<Job> {
  const beganAt = performance.now();
  const spentSeconds = () => (performance.now() - beganAt) / 1000;
  const backoff = new Backoff();
  const cancellation = new Cancellation(connections.closed, signal);
  const isWait = call.waitSeconds !== undefined;
  const waitSeconds = call.waitSeconds ?? Number.POSITIVE_INFINITY;
  let [attempts, loggedIn] = [0, false];
  // Also limits a login.
  const limit = cancellation.after(Math.max(waitSeconds, 0) + READ_SECONDS, () =>
    overdue(cancellation.lastError, waitSeconds),
  );

  try {
    for (;;) {
      const login = await cancellation.race(() => credential.current());
      const { request, deadlineSeconds } = call.attempt(spentSeconds());
      const connection = connections.current;
      const options = { deadline: Date.now() + deadlineSeconds * 1000 };
      const response = await callOnce(connections, connection, cancellation.signal, (done) =>
        connection.stub.makeUnaryRequest(
          call.method.path,
          asEncoded,
          call.method.responseDeserialize,
          request,
          metadataFor(login, call.uid),
          options,
          done,
        ),
      );
      if ("job" in response) {
        if (isReplayed(response.trailers)) await onReplayed?.();
        verify(response.job, { delivered: false });
        return response.job;
      }
      const { error } = response;
      cancellation.throwIfAborted();
      cancellation.lastError = error;
      let again = call.mayRetry(error);
      const isSent = call.uid === undefined && error.uid !== "";
      if (error.code === "UNAUTHENTICATED" && !loggedIn && !isSent) {
        loggedIn = true;
        again = await cancellation.race(() => credential.renew(login));
      }
      if (!again) throw error;
      if (!(isWait && error.isOutage) && ++attempts === MAX_ATTEMPTS) throw error;
      const waitMs = backoff.next(error.retryAfterSeconds);
      if (spentSeconds() + waitMs / 1000 >= waitSeconds) throw overdue(error, waitSeconds);
      await onRetry?.({ error, waitMs, newConnection: error.wantsNewConnection });
      await cancellation.sleep(waitMs);
      if (error.wantsNewConnection) connections.replace(connection);
    }
  } finally {
    clearTimeout(limit);
    cancellation.release();
  }
}

function overdue(last: GatewayError | undefined, seconds: number): GatewayError {
  const before = last ? `; the last attempt failed: ${last.code}: ${last.message}` : "";
  const message = `no response within ${seconds} s${before}`;
  const { metadata = {} } = last ?? {};
  return new GatewayError("DEADLINE_EXCEEDED", message, { metadata }, { cause: last });
}

function callOnce(
  connections: Connections,
  connection: Connection,
  signal: AbortSignal,
  start: (done: (error: ServiceError | null, job?: Job) => void) => ClientUnaryCall,
): Promise<Response> {
  return new Promise((resolve) => {
    let job: Job | undefined;
    let failure: ServiceError | null = null;
    const call = start((error, response) => {
      failure = error;
      job = response;
    });
    const cancel = () => call.cancel();
    connection.calls++;
    signal.addEventListener("abort", cancel);
    // The status comes after the response.
    call.on("status", (status: StatusObject) => {
      signal.removeEventListener("abort", cancel);
      connections.release(connection);
      if (job) resolve({ job, trailers: status.metadata });
      else resolve({ error: GatewayError.of(failure ?? status) });
    });
  });
}
