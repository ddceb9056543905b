import { Metadata, type ServiceError, type StatusObject, status } from "@grpc/grpc-js";
import { BadRequest, ErrorInfo, RetryInfo } from "nice-grpc-error-details";
import { Status } from "nice-grpc-error-details/lib/proto/google/rpc/status.js";
import type { SendJobRequest, WatchFailure } from "./gen/jobgateway/v1/job_service.js";

/** The reaction of a client to an error (docs/reference/errors.md). */
export type Action = "retry" | "fix" | "login" | "look" | "give_up";

/** The name of a gRPC code, such as `UNAVAILABLE`. */
export type Code = keyof typeof status;

/** An invalid field of a request. */
export interface FieldViolation {
  field: string;
  problem: string;
}

/** The details that the gateway attaches to an error. */
export interface ErrorDetails {
  reason?: string;
  metadata?: Record<string, string>;
  fields?: readonly FieldViolation[];
  retryAfterSeconds?: number | undefined;
}

const ACTION_BY_CODE: Partial<Record<Code, Action>> = {
  INVALID_ARGUMENT: "fix",
  NOT_FOUND: "fix",
  ALREADY_EXISTS: "fix",
  OUT_OF_RANGE: "fix",
  UNAUTHENTICATED: "login",
  UNAVAILABLE: "retry",
  DEADLINE_EXCEEDED: "retry",
  CANCELLED: "retry",
  UNKNOWN: "look",
};

/** The domain of the gateway's `ErrorInfo`. */
const DOMAIN = "jobgateway";

/** The reasons for which the code alone would be misleading. */
const ACTION_BY_REASON: Record<string, Action> = {
  UPSTREAM_NOT_READY: "retry",
  UPSTREAM_ERROR: "retry",
  UPSTREAM_ANSWER_TOO_LARGE: "give_up",
  CLOSED: "give_up",
};

/** A call that failed, with its details. */
export class GatewayError extends Error {
  override readonly name = "GatewayError";
  /** `OK` if a proxy ended a stream before the job had ended. */
  readonly code: Code;
  /**
   * From `ErrorInfo`; empty if the error does not come from the gateway. `SILENT` if the client gave up a stream from which
   * nothing arrived for three heartbeat intervals. `CLOSED` if your program closed the client or left the watch.
   */
  readonly reason: string;
  /** From `ErrorInfo`. */
  readonly metadata: Record<string, string>;
  /** From `BadRequest`; a field may be there more than once. */
  readonly fields: readonly FieldViolation[];
  /** From `RetryInfo`. */
  readonly retryAfterSeconds: number | undefined;

  constructor(
    code: Code,
    message: string,
    { reason = "", metadata = {}, fields = [], retryAfterSeconds }: ErrorDetails = {},
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.code = code;
    this.reason = reason;
    this.metadata = metadata;
    this.fields = fields;
    this.retryAfterSeconds = retryAfterSeconds;
  }

  /** Reads the error of a call, with its details. */
  static of(error: StatusObject): GatewayError {
    const { details } = error;
    // The text of grpc-js has no cause if the peer closes a connection that it does not understand or trust.
    const hint = details.includes("Last error: Failed to connect")
      ? "; the peer closed the connection: check whether it needs TLS or a client certificate"
      : "";
    return new GatewayError(codeOf(error.code), details + hint, detailsOf(error.metadata));
  }

  /** Reads the end of one watch of a `WatchJobs` stream. */
  static ofWatch({ code, message, reason, metadata, retryDelay }: WatchFailure): GatewayError {
    const retryAfterSeconds = retryDelay && seconds(retryDelay);
    return new GatewayError(codeOf(code), message, { reason, metadata, retryAfterSeconds });
  }

  /** The job that the gateway's error is about, or an empty text. */
  get uid(): string {
    return this.metadata.uid ?? "";
  }

  /**
   * The reaction to the error. For a submission without a `requestId`, `retry` of an error without a reason means `look`.
   */
  get action(): Action {
    const { code, reason } = this;
    // From a proxy, or the gateway died: another call may work.
    if (reason === "" && ["OK", "INTERNAL", "UNKNOWN"].includes(code)) return "retry";
    if (code === "RESOURCE_EXHAUSTED" && !(reason in ACTION_BY_REASON)) {
      return this.isLoadLimit ? "retry" : "fix";
    }
    return ACTION_BY_REASON[reason] ?? ACTION_BY_CODE[code] ?? "give_up";
  }

  /** True for a limit of rate or load, which names a wait. A limit of size names none. */
  get isLoadLimit(): boolean {
    return this.code === "RESOURCE_EXHAUSTED" && this.retryAfterSeconds !== undefined;
  }

  /** True for an outage, or too much load: a watch and a wait repeat their call as often as needed. */
  get isOutage(): boolean {
    return this.reason === "" || this.code === "UNAVAILABLE" || this.isLoadLimit;
  }

  /**
   * True if the connection may be dead, or lead to an instance that shuts down. A new connection does not wait for the backoff
   * of the old one, which grows to two minutes.
   */
  get wantsNewConnection(): boolean {
    return ["", "DRAINING", "SILENT"].includes(this.reason);
  }

  /** Returns whether a failed submission may be sent again: no job was created, or `requestId` prevents a second one. */
  maySendAgain({ requestId }: Pick<SendJobRequest, "requestId">): boolean {
    const isCertain =
      this.reason !== "" && (this.code === "UNAVAILABLE" || this.code === "RESOURCE_EXHAUSTED");
    return this.action === "retry" && this.uid === "" && (isCertain || requestId !== "");
  }
}

export function isServiceError(error: unknown): error is ServiceError {
  // A `GatewayError` has the properties too, of other types.
  return error instanceof Error && "metadata" in error && error.metadata instanceof Metadata;
}

/** Returns the error of a wrong value, which is found before it reaches the gateway. */
export function invalid(message: string, cause?: unknown): GatewayError {
  return new GatewayError("INVALID_ARGUMENT", message, {}, cause === undefined ? {} : { cause });
}

function codeOf(code: number): Code {
  return (status[code] as Code | undefined) ?? "UNKNOWN";
}

/** Returns the details. They are empty if one is malformed, because the gateway's are valid. */
function detailsOf(trailers: Metadata): ErrorDetails {
  const [encoded] = trailers.get("grpc-status-details-bin");
  const found: ErrorDetails = {};
  try {
    const details = Buffer.isBuffer(encoded) ? Status.decode(encoded).details : [];
    for (const { typeUrl, value } of details) {
      switch (typeUrl) {
        case "type.googleapis.com/google.rpc.ErrorInfo": {
          const info = ErrorInfo.decode(value);
          if (info.domain === DOMAIN)
            Object.assign(found, { reason: info.reason, metadata: info.metadata });
          break;
        }
        case "type.googleapis.com/google.rpc.BadRequest": {
          const violations = BadRequest.decode(value).fieldViolations;
          found.fields = violations.map(({ field, description: problem }) => ({ field, problem }));
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
