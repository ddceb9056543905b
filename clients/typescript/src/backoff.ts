export const LONGEST_WAIT_MS = 10_000;
const FIRST_BOUND_MS = 200;

/** Waits between attempts: a random time below a bound that doubles, or what the gateway asks for. */
export class Backoff {
  #boundMs = FIRST_BOUND_MS;

  next(retryAfterSeconds?: number): number {
    const waitMs =
      retryAfterSeconds === undefined ? Math.random() * this.#boundMs : retryAfterSeconds * 1000;
    this.#boundMs = Math.min(this.#boundMs * 2, LONGEST_WAIT_MS);
    return waitMs;
  }

  reset(): void {
    this.#boundMs = FIRST_BOUND_MS;
  }
}
