import { GatewayError } from "./errors.js";

/**
 * The events of a watch, which is iterated once. A generator that failed ends quietly when it is used again. Here each
 * later use fails with the same error.
 */
export class Iteration<T> implements AsyncIterableIterator<T, void, undefined> {
  readonly #left = new AbortController();
  readonly #events: AsyncGenerator<T, void, undefined>;
  readonly #isOver: () => boolean;
  #failure: { error: unknown } | undefined;

  /** `follow` yields the events until `left` is aborted; `isOver` returns whether the last one was among them. */
  constructor(
    follow: (left: AbortSignal) => AsyncGenerator<T, void, undefined>,
    isOver: () => boolean,
  ) {
    this.#events = follow(this.#left.signal);
    this.#isOver = isOver;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<T, void>> {
    try {
      const next = await this.#events.next();
      if (!next.done || !this.#failure) return next;
    } catch (error) {
      this.#failure ??= { error };
    }
    throw (this.#failure as { error: unknown }).error;
  }

  /** Ends the watch, also while another `next` waits for an event. A loop that you leave calls it. */
  async return(): Promise<IteratorResult<T, void>> {
    if (!this.#isOver()) {
      const error = new GatewayError("CANCELLED", "the watch was left before its end", {
        reason: "CLOSED",
      });
      this.#failure ??= { error };
    }
    this.#left.abort(this.#failure?.error);
    await this.#events.return();
    return { done: true, value: undefined };
  }
}
