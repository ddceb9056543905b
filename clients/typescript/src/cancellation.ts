import { setMaxListeners } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import type { GatewayError } from "./errors.js";

/** The longest time of a timer; a longer one fires immediately. */
export const MAX_TIMER_MS = 2 ** 31 - 1;

/**
 * The cancellation of one call, by any of several signals. `AbortSignal.any` would keep a little memory for each call as
 * long as a signal lives (nodejs/node#55351). Call `release` after the call.
 */
export class Cancellation {
  /** The failure that the call recovers from, which is the cause if a time limit ends it. */
  lastError: GatewayError | undefined;
  readonly #controller = new AbortController();
  readonly #sources: AbortSignal[];
  readonly #abort = ({ target }: Event) =>
    this.#controller.abort((target as AbortSignal | null)?.reason);

  constructor(...sources: (AbortSignal | null | undefined)[]) {
    this.#sources = sources.filter((each) => each !== undefined && each !== null);
    for (const source of this.#sources) {
      // Any number of calls may share a signal.
      if (source instanceof EventTarget) setMaxListeners(0, source);
      source.addEventListener("abort", this.#abort);
      if (source.aborted) this.#controller.abort(source.reason);
    }
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Throws the reason of the signal. If that is a time limit, the error tells what failed before. */
  throwIfAborted(): void {
    const { aborted, reason } = this.signal;
    if (!aborted) return;
    const isTimeLimit = reason instanceof DOMException && reason.name === "TimeoutError";
    if (!isTimeLimit || !this.lastError) throw reason;
    const { code, message } = this.lastError;
    throw new DOMException(`${reason.message}; the last attempt failed: ${code}: ${message}`, {
      name: reason.name,
      cause: this.lastError,
    });
  }

  /** Aborts the call after a time; returns the timer, undefined if the time is longer than any timer. */
  after(seconds: number, reason: () => unknown): NodeJS.Timeout | undefined {
    const ms = seconds * 1000;
    return ms <= MAX_TIMER_MS ? setTimeout(() => this.#controller.abort(reason()), ms) : undefined;
  }

  /** Waits for a promise, but not longer than the call. */
  async race<T>(begin: () => Promise<T>): Promise<T> {
    this.throwIfAborted();
    let abort = () => {};
    const aborted = new Promise<"aborted">((resolve) => {
      abort = () => resolve("aborted");
      this.signal.addEventListener("abort", abort);
    });
    const promise = begin();
    try {
      await Promise.race([promise, aborted]);
    } finally {
      this.signal.removeEventListener("abort", abort);
    }
    this.throwIfAborted();
    return await promise;
  }

  /** Waits for a time. */
  async sleep(ms: number): Promise<void> {
    for (let leftMs = ms; leftMs > 0; leftMs -= MAX_TIMER_MS) {
      this.throwIfAborted();
      const timer = sleep(Math.min(leftMs, MAX_TIMER_MS), undefined, { signal: this.signal });
      await timer.catch(() => this.throwIfAborted());
    }
  }

  release(): void {
    for (const source of this.#sources) source.removeEventListener("abort", this.#abort);
  }
}
