import { setTimeout as sleep } from "node:timers/promises";
import type { CallOptions, ClientUnaryCall, Metadata, requestCallback } from "@grpc/grpc-js";
import { Backoff } from "./backoff.js";
import { describe, type Failure, isServiceError } from "./errors.js";
import type { Gateway } from "./gateway.js";
import type { JobServiceClient } from "./gen/jobgateway/v1/job_service.js";

const MAX_ATTEMPTS = 5;

type Method<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: requestCallback<Response>,
) => ClientUnaryCall;

/** The deadline and the retries of a call. */
export interface CallPolicy {
  deadlineSeconds: number;
  /** A second call has no further effect. */
  repeatable: boolean;
  /** Receives each failure, before the reaction to it. */
  onFailure: (failure: Failure) => void;
}

/**
 * Makes a unary call. Retries it after a wait, or once with a fresh token, if the error allows that.
 *
 * @throws the `ServiceError` of the last call
 */
export async function unary<Request extends object, Response>(
  gateway: Gateway,
  method: (client: JobServiceClient) => Method<Request, Response>,
  request: Request,
  { deadlineSeconds, repeatable, onFailure }: CallPolicy,
): Promise<Response> {
  const backoff = new Backoff();
  let loggedIn = false;

  for (let attempt = 1; ; attempt++) {
    try {
      return await callOnce(gateway, method, request, deadlineSeconds);
    } catch (error) {
      if (!isServiceError(error)) throw error;
      const failure = describe(error);
      onFailure(failure);
      if (failure.action === "retry" && repeatable && attempt < MAX_ATTEMPTS) {
        await sleep(backoff.next(failure.retryAfterSeconds));
      } else if (failure.action === "login" && !loggedIn) {
        await gateway.logIn();
        loggedIn = true;
      } else {
        throw error;
      }
    }
  }
}

function callOnce<Request extends object, Response>(
  gateway: Gateway,
  method: (client: JobServiceClient) => Method<Request, Response>,
  request: Request,
  deadlineSeconds: number,
): Promise<Response> {
  const deadline = Date.now() + deadlineSeconds * 1000;
  return new Promise((resolve, reject) => {
    method(gateway.client).call(
      gateway.client,
      request,
      gateway.metadata(request),
      { deadline },
      (error, response) => (error ? reject(error) : resolve(response as Response)),
    );
  });
}
