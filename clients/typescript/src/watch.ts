import { setTimeout as sleep } from "node:timers/promises";
import { type ClientReadableStream, status } from "@grpc/grpc-js";
import { Backoff, LONGEST_WAIT_MS } from "./backoff.js";
import { describe, isServiceError } from "./errors.js";
import type { Gateway } from "./gateway.js";
import {
  type ContentChunk,
  type ContentFormat,
  type Heartbeat,
  type Job,
  type JobEvent,
  WatchJobRequest,
} from "./gen/jobgateway/v1/job_service.js";

export type WatchEvent =
  /** `content` is the result of a done job, where it came in chunks. */
  | { kind: "job"; job: Job; content: Buffer | undefined }
  | { kind: "heartbeat"; heartbeat: Heartbeat }
  /** `held` is how many bytes of the result were held before this chunk. */
  | { kind: "chunk"; chunk: ContentChunk; held: number }
  /** A stream failed, and another one follows after a wait. */
  | { kind: "resume"; code: string; reason: string; newConnection: boolean };

export interface WatchOptions {
  /** The longest silence between two events, which the gateway keeps; three of them end a stream. */
  heartbeatSeconds?: number | undefined;
  contentFormat?: ContentFormat | undefined;
  /** Ends the watch, with its reason as the error. The job runs on. */
  signal?: AbortSignal | undefined;
}

/**
 * Watches a job to its end, over as many streams as that takes. The last event is the job that is done.
 * Leaving the loop cancels the stream, and the job runs on.
 *
 * @throws a grpc-js `ServiceError` with which no stream goes on
 */
export async function* watchJob(
  gateway: Gateway,
  uid: string,
  { heartbeatSeconds = 15, contentFormat, signal }: WatchOptions = {},
): AsyncGenerator<WatchEvent, void, undefined> {
  const content = new ChunkedContent();
  const backoff = new Backoff();
  const judge = new Judge();
  let resumeToken = "";

  for (;;) {
    const started = performance.now();
    let lastEvent = started;
    const { client } = gateway;
    let failure: unknown;
    try {
      const request = WatchJobRequest.fromPartial({
        uid,
        contentFormat,
        heartbeatInterval: { seconds: heartbeatSeconds },
        resumeToken,
      });
      const call = client.watchJob(request, gateway.metadata());
      for await (const event of events(call, 3 * heartbeatSeconds * 1000, signal)) {
        lastEvent = performance.now();
        judge.heard(event);
        resumeToken = event.resumeToken || resumeToken;
        switch (event.payload?.$case) {
          case "job": {
            const job = event.payload.value;
            yield { kind: "job", job, content: job.contentOmitted ? content.whole() : undefined };
            if (job.done) return;
            break;
          }
          case "contentChunk": {
            const chunk = event.payload.value;
            const held = content.size;
            content.take(chunk);
            yield { kind: "chunk", chunk, held };
            break;
          }
          case "heartbeat":
            yield { kind: "heartbeat", heartbeat: event.payload.value };
            break;
        }
      }
      failure = new NoEnd();
    } catch (error) {
      failure = error;
    }

    signal?.throwIfAborted();
    const resumption = judge.of(failure, resumeToken);
    if (!resumption) throw failure;
    const { code, reason, retryAfterSeconds, newConnection, freshToken } = resumption;
    yield { kind: "resume", code, reason, newConnection };
    // A stream may break after its first event each time: only one that worked for long counts.
    if (lastEvent - started >= LONGEST_WAIT_MS) backoff.reset();
    await sleep(backoff.next(retryAfterSeconds), undefined, { signal });
    if (newConnection) gateway.reconnect(client);
    if (freshToken) await gateway.logIn();
  }
}

interface Resumption {
  code: string;
  reason: string;
  retryAfterSeconds?: number | undefined;
  newConnection: boolean;
  freshToken: boolean;
}

/** Decides about each failure of one watch. */
class Judge {
  #heard = false;
  #tokenIsUnproven = false;
  #overLimitAt: string | undefined;

  /** An event came. */
  heard(event: JobEvent): void {
    this.#heard = true;
    if (provesToken(event)) this.#tokenIsUnproven = false;
  }

  /** How to go on after a stream that failed, given the last resume token; undefined if nothing helps. */
  of(failure: unknown, resumeToken: string): Resumption | undefined {
    const renewed = { newConnection: true, freshToken: false };
    if (failure instanceof SilentStream) return { ...renewed, code: "CANCELLED", reason: "SILENT" };
    if (failure instanceof NoEnd) return { ...renewed, code: "OK", reason: "" };
    if (!isServiceError(failure)) return undefined;
    const { code, reason, retryAfterSeconds } = describe(failure);
    const freshToken = failure.code === status.UNAUTHENTICATED;
    // A new connection also forgets the old one's own backoff, which grows up to two minutes.
    const newConnection = reason === "" || reason === "DRAINING";
    const resumption = { code, reason, retryAfterSeconds, newConnection, freshToken };
    if (freshToken && !this.#tokenIsUnproven) {
      this.#tokenIsUnproven = true;
      return resumption;
    }
    if (failure.code === status.RESOURCE_EXHAUSTED && retryAfterSeconds !== undefined) {
      return resumption;
    }
    if (reason !== "") return failure.code === status.UNAVAILABLE ? resumption : undefined;
    return this.#isBroken(failure.code, resumeToken) ? resumption : undefined;
  }

  /** Whether a status that is not the gateway's means a broken stream, and not a wrong address or a limit. */
  #isBroken(code: status, resumeToken: string): boolean {
    switch (code) {
      case status.CANCELLED:
      case status.UNKNOWN:
      case status.DEADLINE_EXCEEDED:
      case status.INTERNAL:
      case status.UNAVAILABLE:
        return true;
      case status.RESOURCE_EXHAUSTED:
      case status.OUT_OF_RANGE:
        // A message over this client's own receive limit ends like this, and would do so again.
        if (this.#overLimitAt === resumeToken) return false;
        this.#overLimitAt = resumeToken;
        return this.#heard;
      default:
        return this.#heard;
    }
  }
}

/**
 * Whether an event shows that the upstream accepts the token. A heartbeat also comes before the first read has ended,
 * and between a refusal and the read that confirms it.
 */
function provesToken({ payload }: JobEvent): boolean {
  if (payload?.$case !== "heartbeat") return payload !== undefined;
  const { observeTime, lastFailure } = payload.value;
  return observeTime !== undefined && lastFailure === "";
}

/** A stream that ended with OK and without the job's end: a proxy ended it. */
class NoEnd extends Error {}

class SilentStream extends Error {}

/** The events of one stream. Leaving the loop cancels the stream, and so does silence. */
async function* events(
  call: ClientReadableStream<JobEvent>,
  silenceMs: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<JobEvent, void, undefined> {
  // The iterator throws the error. But an error that nobody listens for ends the process, and one may come after the loop.
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
      }, silenceMs);
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
  // Whatever it ended with between the silence and the cancellation.
  if (silent) throw new SilentStream();
}

/** A result that comes in chunks. */
class ChunkedContent {
  #bytes = Buffer.alloc(0);
  size = 0;

  /** Cuts to the offset, then appends. */
  take({ offset, data, contentSize }: ContentChunk): void {
    if (this.#bytes.length !== contentSize) {
      this.#bytes = Buffer.concat([this.#bytes.subarray(0, offset)], contentSize);
    }
    data.copy(this.#bytes, offset);
    this.size = offset + data.length;
  }

  whole(): Buffer {
    return this.#bytes.subarray(0, this.size);
  }
}
