import { setTimeout as sleep } from "node:timers/promises";
import { status } from "@grpc/grpc-js";
import { Backoff, MAX_BACKOFF_MS } from "./backoff.js";
import { describe, type Failure, isServiceError } from "./errors.js";
import type { Gateway } from "./gateway.js";
import type { JobServiceClient } from "./gen/jobgateway/v1/job_service.js";
import { NoEnd, SilentStream } from "./stream.js";

/** The next stream after one that failed. */
export interface Resumption {
  code: string;
  reason: string;
  waitMs: number;
  newConnection: boolean;
  freshToken: boolean;
}

/** The reason for which a stream is resumed. */
type Cause = Pick<Failure, "code" | "reason"> & Partial<Pick<Failure, "retryAfterSeconds">>;

const SILENCE: Cause = { code: "CANCELLED", reason: "SILENT" };
const EARLY_END: Cause = { code: "OK", reason: "" };

/** The place up to which a watch has its events. It changes with each event after which a watch can continue. */
export type Position = string | number;

/** Decides whether, when and how a watch resumes after each failed stream (docs/clients/index.md). */
export class ResumePolicy {
  readonly #backoff = new Backoff();
  #openedAt = 0;
  #received = false;
  #tokenUnproven = false;
  #repeatableAt: Position | undefined;

  /** Notes that a stream begins. */
  opened(): void {
    this.#openedAt = performance.now();
  }

  /** Notes an event. */
  received({ provesToken }: { provesToken: boolean }): void {
    this.#received = true;
    if (provesToken) this.#tokenUnproven = false;
    // One event does not prove that the stream works: it may break after its first event each time.
    if (performance.now() - this.#openedAt > MAX_BACKOFF_MS) this.#backoff.reset();
  }

  /** Decides how to resume after a failed stream; undefined if the failure is final. */
  decide(failure: unknown, position: Position): Resumption | undefined {
    if (failure instanceof SilentStream) return this.resume(SILENCE);
    if (failure instanceof NoEnd) return this.resume(EARLY_END);
    if (!isServiceError(failure)) return undefined;
    const described = describe(failure);
    const mayLogIn = failure.code === status.UNAUTHENTICATED && !this.#tokenUnproven;
    if (!mayLogIn && !this.mayResume(failure.code, described, position)) return undefined;
    return this.resume(described);
  }

  /** Resumes after a failure: if the token was rejected, with a fresh one, which the next events have to prove. */
  resume({ code, reason, retryAfterSeconds }: Cause): Resumption {
    const freshToken = code === "UNAUTHENTICATED";
    this.#tokenUnproven ||= freshToken;
    return {
      code,
      reason,
      waitMs: this.#backoff.next(retryAfterSeconds),
      // A new connection is made immediately. The old one would wait up to two minutes before it reconnects.
      newConnection: ["", "DRAINING", "SILENT"].includes(reason),
      freshToken,
    };
  }

  /** Returns whether another stream with the same token may help. */
  protected mayResume(
    code: status,
    { reason, retryAfterSeconds }: Failure,
    position: Position,
  ): boolean {
    if (code === status.RESOURCE_EXHAUSTED && retryAfterSeconds !== undefined) return true;
    if (reason !== "") return code === status.UNAVAILABLE;
    // Without the gateway's `ErrorInfo`, a status means a broken stream, a wrong address or a size limit.
    switch (code) {
      case status.CANCELLED:
      case status.UNKNOWN:
      case status.DEADLINE_EXCEEDED:
      case status.INTERNAL:
      case status.UNAVAILABLE:
        return true;
      case status.RESOURCE_EXHAUSTED:
      case status.OUT_OF_RANGE:
        // A message over this client's own receive limit causes this status, and would cause it again.
        return this.isFirstAt(position) && this.#received;
      default:
        return this.#received;
    }
  }

  /** Returns whether a failure that another stream may repeat is the first one at this position. */
  protected isFirstAt(position: Position): boolean {
    const isFirst = this.#repeatableAt !== position;
    this.#repeatableAt = position;
    return isFirst;
  }
}

/** Waits, at least for `atLeastMs`, then gets what the next stream needs. `used` is the client of the failed stream. */
export async function prepare(
  gateway: Gateway,
  used: JobServiceClient,
  { waitMs, newConnection, freshToken }: Resumption,
  signal: AbortSignal | undefined,
  atLeastMs = 0,
): Promise<void> {
  await sleep(Math.max(waitMs, atLeastMs), undefined, { signal });
  if (newConnection) gateway.reconnect(used);
  if (freshToken) await gateway.logIn();
}
