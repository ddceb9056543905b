import type { ClientDuplexStream, status } from "@grpc/grpc-js";
import type { Failure } from "./errors.js";
import type { Gateway } from "./gateway.js";
import type { JobEvent, WatchJobsRequest } from "./gen/jobgateway/v1/job_service.js";
import { JobWatches, type Outcome } from "./job-watches.js";
import { type Position, prepare, ResumePolicy } from "./resume.js";
import { events, NoEnd, provesToken } from "./stream.js";
import type { WatchOptions } from "./watch.js";

/** The time in which a stream has to end after the last job. */
const END_MS = 5_000;

export type WatchAllEvent =
  | Exclude<Outcome, { kind: "login" }>
  /** The stream failed, and the watches of the pending `jobs` resume with another one after a wait. */
  | { kind: "resume"; code: string; reason: string; newConnection: boolean; jobs: number };

/**
 * Watches jobs until each has ended or its watch has failed for good, on one stream that is resumed as often as needed
 * (docs/clients/index.md). Leaving the loop cancels the stream; the jobs continue.
 *
 * @throws a grpc-js `ServiceError` with a status that is final for the stream, and with it for all watches
 */
export async function* watchAll(
  gateway: Gateway,
  uids: Iterable<string>,
  { heartbeatSeconds = 15, contentFormat, signal }: WatchOptions = {},
): AsyncGenerator<WatchAllEvent, void, undefined> {
  const watches = new JobWatches(uids, contentFormat, heartbeatSeconds);
  const policy = new StreamPolicy();
  const silenceMs = () => (watches.pending > 0 ? 3 * heartbeatSeconds * 1000 : END_MS);

  watches.begin();
  while (watches.pending > 0) {
    const { client } = gateway;
    let failure: unknown = new NoEnd();
    let rejected: Failure | undefined;
    let requests: Requests | undefined;
    try {
      policy.opened();
      const call = client.watchJobs(gateway.metadata());
      requests = new Requests(call, watches);
      for await (const event of events(call, silenceMs, signal)) {
        policy.received({ provesToken: provesToken(event) || watches.provesTokenOfAll(event) });
        const outcome = watches.take(event);
        requests.send();
        if (outcome?.kind === "login") {
          rejected = outcome.failure;
          break;
        }
        if (outcome) yield outcome;
      }
    } catch (error) {
      failure = error;
    } finally {
      requests?.stop();
    }

    // How the stream ends after the last job does not matter.
    if (watches.pending === 0) return;
    signal?.throwIfAborted();
    const resumption = rejected
      ? policy.resume(rejected)
      : policy.decide(failure, watches.position);
    if (!resumption) throw failure;
    if (resumption.freshToken) watches.tokenRenewed();
    const { code, reason, newConnection } = resumption;
    yield { kind: "resume", code, reason, newConnection, jobs: watches.pending };
    watches.begin();
    await prepare(gateway, client, resumption, signal, watches.nextDueMs);
  }
}

/** Resumes after a defect of the gateway too, which may be in one event that would come again. */
class StreamPolicy extends ResumePolicy {
  protected override mayResume(code: status, failure: Failure, position: Position): boolean {
    if (failure.reason === "GATEWAY_DEFECT") return this.isFirstAt(position);
    return super.mayResume(code, failure, position);
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
