import type { ClientDuplexStream } from "@grpc/grpc-js";
import { type Connections, type Credential, metadataFor } from "./connections.js";
import type { GatewayError } from "./errors.js";
import type { JobEvent, WatchJobsRequest } from "./gen/jobgateway/v1/job_service.js";
import { JobWatches, type Outcome } from "./job-watches.js";
import { type Position, prepare, ResumePolicy } from "./resume.js";
import { END_MS, events, provesToken } from "./stream.js";
import type { StreamSettings } from "./watch.js";

/** An event of a `watchAll`. */
export type WatchAllEvent = Exclude<Outcome, { kind: "login" | "again" }>;

/**
 * Watches jobs until each has ended or its watch has failed for good, on one stream that is resumed as often as needed
 * (docs/clients/index.md). Leaving the loop cancels the stream; the jobs continue.
 *
 * @throws GatewayError that is final for the stream, and with it for all watches
 */
export async function* watchAll(
  connections: Connections,
  credential: Credential,
  uids: Iterable<string>,
  { heartbeatSeconds = 15, contentFormat, signal, onRetry }: StreamSettings,
): AsyncGenerator<WatchAllEvent, void, undefined> {
  const watches = new JobWatches(uids, contentFormat, heartbeatSeconds);
  const policy = new StreamPolicy();
  const silenceMs = () => (watches.pending > 0 ? 3 * heartbeatSeconds * 1000 : END_MS);

  watches.begin();
  while (watches.pending > 0) {
    const token = await credential.token();
    signal?.throwIfAborted();
    const connection = connections.current;
    policy.opened();
    const call = connection.stub.watchJobs(metadataFor(token));
    const requests = new Requests(call, watches);
    const stream = events(connections, connection, call, silenceMs, signal);
    let error: GatewayError | undefined;
    let renewed = false;
    try {
      while (!error) {
        const { done, value } = await stream.next();
        if (done) {
          error = value;
          break;
        }
        policy.received({ provesToken: provesToken(value) || watches.provesTokenOfAll(value) });
        let outcome = watches.take(value);
        if (outcome?.kind === "login") {
          renewed = await credential.renew(token);
          if (renewed) error = outcome.error;
          else outcome = watches.withoutLogin(outcome);
        }
        requests.send();
        if (outcome?.kind === "again") onRetry?.(outcome.retry);
        else if (outcome && outcome.kind !== "login") yield outcome;
      }
    } finally {
      requests.stop();
      await stream.return(undefined as never);
    }

    // How the stream ends after the last job does not matter.
    if (watches.pending === 0) return;
    signal?.throwIfAborted();
    connections.throwIfClosed();
    renewed ||= policy.wantsToken(error) && (await credential.renew(token));
    const retry = policy.decide(error, watches.position, renewed);
    if (!retry) throw error;
    if (renewed) watches.tokenRenewed();
    watches.begin();
    // Without a request, the next stream would have no heartbeats.
    const waitMs = Math.max(retry.waitMs, watches.nextDueMs ?? 0);
    onRetry?.({ ...retry, waitMs, jobs: watches.pending });
    await prepare(connections, connection, { ...retry, waitMs }, signal);
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
      this.#timer = setTimeout(() => this.send(), dueMs);
    }
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#call.removeAllListeners("drain");
  }
}
