import { Backoff, MAX_BACKOFF_MS } from "./backoff.js";
import { ChunkedContent, isDamaged, type JobUpdate } from "./content.js";
import { describeWatchFailure, type Failure } from "./errors.js";
import {
  ContentFormat,
  type JobEvent,
  type WatchFailure,
  WatchJobRequest,
  type WatchJobsRequest,
} from "./gen/jobgateway/v1/job_service.js";
import { provesToken } from "./stream.js";

/** The meaning of an event of a stream with many jobs. */
export type Outcome =
  /** A heartbeat with the `uid` 0 is that of the stream. */
  | (JobUpdate & { uid: string })
  /** Every watch that was requested so far has caught up: what follows is news. */
  | { kind: "synced" }
  /** The watch of this job failed for good. `message` is for a person. The job itself may continue. */
  | { kind: "failed"; uid: string; failure: Failure; message: string }
  /** The watch of this job failed, and the job is watched again after a wait. */
  | { kind: "again"; uid: string; code: string; reason: string }
  /** The upstream rejected the token. All jobs need a stream with a fresh one. */
  | { kind: "login"; failure: Failure };

/** The watch of one job. Times are those of `performance.now()`. */
class JobWatch {
  readonly content = new ChunkedContent();
  resumeToken = "";
  /** The time from which its next request may be sent. */
  dueAt = 0;
  /** The token is fresh, and nothing has shown yet that it may read this job. */
  tokenUnproven = false;
  readonly #backoff = new Backoff();
  #sentAt = 0;

  sent(): void {
    this.#sentAt = performance.now();
  }

  received(event: JobEvent): void {
    this.resumeToken = event.resumeToken || this.resumeToken;
    if (provesToken(event)) this.tokenUnproven = false;
    if (performance.now() - this.#sentAt > MAX_BACKOFF_MS) this.#backoff.reset();
  }

  postpone(retryAfterSeconds: number | undefined): void {
    this.dueAt = performance.now() + this.#backoff.next(retryAfterSeconds);
  }
}

/**
 * The watches of many jobs: the requests of the current stream, and the meaning of each event. A job is pending until it
 * has ended or its watch has failed for good.
 */
export class JobWatches {
  readonly #pending: Map<string, JobWatch>;
  readonly #contentFormat: ContentFormat | undefined;
  readonly #heartbeatSeconds: number;
  /** The jobs that were not sent on the current stream; the first one is due first. */
  #unsent: { uid: string; watch: JobWatch }[] = [];
  #sent = 0;
  #position = 0;

  constructor(
    uids: Iterable<string>,
    contentFormat: ContentFormat | undefined,
    heartbeatSeconds: number,
  ) {
    this.#pending = new Map(Array.from(uids, (uid) => [uid, new JobWatch()]));
    this.#contentFormat = contentFormat;
    this.#heartbeatSeconds = heartbeatSeconds;
  }

  /** The number of jobs that are pending. */
  get pending(): number {
    return this.#pending.size;
  }

  /** The number of events after which a watch can continue. */
  get position(): number {
    return this.#position;
  }

  /** The time until the next request of this stream may be sent; undefined if there is none. */
  get nextDueMs(): number | undefined {
    const [next] = this.#unsent;
    return next && next.watch.dueAt - performance.now();
  }

  /** Begins a stream. Open it after `nextDueMs`: without a request, it would have no heartbeats. */
  begin(): void {
    this.#unsent = Array.from(this.#pending, ([uid, watch]) => ({ uid, watch }));
    this.#unsent.sort((one, two) => one.watch.dueAt - two.watch.dueAt);
    this.#sent = 0;
  }

  /** Takes a request that is due, if there is one. */
  nextRequest(): WatchJobsRequest | undefined {
    const dueMs = this.nextDueMs;
    if (dueMs === undefined || dueMs > 0) return undefined;
    const next = this.#unsent.shift();
    if (!next) return undefined;
    const { uid, watch } = next;
    watch.sent();
    this.#sent++;
    const value = WatchJobRequest.fromPartial({
      uid,
      contentFormat: this.#contentFormat,
      // A stream takes its interval from its first request, and each one may be the first.
      heartbeatInterval: { seconds: this.#heartbeatSeconds },
      resumeToken: watch.resumeToken,
    });
    return { action: { $case: "watch", value } };
  }

  /** Returns whether an event proves the token for every job that was requested on this stream. */
  provesTokenOfAll({ payload }: JobEvent): boolean {
    return payload?.$case === "synced" && payload.value.watchRequests >= this.#sent;
  }

  /** Notes that the next stream has a fresh token. */
  tokenRenewed(): void {
    for (const watch of this.#pending.values()) watch.tokenUnproven = true;
  }

  /** Notes an event, and returns its meaning; undefined if there is none for the consumer. */
  take(event: JobEvent): Outcome | undefined {
    const { uid, payload, resumeToken } = event;
    if (resumeToken !== "") this.#position++;
    if (payload?.$case === "synced") return this.#synced(event);
    const watch = this.#pending.get(uid);
    if (!watch) {
      const isOfStream = uid === "0" && payload?.$case === "heartbeat";
      return isOfStream ? { kind: "heartbeat", uid, heartbeat: payload.value } : undefined;
    }
    if (payload?.$case === "failure") return this.#failed(uid, watch, payload.value);

    watch.received(event);
    const update = watch.content.take(event);
    if (update?.kind === "job" && update.job.done) {
      this.#pending.delete(uid);
      const isWanted = this.#contentFormat !== ContentFormat.CONTENT_FORMAT_NONE;
      if (isWanted && isDamaged(update.job, update.content)) return damaged(uid);
    }
    return update && { ...update, uid };
  }

  #synced(event: JobEvent): Outcome {
    if (this.provesTokenOfAll(event)) {
      const unsent = new Set(this.#unsent.map(({ watch }) => watch));
      for (const watch of this.#pending.values()) {
        if (!unsent.has(watch)) watch.tokenUnproven = false;
      }
    }
    return { kind: "synced" };
  }

  #failed(uid: string, watch: JobWatch, watchFailure: WatchFailure): Outcome | undefined {
    const failure = describeWatchFailure(watchFailure);
    const { code, reason, retryAfterSeconds } = failure;
    // It ends no watch.
    if (reason === "ALREADY_WATCHED") return undefined;
    if (code === "UNAUTHENTICATED" && !watch.tokenUnproven) return { kind: "login", failure };
    const isLoadLimit = code === "RESOURCE_EXHAUSTED" && retryAfterSeconds !== undefined;
    if (code !== "UNAVAILABLE" && !isLoadLimit) {
      this.#pending.delete(uid);
      return { kind: "failed", uid, failure, message: watchFailure.message };
    }
    watch.postpone(retryAfterSeconds);
    const earlier = this.#unsent.findLastIndex((each) => each.watch.dueAt <= watch.dueAt);
    this.#unsent.splice(earlier + 1, 0, { uid, watch });
    return { kind: "again", uid, code, reason };
  }
}

function damaged(uid: string): Outcome {
  return {
    kind: "failed",
    uid,
    failure: {
      code: "DATA_LOSS",
      reason: "",
      action: "give_up",
      fields: {},
      retryAfterSeconds: undefined,
    },
    message: "the result was damaged on its way: its SHA-256 is wrong",
  };
}
