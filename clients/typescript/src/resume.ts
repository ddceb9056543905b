import { Backoff, MAX_BACKOFF_MS } from "./backoff.js";
import type { Retry } from "./calls.js";
import type { GatewayError } from "./errors.js";

/** The place up to which a watch has its events. It changes with each event after which a watch can continue. */
export type Position = string | number;

/** Decides whether, when and how a watch resumes after each failed stream (docs/clients/index.md). */
export class ResumePolicy {
  readonly #backoff = new Backoff();
  readonly #nowMs: () => number;
  #openedAt = 0;
  #received = false;
  #tokenUnproven = false;
  #repeatableAt: Position | undefined;

  constructor(nowMs = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  /** Notes that a stream begins. */
  opened(): void {
    this.#openedAt = this.#nowMs();
  }

  /** Notes an event. */
  received({ provesToken }: { provesToken: boolean }): void {
    this.#received = true;
    if (provesToken) this.#tokenUnproven = false;
    // One event does not prove that the stream works: it may break after its first event each time.
    if (this.#nowMs() - this.#openedAt > MAX_BACKOFF_MS) this.#backoff.reset();
  }

  /** Returns whether a fresh token may help. Get one before `decide`. */
  wantsToken({ code }: GatewayError): boolean {
    return code === "UNAUTHENTICATED" && !this.#tokenUnproven;
  }

  /**
   * Decides how to resume after a failed stream; undefined if the error is final. `renewed`: a fresh token was wanted, and
   * there is one.
   */
  decide(error: GatewayError, position: Position, renewed: boolean): Retry | undefined {
    if (renewed) this.#tokenUnproven = true;
    else if (!this.mayResume(error, position)) return undefined;
    return this.retry(error);
  }

  /** Returns the next stream. */
  retry(error: GatewayError): Retry {
    const waitMs = this.#backoff.next(error.retryAfterSeconds);
    return { error, waitMs, newConnection: error.wantsNewConnection };
  }

  /** Returns whether another stream with the same token may help. */
  protected mayResume(error: GatewayError, position: Position): boolean {
    const { code, reason } = error;
    if (error.isLoadLimit || reason === "SILENT") return true;
    if (reason !== "") return code === "UNAVAILABLE";
    // Without the gateway's `ErrorInfo`, a status means a broken stream, a wrong address or a size limit.
    switch (code) {
      case "OK":
      case "CANCELLED":
      case "UNKNOWN":
      case "DEADLINE_EXCEEDED":
      case "INTERNAL":
      case "UNAVAILABLE":
        return true;
      case "RESOURCE_EXHAUSTED":
      case "OUT_OF_RANGE":
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
