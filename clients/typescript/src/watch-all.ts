import type { ClientDuplexStream } from "@grpc/grpc-js";
import { Cancellation, MAX_TIMER_MS } from "./cancellation.js";
import { type Connections, metadataFor } from "./connections.js";
import type { Credential } from "./credential.js";
import type { GatewayError } from "./errors.js";
import type { JobEvent, WatchJobsRequest } from "./gen/jobgateway/v1/job_service.js";
import { Iteration } from "./iteration.js";
import { JobWatches, type Outcome } from "./job-watches.js";
import { type Position, ResumePolicy } from "./resume.js";
import { END_MS, events, HEARTBEAT_SECONDS, provesToken, silenceMs } from "./stream.js";
import type { StreamSettings } from "./watch.js";

/** An event of a `watchAll`. */
export type WatchAllEvent = Exclude<Outcome, { kind: "login" | "again" }>;

/**
 * Watches jobs until each has ended or its watch has failed permanently, on one stream that is resumed as often as needed
 * (docs/clients/index.md). Leaving the loop cancels the stream; the jobs continue.
 *
 * @throws GatewayError with the code `INVALID_ARGUMENT`. The iteration throws one that is final for the stream, and with it
 * for all watches
 */
export function watchAll(
  connections: Connections,
  credential: Credential,
  uids: Iterable<string>,
  settings: StreamSettings,
): AsyncIterableIterator<WatchAllEvent, void, undefined> {
  const { heartbeatSeconds = HEARTBEAT_SECONDS, contentFormat } = settings;
  const watches = new JobWatches(uids, contentFormat, heartbeatSeconds);
  return new Iteration(
    (left) => follow(connections, credential, watches, { ...settings, heartbeatSeconds }, left),
    () => watches.pending === 0,
  );
}

async function* follow(
  connections: Connections,
  credential: Credential,
  watches: JobWatches,
  { heartbeatSeconds, signal, onRetry }: StreamSettings & { heartbeatSeconds: number },
  left: AbortSignal,
): AsyncGenerator<WatchAllEvent, void, undefined> {
  const policy = new StreamPolicy();
  const cancellation = new Cancellation(connections.closed, signal, left);
  let endedAtMs: number | undefined;
  const patienceMs = () => {
    if (watches.pending > 0) return silenceMs(heartbeatSeconds);
    endedAtMs ??= performance.now();
    return Math.max(endedAtMs + END_MS - performance.now(), 0);
  };

  try {
    watches.begin();
    while (watches.pending > 0) {
      const login = await cancellation.race(() => credential.current());
      const connection = connections.current;
      policy.opened();
      const call = connection.stub.watchJobs(metadataFor(login));
      const requests = new Requests(call, watches);
      const stream = events(connections, connection, call, patienceMs, cancellation.signal);
      let error: GatewayError | undefined;
      let renewed = false;
      try {
        while (!error) {
          const { done, value } = await stream.next();
          if (done) {
            error = value;
            break;
          }
          if (watches.pending === 0) continue;
          cancellation.lastError = undefined;
          policy.received({ provesToken: provesToken(value) || watches.provesTokenOfAll(value) });
          let outcome = watches.take(value);
          if (outcome?.kind === "login") {
            renewed = await cancellation.race(() => credential.renew(login));
            if (renewed) error = outcome.error;
            else outcome = watches.withoutLogin(outcome);
          }
          requests.send();
          if (outcome?.kind === "again") await onRetry?.(outcome.retry);
          else if (outcome && outcome.kind !== "login") yield outcome;
        }
      } finally {
        requests.stop();
        await stream.return(undefined as never);
      }

      // How the stream ends after the last job does not matter.
      if (watches.pending === 0) return;
      cancellation.throwIfAborted();
      cancellation.lastError = error;
      renewed ||=
        policy.wantsToken(error) && (await cancellation.race(() => credential.renew(login)));
      const retry = policy.decide(error, watches.position, renewed);
      if (!retry) throw error;
      if (renewed) watches.tokenRenewed();
      watches.begin();
      // Without a request, the next stream would have no heartbeats.
      const waitMs = Math.max(retry.waitMs, watches.nextDueMs ?? 0);
      await onRetry?.({ ...retry, waitMs, jobs: watches.pending });
      await cancellation.sleep(waitMs);
      if (retry.newConnection) connections.replace(connection);
    }
  } finally {
    cancellation.release();
  }
}

/** Resumes after a defect of the gateway too, which may be in one event that would come again. */
class StreamPolicy extends ResumePolicy {
  protected override mayResume(error: GatewayError, position: Position): boolean {
    if (error.reason === "GATEWAY_DEFECT") return this.isFirstAt(position);
    return super.mayResume(error, position);
  }
}

/** Sends each request of a stream when it is due, and half-closes when no job is pending. It never waits. */
class Requests {
  readonly #call: ClientDuplexStream<WatchJobsRequest, JobEvent>;
  readonly #watches: JobWatches;
  #timer: NodeJS.Timeout | undefined;

  constructor(call: ClientDuplexStream<WatchJobsRequest, JobEvent>, watches: JobWatches) {
    this.#call = call;
    this.#watches = watches;
    call.on("drain", () => this.send());
    this.send();
  }

  /** Sends what is due. Call it after each event. */
  send(): void {
    clearTimeout(this.#timer);
    if (!this.#call.writable) return;
    if (this.#watches.pending === 0) {
      this.#call.end();
      return;
    }
    while (!this.#call.writableNeedDrain) {
      const request = this.#watches.nextRequest();
      if (!request) break;
      this.#call.write(request);
    }
    const dueMs = this.#watches.nextDueMs;
    if (dueMs !== undefined && !this.#call.writableNeedDrain) {
      this.#timer = setTimeout(() => this.send(), Math.min(dueMs, MAX_TIMER_MS));
    }
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#call.removeAllListeners("drain");
  }
}
