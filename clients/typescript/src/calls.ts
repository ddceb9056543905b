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
  /** Is called if a submission returned the job of an earlier one with the same `requestId`. */
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
  /** Retry for this time, instead of up to five attempts. */
  retrySeconds?: number;
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
  let loggedIn = false;

  try {
    for (let attempt = 1; ; attempt++) {
      const { request, deadlineSeconds } = call.attempt(attempt === 1 ? 0 : spentSeconds());
      const login = await cancellation.race(() => credential.current());
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
        verify(response.job, undefined);
        return response.job;
      }
      const { error } = response;
      cancellation.throwIfAborted();
      cancellation.lastError = error;
      let again = call.mayRetry(error);
      if (error.code === "UNAUTHENTICATED" && !loggedIn) {
        loggedIn = true;
        again = await cancellation.race(() => credential.renew(login));
      }
      if (!again) throw error;
      const waitMs = backoff.next(error.retryAfterSeconds);
      if (call.retrySeconds === undefined) {
        if (attempt === MAX_ATTEMPTS) throw error;
      } else if (spentSeconds() + waitMs / 1000 >= call.retrySeconds) {
        throw overdue(error, call.retrySeconds);
      }
      await onRetry?.({ error, waitMs, newConnection: error.wantsNewConnection });
      await cancellation.sleep(waitMs);
      if (error.wantsNewConnection) connections.replace(connection);
    }
  } finally {
    cancellation.release();
  }
}

function overdue(error: GatewayError, seconds: number): GatewayError {
  const { code, message, reason, metadata, retryAfterSeconds } = error;
  return new GatewayError(
    "DEADLINE_EXCEEDED",
    `no response within ${seconds} s; the last attempt failed: ${code}: ${message}`,
    { reason, metadata, retryAfterSeconds },
    { cause: error },
  );
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
