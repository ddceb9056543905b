export const LONGEST_WAIT_MS = 5_000;
const FIRST_BOUND_MS = 200;

/** Waits between attempts: a random time below a bound that doubles, and at least what the gateway asks for. */
export class Backoff {
  #boundMs = FIRST_BOUND_MS;

  next(retryAfterSeconds = 0): number {
    const jitteredMs = (this.#boundMs * (1 + Math.random())) / 2;
    this.#boundMs = Math.min(this.#boundMs * 2, LONGEST_WAIT_MS);
    return Math.max(jitteredMs, retryAfterSeconds * 1000);
  }

  reset(): void {
    this.#boundMs = FIRST_BOUND_MS;
  }
}
