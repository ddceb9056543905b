import { ChunkedContent, type JobUpdate } from "./content.js";
import type { Gateway } from "./gateway.js";
import { type ContentFormat, WatchJobRequest } from "./gen/jobgateway/v1/job_service.js";
import { prepare, ResumePolicy } from "./resume.js";
import { events, NoEnd, provesToken } from "./stream.js";

export type WatchEvent =
  | JobUpdate
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
  const policy = new ResumePolicy();
  let resumeToken = "";

  for (;;) {
    const { client } = gateway;
    let failure: unknown;
    try {
      const request = WatchJobRequest.fromPartial({
        uid,
        contentFormat,
        heartbeatInterval: { seconds: heartbeatSeconds },
        resumeToken,
      });
      policy.opened();
      const call = client.watchJob(request, gateway.metadata(request));
      for await (const event of events(call, () => 3 * heartbeatSeconds * 1000, signal)) {
        policy.received({ provesToken: provesToken(event) });
        resumeToken = event.resumeToken || resumeToken;
        const update = content.take(event);
        if (update) yield update;
        if (update?.kind === "job" && update.job.done) return;
      }
      failure = new NoEnd();
    } catch (error) {
      failure = error;
    }

    signal?.throwIfAborted();
    const resumption = policy.decide(failure, resumeToken);
    if (!resumption) throw failure;
    const { code, reason, newConnection } = resumption;
    yield { kind: "resume", code, reason, newConnection };
    await prepare(gateway, client, resumption, signal);
  }
}
