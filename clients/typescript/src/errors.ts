import { type Metadata, type ServiceError, status } from "@grpc/grpc-js";
import { BadRequest, ErrorInfo, RetryInfo } from "nice-grpc-error-details";
import { Status } from "nice-grpc-error-details/lib/proto/google/rpc/status.js";
import type { WatchFailure } from "./gen/jobgateway/v1/job_service.js";

/** The reaction of a client to an error (docs/reference/errors.md). */
export type Action = "retry" | "fix" | "login" | "look" | "give_up";

/** The error of a call, with its details. */
export interface Failure {
  /** The name of the gRPC code. */
  code: string;
  /** From `ErrorInfo`; empty if the error does not come from the gateway. */
  reason: string;
  /** Retry a submission only if it has a `request_id`. Without one, `retry` of an error without a reason means `look`. */
  action: Action;
  /** From `BadRequest`: invalid field to description. */
  fields: Record<string, string>;
  /** From `RetryInfo`. */
  retryAfterSeconds: number | undefined;
}

const ACTION_BY_CODE: Partial<Record<status, Action>> = {
  [status.INVALID_ARGUMENT]: "fix",
  [status.NOT_FOUND]: "fix",
  [status.ALREADY_EXISTS]: "fix",
  [status.OUT_OF_RANGE]: "fix",
  [status.UNAUTHENTICATED]: "login",
  [status.UNAVAILABLE]: "retry",
  [status.DEADLINE_EXCEEDED]: "retry",
  [status.CANCELLED]: "retry",
  [status.UNKNOWN]: "look",
};

/** The domain of the gateway's `ErrorInfo`. */
const DOMAIN = "jobgateway";

/** The reasons for which the code alone would be misleading. */
const ACTION_BY_REASON: Record<string, Action> = {
  UPSTREAM_NOT_READY: "retry",
  UPSTREAM_ERROR: "retry",
  UPSTREAM_ANSWER_TOO_LARGE: "give_up",
};

export function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "code" in error && "metadata" in error;
}

export function describe(error: ServiceError): Failure {
  const failure: Failure = {
    code: status[error.code],
    reason: "",
    action: "give_up",
    fields: {},
    retryAfterSeconds: undefined,
  };
  Object.assign(failure, detailsOf(error.metadata));
  failure.action = decide(error.code, failure);
  return failure;
}

/** Describes the end of one watch of a `WatchJobs` stream like the error of a call. */
export function describeWatchFailure({ code, reason, retryDelay }: WatchFailure): Failure {
  const failure: Failure = {
    code: status[code] ?? "UNKNOWN",
    reason,
    action: "give_up",
    fields: {},
    retryAfterSeconds: retryDelay && seconds(retryDelay),
  };
  failure.action = decide(code, failure);
  return failure;
}

/** Returns the details. They are empty if one is malformed, because the gateway's are valid. */
function detailsOf(trailers: Metadata): Partial<Failure> {
  const [encoded] = trailers.get("grpc-status-details-bin");
  const found: Partial<Failure> = {};
  try {
    const details = Buffer.isBuffer(encoded) ? Status.decode(encoded).details : [];
    for (const { typeUrl, value } of details) {
      switch (typeUrl) {
        case "type.googleapis.com/google.rpc.ErrorInfo": {
          const info = ErrorInfo.decode(value);
          if (info.domain === DOMAIN) found.reason = info.reason;
          break;
        }
        case "type.googleapis.com/google.rpc.BadRequest": {
          const violations = BadRequest.decode(value).fieldViolations;
          found.fields = Object.fromEntries(
            violations.map((each) => [each.field, each.description]),
          );
          break;
        }
        case "type.googleapis.com/google.rpc.RetryInfo": {
          const delay = RetryInfo.decode(value).retryDelay;
          found.retryAfterSeconds = delay && seconds(delay);
          break;
        }
      }
    }
    return found;
  } catch {
    return {};
  }
}

function seconds({ seconds, nanos }: { seconds: number; nanos: number }): number {
  return seconds + nanos / 1e9;
}

function decide(code: status, { reason, retryAfterSeconds }: Failure): Action {
  // From a proxy, or the gateway died: another call may work.
  if (reason === "" && (code === status.INTERNAL || code === status.UNKNOWN)) return "retry";
  if (code === status.RESOURCE_EXHAUSTED && !(reason in ACTION_BY_REASON)) {
    // Limits of rate and load have a RetryInfo, limits of size do not.
    return retryAfterSeconds === undefined ? "fix" : "retry";
  }
  return ACTION_BY_REASON[reason] ?? ACTION_BY_CODE[code] ?? "give_up";
}
