import type { ClientReadableStream } from "@grpc/grpc-js";
import { MAX_TIMER_MS } from "./cancellation.js";
import type { Connection, Connections } from "./connections.js";
import { GatewayError, isServiceError } from "./errors.js";
import type { JobEvent } from "./gen/jobgateway/v1/job_service.js";

/** The time in which a stream has to end after its last job. */
export const END_MS = 5_000;
/** The interval of the heartbeats of a stream, if its caller sets none. */
export const HEARTBEAT_SECONDS = 15;
const MIN_SILENCE_MS = 3_000;

/**
 * Returns the time without an event after which a stream counts as dead. For an interval that the gateway rejects, it leaves
 * time for that error to arrive.
 */
export function silenceMs(heartbeatSeconds: number): number {
  return Math.min(Math.max(3 * heartbeatSeconds * 1000, MIN_SILENCE_MS), MAX_TIMER_MS);
}

/** The call of a stream; it may also send. */
type Call = Pick<ClientReadableStream<JobEvent>, "cancel" | "on"> & AsyncIterable<JobEvent>;

/**
 * Yields the events of one stream. It cancels the stream if you leave the loop, and if no event arrives while you wait
 * for one for the time that `patienceMs` returns. It returns the error with which the stream ended: `OK` if there was none.
 */
export async function* events(
  connections: Connections,
  connection: Connection,
  call: Call,
  patienceMs: () => number,
  signal: AbortSignal,
): AsyncGenerator<JobEvent, GatewayError, undefined> {
  connection.calls++;
  // The iterator throws errors too, but an `error` event without a listener, even after the loop, ends the process.
  call.on("error", () => {});
  const cancel = () => call.cancel();
  if (signal.aborted) cancel();
  signal.addEventListener("abort", cancel);
  const iterator: AsyncIterator<JobEvent> = call[Symbol.asyncIterator]();
  let silent = false;
  try {
    for (;;) {
      const timer = setTimeout(() => {
        silent = true;
        cancel();
      }, patienceMs());
      const next = await iterator.next().finally(() => clearTimeout(timer));
      if (next.done) break;
      yield next.value;
    }
    if (!silent) return new GatewayError("OK", "the stream ended before the job");
  } catch (error) {
    if (!isServiceError(error)) throw error;
    if (!silent) return GatewayError.of(error);
  } finally {
    signal.removeEventListener("abort", cancel);
    cancel();
    connections.release(connection);
  }
  // The status that arrived after the timeout does not matter.
  const message = "no event arrived for three heartbeat intervals";
  return new GatewayError("CANCELLED", message, { reason: "SILENT" });
}

/**
 * Returns whether an event proves that the upstream accepts the token. Some heartbeats do not: those before the first
 * read has ended, and those between a refusal and the read that confirms it.
 */
export function provesToken({ payload }: JobEvent): boolean {
  if (payload?.$case !== "heartbeat") {
    return payload?.$case === "job" || payload?.$case === "contentChunk";
  }
  const { observeTime, lastFailure } = payload.value;
  return observeTime !== undefined && lastFailure === "";
}
