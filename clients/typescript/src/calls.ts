import { setTimeout as sleep } from "node:timers/promises";
import type { CallOptions, ClientUnaryCall, Metadata, requestCallback } from "@grpc/grpc-js";
import { Backoff } from "./backoff.js";
import { describe, type Failure, isServiceError } from "./errors.js";
import type { Gateway } from "./gateway.js";
import type { JobServiceClient } from "./gen/jobgateway/v1/job_service.js";

const MAX_CALLS = 5;

type Method<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: requestCallback<Response>,
) => ClientUnaryCall;

/** How a call is made. */
export interface CallPolicy {
  deadlineSeconds: number;
  /** Whether a second call does no more than the first one. */
  repeatable: boolean;
  /** Told of each failure, before what is done about it. */
  onFailure: (failure: Failure) => void;
}

/**
 * Makes a unary call, and makes it again where the failure asks for that: after a wait, or once with a fresh token.
 *
 * @throws the `ServiceError` of the last call
 */
export async function unary<Request, Response>(
  gateway: Gateway,
  method: (client: JobServiceClient) => Method<Request, Response>,
  request: Request,
  { deadlineSeconds, repeatable, onFailure }: CallPolicy,
): Promise<Response> {
  const backoff = new Backoff();
  let tokenIsFresh = false;

  for (let calls = 1; ; calls++) {
    try {
      return await callOnce(gateway, method, request, deadlineSeconds);
    } catch (error) {
      if (!isServiceError(error)) throw error;
      const failure = describe(error);
      onFailure(failure);
      if (failure.action === "retry" && repeatable && calls < MAX_CALLS) {
        await sleep(backoff.next(failure.retryAfterSeconds));
      } else if (failure.action === "login" && !tokenIsFresh) {
        await gateway.logIn();
        tokenIsFresh = true;
      } else {
        throw error;
      }
    }
  }
}

function callOnce<Request, Response>(
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
      gateway.metadata(),
      { deadline },
      (error, response) => (error ? reject(error) : resolve(response as Response)),
    );
  });
}
