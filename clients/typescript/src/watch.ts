import type { StatusObject } from "@grpc/grpc-js";
import type { CallSettings, Retry } from "./calls.js";
import {
  type Connection,
  type Connections,
  type Credential,
  isReplayed,
  metadataFor,
} from "./connections.js";
import { ChunkedContent, type JobUpdate, resultOf, verify } from "./content.js";
import type { GatewayError } from "./errors.js";
import {
  ContentFormat,
  type Job,
  type JobEvent,
  RunJobRequest,
  type SendJobRequest,
  WatchJobRequest,
} from "./gen/jobgateway/v1/job_service.js";
import { prepare, ResumePolicy } from "./resume.js";
import { END_MS, events, provesToken } from "./stream.js";

/** Options of `watch` and `watchAll`. */
export interface StreamSettings extends CallSettings {
  /**
   * The longest time between two events, which the gateway ensures. The watch cancels a stream after three of them
   * without an event.
   */
  heartbeatSeconds?: number | undefined;
  contentFormat?: ContentFormat | undefined;
}

/** Options of `watch` and `run`. */
export interface WatchSettings extends StreamSettings {
  /** Is called with each state of the job. */
  onProgress?: ((job: Job) => void) | undefined;
}

/** A job that has ended. */
export interface Finished {
  job: Job;
  /** JSON; empty if there is none, or if it was not requested. */
  result: Buffer;
}

/** The job of a watch: one that exists, or one that `run` sends first. */
type Start = { uid: string } | { send: SendJobRequest };

/**
 * The events of a job until it ends, over as many streams as needed. Iterate over it once. The last event has `job.done`;
 * every other end is an error. Leaving the loop cancels the stream; the job continues.
 */
export class Watch implements AsyncIterable<JobUpdate> {
  readonly #connections: Connections;
  readonly #credential: Credential;
  readonly #settings: WatchSettings;
  readonly #send: SendJobRequest | undefined;
  readonly #heartbeatSeconds: number;
  readonly #contentFormat: ContentFormat | undefined;
  readonly #policy = new ResumePolicy();
  readonly #content = new ChunkedContent();
  readonly #events: AsyncGenerator<JobUpdate, void, undefined>;
  #uid: string;
  #resumeToken = "";
  #done = false;

  constructor(
    connections: Connections,
    credential: Credential,
    start: Start,
    settings: WatchSettings,
  ) {
    this.#connections = connections;
    this.#credential = credential;
    this.#settings = settings;
    this.#heartbeatSeconds = settings.heartbeatSeconds ?? 15;
    this.#send = "send" in start ? start.send : undefined;
    this.#uid = "uid" in start ? start.uid : "";
    this.#contentFormat = settings.contentFormat ?? this.#send?.contentFormat;
    this.#events = this.#follow();
  }

  /** The job; empty if it is not known yet. */
  get uid(): string {
    return this.#uid;
  }

  [Symbol.asyncIterator](): AsyncGenerator<JobUpdate, void, undefined> {
    return this.#events;
  }

  /** Reads the remaining events, and returns the job and its result. */
  async finish(): Promise<Finished> {
    let finished: Finished | undefined;
    for await (const event of this) {
      if (event.kind === "job") {
        finished = { job: event.job, result: resultOf(event.job, event.content) };
      }
    }
    if (!finished) throw new Error("the watch was read before");
    return finished;
  }

  async *#follow(): AsyncGenerator<JobUpdate, void, undefined> {
    const { signal, onRetry } = this.#settings;
    for (;;) {
      const token = await this.#credential.token();
      signal?.throwIfAborted();
      const connection = this.#connections.current;
      const error = yield* this.#stream(connection, token);
      if (this.#done) return;
      signal?.throwIfAborted();
      this.#connections.throwIfClosed();
      const renewed = this.#policy.wantsToken(error) && (await this.#credential.renew(token));
      const retry = this.#resume(error, renewed);
      if (!retry) throw error;
      onRetry?.(retry);
      await prepare(this.#connections, connection, retry, signal);
    }
  }

  /** Yields the events of one stream, and returns the error with which it ended. */
  async *#stream(
    connection: Connection,
    token: string | undefined,
  ): AsyncGenerator<JobUpdate, GatewayError, undefined> {
    const { signal, onProgress, onReplayed } = this.#settings;
    const silenceMs = () => (this.#done ? END_MS : 3 * this.#heartbeatSeconds * 1000);
    this.#policy.opened();
    const call = this.#open(connection, token);
    call.on("status", ({ metadata }: StatusObject) => {
      if (isReplayed(metadata)) onReplayed?.();
    });
    const stream = events(this.#connections, connection, call, silenceMs, signal);
    try {
      for (;;) {
        const { done, value } = await stream.next();
        if (done) return value;
        const update = this.#take(value);
        if (update?.kind === "job") onProgress?.(update.job);
        if (update) yield update;
      }
    } finally {
      await stream.return(undefined as never);
    }
  }

  #open({ stub }: Connection, token: string | undefined) {
    const heartbeatInterval = { seconds: this.#heartbeatSeconds };
    if (this.#send && !this.#uid) {
      const request = { ...this.#send, contentFormat: this.#contentFormat };
      return stub.runJob(
        RunJobRequest.fromPartial({ request, heartbeatInterval }),
        metadataFor(token),
      );
    }
    const request = WatchJobRequest.fromPartial({
      uid: this.#uid,
      contentFormat: this.#contentFormat,
      heartbeatInterval,
      resumeToken: this.#resumeToken,
    });
    return stub.watchJob(request, metadataFor(token, this.#uid));
  }

  #take(event: JobEvent): JobUpdate | undefined {
    this.#policy.received({ provesToken: provesToken(event) });
    if (event.uid !== "0") this.#uid = event.uid;
    this.#resumeToken = event.resumeToken || this.#resumeToken;
    const update = this.#content.take(event);
    if (update?.kind === "job" && update.job.done) {
      const format = this.#contentFormat ?? ContentFormat.CONTENT_FORMAT_UNSPECIFIED;
      // The other formats deliver a large result by another call.
      const complete =
        format === ContentFormat.CONTENT_FORMAT_UNSPECIFIED ||
        format === ContentFormat.CONTENT_FORMAT_JSON_CHUNKS;
      verify(update.job, update.content, complete);
      this.#done = true;
    }
    return update;
  }

  #resume(error: GatewayError, renewed: boolean): Retry | undefined {
    if (!this.#send || this.#uid || renewed) {
      return this.#policy.decide(error, this.#resumeToken, renewed);
    }
    // An error may name the job before an event does.
    this.#uid = error.uid;
    if (this.#uid) return this.#policy.decide(error, this.#resumeToken, renewed);
    return error.maySendAgain(this.#send) ? this.#policy.retry(error) : undefined;
  }
}
