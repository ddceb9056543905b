import { setTimeout as sleep } from "node:timers/promises";
import { type ClientReadableStream, status } from "@grpc/grpc-js";
import { Backoff, MAX_BACKOFF_MS } from "./backoff.js";
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
  /** `content` is the result of a done job if it arrived in chunks. */
  | { kind: "job"; job: Job; content: Buffer | undefined }
  | { kind: "heartbeat"; heartbeat: Heartbeat }
  /** `held` is the number of bytes of the result before this chunk. */
  | { kind: "chunk"; chunk: ContentChunk; held: number }
  /** A stream failed, and the watch resumes with another one after a wait. */
  | { kind: "resume"; code: string; reason: string; newConnection: boolean };

export interface WatchOptions {
  /**
   * The longest time between two events, which the gateway ensures. The watch cancels a stream after three of them
   * without an event.
   */
  heartbeatSeconds?: number | undefined;
  contentFormat?: ContentFormat | undefined;
  /** Cancels the watch, with its reason as the error. The job continues. */
  signal?: AbortSignal | undefined;
}

/**
 * Watches a job to its end, over as many streams as needed (docs/clients/index.md). The last event has `job.done`.
 * Leaving the loop cancels the stream; the job continues.
 *
 * @throws a grpc-js `ServiceError` with a status that is final
 */
export async function* watchJob(
  gateway: Gateway,
  uid: string,
  { heartbeatSeconds = 15, contentFormat, signal }: WatchOptions = {},
): AsyncGenerator<WatchEvent, void, undefined> {
  const content = new ChunkedContent();
  const backoff = new Backoff();
  const policy = new ResumePolicy();
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
      const call = client.watchJob(request, gateway.metadata(request));
      for await (const event of events(call, 3 * heartbeatSeconds * 1000, signal)) {
        lastEvent = performance.now();
        policy.received(event);
        resumeToken = event.resumeToken || resumeToken;
        switch (event.payload?.$case) {
          case "job": {
            const job = event.payload.value;
            yield { kind: "job", job, content: job.contentOmitted ? content.bytes() : undefined };
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
    const resumption = policy.decide(failure, resumeToken);
    if (!resumption) throw failure;
    const { code, reason, retryAfterSeconds, newConnection, freshToken } = resumption;
    yield { kind: "resume", code, reason, newConnection };
    // One event does not prove that the stream works: it may break after its first event each time.
    if (lastEvent - started >= MAX_BACKOFF_MS) backoff.reset();
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

/** Decides whether and how a watch resumes after each failure. */
class ResumePolicy {
  #received = false;
  #tokenUnproven = false;
  #overLimitAt: string | undefined;

  /** Notes an event. */
  received(event: JobEvent): void {
    this.#received = true;
    if (provesToken(event)) this.#tokenUnproven = false;
  }

  /** Decides how to resume after a failure, given the last resume token; undefined if the failure is final. */
  decide(failure: unknown, resumeToken: string): Resumption | undefined {
    const renewed = { newConnection: true, freshToken: false };
    if (failure instanceof SilentStream) return { ...renewed, code: "CANCELLED", reason: "SILENT" };
    if (failure instanceof NoEnd) return { ...renewed, code: "OK", reason: "" };
    if (!isServiceError(failure)) return undefined;
    const { code, reason, retryAfterSeconds } = describe(failure);
    const freshToken = failure.code === status.UNAUTHENTICATED;
    // A new connection is made immediately. The old one would wait up to two minutes before it reconnects.
    const newConnection = reason === "" || reason === "DRAINING";
    const resumption = { code, reason, retryAfterSeconds, newConnection, freshToken };
    if (freshToken && !this.#tokenUnproven) {
      this.#tokenUnproven = true;
      return resumption;
    }
    if (failure.code === status.RESOURCE_EXHAUSTED && retryAfterSeconds !== undefined) {
      return resumption;
    }
    if (reason !== "") return failure.code === status.UNAVAILABLE ? resumption : undefined;
    return this.#isBroken(failure.code, resumeToken) ? resumption : undefined;
  }

  /**
   * Returns whether a status without the gateway's `ErrorInfo` means a broken stream, rather than a wrong address or a
   * size limit.
   */
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
        // A message over this client's own receive limit causes this status, and would cause it again.
        if (this.#overLimitAt === resumeToken) return false;
        this.#overLimitAt = resumeToken;
        return this.#received;
      default:
        return this.#received;
    }
  }
}

/**
 * Returns whether an event proves that the upstream accepts the token. Some heartbeats do not: those before the first
 * read has ended, and those between a refusal and the read that confirms it.
 */
function provesToken({ payload }: JobEvent): boolean {
  if (payload?.$case !== "heartbeat") return payload !== undefined;
  const { observeTime, lastFailure } = payload.value;
  return observeTime !== undefined && lastFailure === "";
}

/** The stream ended with OK before the job was done: a proxy ended it. */
class NoEnd extends Error {}

/** No event arrived in time. */
class SilentStream extends Error {}

/** Yields the events of one stream. It cancels the stream if you leave the loop, and after `silenceMs` without an event. */
async function* events(
  call: ClientReadableStream<JobEvent>,
  silenceMs: number,
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
  // The status that arrived after the timeout does not matter.
  if (silent) throw new SilentStream();
}

/** The bytes of a result that arrives in chunks. */
class ChunkedContent {
  #bytes = Buffer.alloc(0);
  size = 0;

  /** Adds a chunk. It first cuts the result to the chunk's offset, because chunks may start again at 0 after a resume. */
  take({ offset, data, contentSize }: ContentChunk): void {
    if (this.#bytes.length !== contentSize) {
      this.#bytes = Buffer.concat([this.#bytes.subarray(0, offset)], contentSize);
    }
    data.copy(this.#bytes, offset);
    this.size = offset + data.length;
  }

  bytes(): Buffer {
    return this.#bytes.subarray(0, this.size);
  }
}
