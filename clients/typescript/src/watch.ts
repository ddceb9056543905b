import type { StatusObject } from "@grpc/grpc-js";
import type { CallSettings, Retry } from "./calls.js";
import { Cancellation } from "./cancellation.js";
import { type Connection, type Connections, isReplayed, metadataFor } from "./connections.js";
import { ChunkedContent, deliversResult, type JobUpdate, resultOf, verify } from "./content.js";
import type { Credential, Login } from "./credential.js";
import type { GatewayError } from "./errors.js";
import {
  type ContentFormat,
  type DeepPartial,
  type Job,
  type JobEvent,
  JobServiceService,
  RunJobRequest,
  type SendJobRequest,
  WatchJobRequest,
} from "./gen/jobgateway/v1/job_service.js";
import { Iteration } from "./iteration.js";
import { asEncoded, checkUid, duration, encode } from "./requests.js";
import { ResumePolicy } from "./resume.js";
import { END_MS, events, HEARTBEAT_SECONDS, provesToken, silenceMs } from "./stream.js";

const { runJob: RUN_JOB, watchJob: WATCH_JOB } = JobServiceService;

/** Options of `watch` and `watchAll`. */
export interface StreamSettings extends CallSettings {
  /**
   * The longest time between two events, which the gateway ensures. After three of them without an event, the watch
   * resumes on a new connection. Default: 15.
   */
  heartbeatSeconds?: number | undefined;
  contentFormat?: ContentFormat | undefined;
}

/** Options of `watch` and `run`. */
export interface WatchSettings extends StreamSettings {
  /** Is called with each state of the job. */
  onProgress?: ((job: Job) => unknown) | undefined;
}

/** A job that has ended. */
export interface Finished {
  job: Job;
  /** JSON; empty if there is none, or if the gateway left it out (`job.contentOmitted`). */
  result: Buffer;
}

/** The job of a watch: one that exists, or one that `run` sends first. */
export type Start = { uid: string; resumeToken?: string } | { send: DeepPartial<SendJobRequest> };

/**
 * The events of a job until it ends, over as many streams as needed. Iterate over it once. The last event has `job.done`;
 * every other end is an error, also when the watch is used again. Leaving the loop cancels the stream; the job continues.
 */
export class Watch implements AsyncIterable<JobUpdate> {
  readonly #connections: Connections;
  readonly #credential: Credential;
  readonly #settings: WatchSettings;
  readonly #heartbeatSeconds: number;
  readonly #contentFormat: ContentFormat | undefined;
  /** The job that `run` sends, until its uid is known. */
  #run: { request: Buffer; requestId: string } | undefined;
  readonly #policy = new ResumePolicy();
  readonly #content = new ChunkedContent();
  readonly #events: Iteration<JobUpdate>;
  #uid = "";
  #resumeToken = "";
  #replayed = false;
  #end: { finished: Finished; atMs: number } | undefined;

  constructor(
    connections: Connections,
    credential: Credential,
    start: Start,
    settings: WatchSettings,
  ) {
    this.#connections = connections;
    this.#credential = credential;
    this.#settings = settings;
    this.#heartbeatSeconds = settings.heartbeatSeconds ?? HEARTBEAT_SECONDS;
    this.#contentFormat =
      settings.contentFormat ?? ("send" in start ? start.send.contentFormat : undefined);
    if ("send" in start) {
      this.#run = { request: this.#runRequest(start.send), requestId: start.send.requestId ?? "" };
    } else {
      this.#uid = start.uid;
      this.#resumeToken = start.resumeToken ?? "";
      checkUid(this.#uid);
      this.#watchRequest();
    }
    this.#events = new Iteration(
      (left) => this.#follow(left),
      () => this.#end !== undefined,
    );
  }

  /** The job; empty if it is not known yet. It is known after an error that names it. */
  get uid(): string {
    return this.#uid;
  }

