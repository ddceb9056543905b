export const MAX_BACKOFF_MS = 5_000;
const INITIAL_BACKOFF_MS = 200;

/** Computes the waits between attempts: a random time below a bound that doubles, or `retryAfterSeconds` if longer. */
export class Backoff {
  #boundMs = INITIAL_BACKOFF_MS;

  next(retryAfterSeconds = 0): number {
    const jitteredMs = (this.#boundMs * (1 + Math.random())) / 2;
    this.#boundMs = Math.min(this.#boundMs * 2, MAX_BACKOFF_MS);
    return Math.max(jitteredMs, retryAfterSeconds * 1000);
  }

  reset(): void {
    this.#boundMs = INITIAL_BACKOFF_MS;
  }
}
