import { setTimeout as sleep } from "node:timers/promises";
import type {
  CallOptions,
  ClientUnaryCall,
  Metadata,
  requestCallback,
  ServiceError,
  StatusObject,
} from "@grpc/grpc-js";
import { Backoff } from "./backoff.js";
import {
  type Connection,
  type Connections,
  type Credential,
  isReplayed,
  metadataFor,
} from "./connections.js";
import { verify } from "./content.js";
import { GatewayError, isServiceError } from "./errors.js";
import type { Job, JobServiceClient } from "./gen/jobgateway/v1/job_service.js";

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

/** Options of every call. */
export interface CallSettings {
  /** Is called before the wait for each further attempt. If it throws, its error ends the call. */
  onRetry?: ((retry: Retry) => void) | undefined;
  /** Is called if a submission returned the job of an earlier one with the same `requestId`. */
  onReplayed?: (() => void) | undefined;
  /** Ends the call, with its reason as the error. */
  signal?: AbortSignal | undefined;
}

type Method<Request> = (
  request: Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: requestCallback<Job>,
) => ClientUnaryCall;

/** A unary call. */
export interface UnaryCall<Request> {
  method: (stub: JobServiceClient) => Method<Request>;
  request: Request;
  /** The job that the call is about. */
  uid?: string;
  /** The time after which the connection counts as dead. */
  deadlineSeconds: number;
  mayRetry: (error: GatewayError) => boolean;
}

/** Makes a unary call. Retries it after a wait, or once with a fresh token, if the error allows that. */
export async function unary<Request>(
  connections: Connections,
  credential: Credential,
  call: UnaryCall<Request>,
  { onRetry, onReplayed, signal }: CallSettings,
): Promise<Job> {
  const backoff = new Backoff();
  let loggedIn = false;

  for (let attempt = 1; ; attempt++) {
    const token = await credential.token();
    signal?.throwIfAborted();
    const connection = connections.current;
    try {
      const { job, trailers } = await callOnce(connections, connection, call, token, signal);
      if (isReplayed(trailers)) onReplayed?.();
      verify(job, undefined, false);
      return job;
    } catch (failure) {
      if (!isServiceError(failure)) throw failure;
      signal?.throwIfAborted();
      connections.throwIfClosed();
      const error = GatewayError.of(failure);
      let again = call.mayRetry(error);
      if (error.code === "UNAUTHENTICATED" && !loggedIn) {
        loggedIn = true;
        again = await credential.renew(token);
      }
      if (!again || attempt === MAX_ATTEMPTS) throw error;
      const waitMs = backoff.next(error.retryAfterSeconds);
      onRetry?.({ error, waitMs, newConnection: error.wantsNewConnection });
      await sleep(waitMs, undefined, { signal });
      if (error.wantsNewConnection) connections.replace(connection);
    }
  }
}

function callOnce<Request>(
  connections: Connections,
  connection: Connection,
  { method, request, uid, deadlineSeconds }: UnaryCall<Request>,
  token: string | undefined,
  signal: AbortSignal | undefined,
): Promise<{ job: Job; trailers: Metadata }> {
  const { stub } = connection;
  const deadline = Date.now() + deadlineSeconds * 1000;
  return new Promise((resolve, reject) => {
    let job: Job | undefined;
    let failure: ServiceError | null = null;
    const metadata = metadataFor(token, uid);
    const call = method(stub).call(stub, request, metadata, { deadline }, (error, response) => {
      failure = error;
      job = response;
    });
    const cancel = () => call.cancel();
    connection.calls.add(call);
    signal?.addEventListener("abort", cancel);
    // The status comes after the response.
    call.on("status", ({ metadata: trailers }: StatusObject) => {
      signal?.removeEventListener("abort", cancel);
      connections.release(connection, call);
      if (job) resolve({ job, trailers });
      else reject(failure);
    });
  });
}