  /** The place up to which the watch has its events. Another watch can continue there. */
  get resumeToken(): string {
    return this.#resumeToken;
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<JobUpdate, void, undefined> {
    return this.#events;
  }

  /** Reads the remaining events, and returns the job and its result, also after a loop. */
  async finish(): Promise<Finished> {
    while (!(await this.#events.next()).done);
    if (!this.#end) throw new Error("the watch ended before its job");
    return this.#end.finished;
  }

  async *#follow(left: AbortSignal): AsyncGenerator<JobUpdate, void, undefined> {
    const { signal, onRetry, onReplayed } = this.#settings;
    const cancellation = new Cancellation(this.#connections.closed, signal, left);
    try {
      for (;;) {
        const login = await cancellation.race(() => this.#credential.current());
        const connection = this.#connections.current;
        const error = yield* this.#stream(connection, login, cancellation);
        if (this.#replayed) await onReplayed?.();
        this.#replayed = false;
        if (this.#end) return;
        // An error may name the job before an event does, and then the job exists.
        if (this.#run) this.#identified(error.uid);
        cancellation.throwIfAborted();
        cancellation.lastError = error;
        const renewed =
          this.#policy.wantsToken(error) &&
          (await cancellation.race(() => this.#credential.renew(login)));
        const retry = this.#resume(error, renewed);
        if (!retry) throw error;
        await onRetry?.(retry);
        await cancellation.sleep(retry.waitMs);
        if (retry.newConnection) this.#connections.replace(connection);
      }
    } finally {
      cancellation.release();
    }
  }

  /** Yields the events of one stream, and returns the error with which it ended. */
  async *#stream(
    connection: Connection,
    login: Login,
    cancellation: Cancellation,
  ): AsyncGenerator<JobUpdate, GatewayError, undefined> {
    this.#policy.opened();
    const call = this.#open(connection, login);
    call.on("status", ({ metadata }: StatusObject) => {
      this.#replayed = isReplayed(metadata);
    });
    const patienceMs = () => {
      if (!this.#end) return silenceMs(this.#heartbeatSeconds);
      return Math.max(this.#end.atMs + END_MS - performance.now(), 0);
    };
    const stream = events(this.#connections, connection, call, patienceMs, cancellation.signal);
    try {
      for (;;) {
        const { done, value } = await stream.next();
        if (done) return value;
        // Only its trailers matter then.
        if (this.#end) continue;
        cancellation.lastError = undefined;
        const update = this.#take(value);
        if (update?.kind === "job") await this.#settings.onProgress?.(update.job);
        if (update) yield update;
      }
    } finally {
      await stream.return(undefined as never);
    }
  }

  #open({ stub }: Connection, login: Login) {
    const [method, request, metadata] = this.#run
      ? [RUN_JOB, this.#run.request, metadataFor(login)]
      : [WATCH_JOB, this.#watchRequest(), metadataFor(login, this.#uid)];
    const { path, responseDeserialize } = method;
    return stub.makeServerStreamRequest(path, asEncoded, responseDeserialize, request, metadata);
  }

  #runRequest(send: DeepPartial<SendJobRequest>): Buffer {
    const contentFormat = this.#contentFormat;
    return encode(RUN_JOB, () =>
      RunJobRequest.fromPartial({
        request: { ...send, contentFormat },
        heartbeatInterval: duration("heartbeatSeconds", this.#heartbeatSeconds),
      }),
    );
  }

  #watchRequest(): Buffer {
    return encode(WATCH_JOB, () =>
      WatchJobRequest.fromPartial({
        uid: this.#uid,
        contentFormat: this.#contentFormat,
        heartbeatInterval: duration("heartbeatSeconds", this.#heartbeatSeconds),
        resumeToken: this.#resumeToken,
      }),
    );
  }

  #take(event: JobEvent): JobUpdate | undefined {
    this.#policy.received({ provesToken: provesToken(event) });
    this.#identified(event.uid);
    this.#resumeToken = event.resumeToken || this.#resumeToken;
    const update = this.#content.take(event);
    if (update?.kind === "job" && update.job.done) {
      const { job, content } = update;
      verify(job, { content, delivered: deliversResult(this.#contentFormat) });
      const finished = { job: update.job, result: resultOf(update) };
      this.#end = { finished, atMs: performance.now() };
    }
    return update;
  }

  #resume(error: GatewayError, renewed: boolean): Retry | undefined {
    if (this.#run && !renewed) {
      return error.maySendAgain(this.#run) ? this.#policy.retry(error) : undefined;
    }
    return this.#policy.decide(error, this.#resumeToken, renewed);
  }

  /** Notes the job, if it has a number. */
  #identified(uid: string): void {
    if (uid === "" || uid === "0") return;
    this.#uid = uid;
    this.#run = undefined;
  }
}
