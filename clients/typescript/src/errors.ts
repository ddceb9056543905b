import { type Metadata, type ServiceError, status } from "@grpc/grpc-js";
import { BadRequest, ErrorInfo, RetryInfo } from "nice-grpc-error-details";
import { Status } from "nice-grpc-error-details/lib/proto/google/rpc/status.js";

export type Action = "retry" | "mend" | "login" | "look" | "give_up";

/** What an error of a call says, and what to do about it. */
export interface Failure {
  /** The name of the gRPC code. */
  code: string;
  /** That of `ErrorInfo`; empty if the error is not the gateway's. */
  reason: string;
  /** `retry` of a submission is safe only with a `request_id`: without one, and without a `reason`, it means `look`. */
  action: Action;
  /** What is wrong with which field of the request. */
  fields: Record<string, string>;
  retryAfterSeconds: number | undefined;
}

const ACTION_BY_CODE: Partial<Record<status, Action>> = {
  [status.INVALID_ARGUMENT]: "mend",
  [status.NOT_FOUND]: "mend",
  [status.OUT_OF_RANGE]: "mend",
  [status.UNAUTHENTICATED]: "login",
  [status.UNAVAILABLE]: "retry",
  [status.DEADLINE_EXCEEDED]: "retry",
  [status.CANCELLED]: "retry",
  [status.UNKNOWN]: "look",
};

/** Of the gateway's own `ErrorInfo`. */
const DOMAIN = "jobgateway";

/** The reasons that ask for something else than their code does. */
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

/** What the details say; nothing if one cannot be read, because the gateway's can. */
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
          found.retryAfterSeconds = delay && delay.seconds + delay.nanos / 1e9;
          break;
        }
      }
    }
    return found;
  } catch {
    return {};
  }
}

function decide(code: status, { reason, retryAfterSeconds }: Failure): Action {
  // A proxy said it, or the gateway died: another call may work.
  if (reason === "" && (code === status.INTERNAL || code === status.UNKNOWN)) return "retry";
  if (code === status.RESOURCE_EXHAUSTED && !(reason in ACTION_BY_REASON)) {
    // A limit of rate or load says when to come back; a limit of size does not.
    return retryAfterSeconds === undefined ? "mend" : "retry";
  }
  return ACTION_BY_REASON[reason] ?? ACTION_BY_CODE[code] ?? "give_up";
}
