import type { ClientReadableStream } from "@grpc/grpc-js";
import type { JobEvent } from "./gen/jobgateway/v1/job_service.js";

/** The stream ended with OK before the job was done: a proxy ended it. */
export class NoEnd extends Error {}

/** No event arrived in time. */
export class SilentStream extends Error {}

/** The call of a stream; it may also send. */
type Call = Pick<ClientReadableStream<JobEvent>, "cancel" | "on"> & AsyncIterable<JobEvent>;

/**
 * Yields the events of one stream. It cancels the stream if you leave the loop, and if no event arrives while you wait
 * for one for `silenceMs`.
 */
export async function* events(
  call: Call,
  silenceMs: () => number,
  signal: AbortSignal | undefined,
): AsyncGenerator<JobEvent, void, undefined> {
  // The iterator throws errors too, but an `error` event without a listener, even after the loop, ends the process.
  call.on("error", () => {});
  const cancel = () => call.cancel();
  if (signal?.aborted) cancel();
  signal?.addEventListener("abort", cancel);
  const iterator: AsyncIterator<JobEvent> = call[Symbol.asyncIterator]();
  let silent = false;
  try {
    for (;;) {
      const timer = setTimeout(() => {
        silent = true;
        cancel();
      }, silenceMs());
      const next = await iterator.next().finally(() => clearTimeout(timer));
      if (next.done) break;
      yield next.value;
    }
  } catch (error) {
    if (!silent) throw error;
  } finally {
    signal?.removeEventListener("abort", cancel);
    cancel();
  }
  // The status that arrived after the timeout does not matter.
  if (silent) throw new SilentStream();
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
