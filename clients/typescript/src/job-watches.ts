import { Backoff, MAX_BACKOFF_MS } from "./backoff.js";
import type { Retry } from "./calls.js";
import { ChunkedContent, deliversResult, type JobUpdate, verify } from "./content.js";
import { GatewayError } from "./errors.js";
import {
  type ContentFormat,
  type JobEvent,
  JobServiceService,
  type WatchFailure,
  WatchJobRequest,
  type WatchJobsRequest,
} from "./gen/jobgateway/v1/job_service.js";
import { checkUid, duration, encode } from "./requests.js";
import { provesToken } from "./stream.js";

const { watchJob: WATCH_JOB } = JobServiceService;

/** The meaning of an event of a stream with many jobs. */
export type Outcome =
  /** A heartbeat with the `uid` 0 is that of the stream. */
  | (JobUpdate & { uid: string })
  /** Every watch that was requested so far has caught up: what follows is news. */
  | { kind: "synced" }
  /** The watch of this job failed permanently. The job itself may continue. */
  | { kind: "failed"; uid: string; error: GatewayError }
  /** The watch of this job failed, and the job is watched again after a wait. */
  | { kind: "again"; retry: Retry }
  /** The upstream rejected the token. All jobs need a stream with a fresh one. */
  | { kind: "login"; uid: string; error: GatewayError };

/** The watch of one job. Times are in milliseconds. */
class JobWatch {
  readonly content = new ChunkedContent();
  resumeToken = "";
  /** The time from which its next request may be sent. */
  dueAt = 0;
  /** The token is fresh, and nothing has shown yet that it may read this job. */
  tokenUnproven = false;
  readonly #backoff = new Backoff();
  #sentAt = 0;

  sent(nowMs: number): void {
    this.#sentAt = nowMs;
  }

  received(event: JobEvent, nowMs: number): void {
    this.resumeToken = event.resumeToken || this.resumeToken;
    if (provesToken(event)) this.tokenUnproven = false;
    if (nowMs - this.#sentAt > MAX_BACKOFF_MS) this.#backoff.reset();
  }

  /** Returns the wait before the next request. */
  postpone(retryAfterSeconds: number | undefined, nowMs: number): number {
    const waitMs = this.#backoff.next(retryAfterSeconds);
    this.dueAt = nowMs + waitMs;
    return waitMs;
  }
}

/**
 * The watches of many jobs: the requests of the current stream, and the meaning of each event. A job is pending until it
 * has ended or its watch has failed permanently.
 */
export class JobWatches {
  readonly #pending: Map<string, JobWatch>;
  readonly #contentFormat: ContentFormat | undefined;
  readonly #heartbeatSeconds: number;
  readonly #nowMs: () => number;
  /** The jobs that were not sent on the current stream; the first one is due first. */
  #unsent: { uid: string; watch: JobWatch }[] = [];
  #sent = 0;
  /** The last login returned no token. */
  #noToken = false;
  #position = 0;

  constructor(
    uids: Iterable<string>,
    contentFormat: ContentFormat | undefined,
    heartbeatSeconds: number,
    nowMs = () => performance.now(),
  ) {
    this.#pending = new Map(Array.from(uids, (uid) => [uid, new JobWatch()]));
    this.#contentFormat = contentFormat;
    this.#heartbeatSeconds = heartbeatSeconds;
    this.#nowMs = nowMs;
    for (const [uid, watch] of this.#pending) {
      checkUid(uid);
      encode(WATCH_JOB, () => this.#request(uid, watch));
    }
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
    return next && next.watch.dueAt - this.#nowMs();
  }

  /** Begins a stream. Open it after `nextDueMs`: without a request, it would have no heartbeats. */
  begin(): void {
    this.#unsent = Array.from(this.#pending, ([uid, watch]) => ({ uid, watch }));
    this.#unsent.sort((one, two) => one.watch.dueAt - two.watch.dueAt);
    this.#sent = 0;
    this.#noToken = false;
  }

  /** Takes a request that is due, if there is one. */
  nextRequest(): WatchJobsRequest | undefined {
    const dueMs = this.nextDueMs;
    if (dueMs === undefined || dueMs > 0) return undefined;
    const next = this.#unsent.shift();
    if (!next) return undefined;
    const { uid, watch } = next;
    watch.sent(this.#nowMs());
    this.#sent++;
    return { action: { $case: "watch", value: this.#request(uid, watch) } };
  }

  #request(uid: string, { resumeToken }: JobWatch): WatchJobRequest {
    return WatchJobRequest.fromPartial({
      uid,
      contentFormat: this.#contentFormat,
      // A stream takes its interval from its first request, and each one may be the first.
      heartbeatInterval: duration("heartbeatSeconds", this.#heartbeatSeconds),
      resumeToken,
    });
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
    // A failure can come again with the same token.
    if (resumeToken !== "" && payload?.$case !== "failure") this.#position++;
    if (payload?.$case === "synced") return this.#synced(event);
    const watch = this.#pending.get(uid);
    if (!watch) {
      const isOfStream = uid === "0" && payload?.$case === "heartbeat";
      return isOfStream ? { kind: "heartbeat", uid, heartbeat: payload.value } : undefined;
    }
    if (payload?.$case === "failure") return this.#failed(uid, watch, payload.value);

    watch.received(event, this.#nowMs());
    const update = watch.content.take(event);
    if (update?.kind === "job" && update.job.done) {
      this.#pending.delete(uid);
      try {
        const { job, content } = update;
        verify(job, { content, delivered: deliversResult(this.#contentFormat) });
      } catch (error) {
        if (error instanceof GatewayError) return { kind: "failed", uid, error };
        throw error;
      }
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

  /** Returns the consequence of a rejected token if there is no other one. */
  withoutLogin({ uid, error }: { uid: string; error: GatewayError }): Outcome | undefined {
    this.#noToken = true;
    const watch = this.#pending.get(uid);
    return watch && this.#fail(uid, watch, error);
  }

  #failed(uid: string, watch: JobWatch, watchFailure: WatchFailure): Outcome | undefined {
    const error = GatewayError.ofWatch(watchFailure);
    // It ends no watch.
    if (error.reason === "ALREADY_WATCHED") return undefined;
    if (error.code === "UNAUTHENTICATED" && !watch.tokenUnproven && !this.#noToken) {
      return { kind: "login", uid, error };
    }
    return this.#fail(uid, watch, error);
  }

  #fail(uid: string, watch: JobWatch, error: GatewayError): Outcome {
    if (error.code !== "UNAVAILABLE" && !error.isLoadLimit) {
      this.#pending.delete(uid);
      return { kind: "failed", uid, error };
    }
    const waitMs = watch.postpone(error.retryAfterSeconds, this.#nowMs());
    const earlier = this.#unsent.findLastIndex((each) => each.watch.dueAt <= watch.dueAt);
    this.#unsent.splice(earlier + 1, 0, { uid, watch });
    return { kind: "again", retry: { error, waitMs, newConnection: false, uid } };
  }
}
