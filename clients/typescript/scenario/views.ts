/** The observations that this program prints (clients/README.md). */

import { createHash } from "node:crypto";
import type {
  ContentChunk,
  GatewayError,
  Heartbeat,
  Job,
  JobUpdate,
  Retry,
  WatchAllEvent,
} from "jobgateway-client";

export function watchView(event: JobUpdate): object {
  switch (event.kind) {
    case "job":
      return { job: jobView(event.job, event.content) };
    case "heartbeat":
      return { heartbeat: heartbeatView(event.heartbeat) };
    case "chunk":
      return { chunk: chunkView(event) };
  }
}

/** `watchAll` has the number of jobs for the stream, and the uid for one job of the stream. */
export function resumeView({ error, newConnection, uid, jobs }: Retry): object {
  const { code, reason } = error;
  if (uid !== undefined) return { again: { uid, code, reason } };
  return { resume: { code, reason, new_connection: newConnection, jobs } };
}

export function watchAllView(event: WatchAllEvent): object {
  switch (event.kind) {
    case "job":
      return watchView(event);
    case "heartbeat": {
      const about = event.uid === "0" ? {} : { uid: event.uid };
      return { heartbeat: { ...about, ...heartbeatView(event.heartbeat) } };
    }
    case "chunk":
      return { chunk: { uid: event.uid, ...chunkView(event) } };
    case "synced":
      return { synced: true };
    case "failed":
      return { error: { uid: event.uid, ...errorView(event.error) } };
  }
}

function heartbeatView({ consecutiveFailures, lastFailure }: Heartbeat): object {
  return { consecutive_failures: consecutiveFailures, last_failure: lastFailure };
}

function chunkView({
  chunk: { offset, data },
  held,
}: {
  chunk: ContentChunk;
  held: number;
}): object {
  return { offset, size: data.length, held };
}

export function jobView(job: Job, chunks?: Buffer): object {
  return {
    uid: job.uid,
    status: job.status,
    done: job.done,
    message: job.progress?.message,
    percentage: job.progress?.percentage,
    error_message: job.error?.message,
    result: job.done ? resultView(job, chunks) : undefined,
  };
}

function resultView(job: Job, chunks?: Buffer): object {
  const announced = { content_size: job.contentSize, content_sha256: job.contentSha256 };
  if (job.result?.$case === "content") {
    return { as: "struct", sum: job.result.value?.data?.sum, ...announced };
  }
  const json = job.result?.value ?? chunks;
  if (!json) return { as: "none", ...announced };
  const sha256 = createHash("sha256").update(json).digest("hex");
  return { as: chunks ? "chunks" : "json", size: json.length, sha256, ...announced };
}

export function errorView(error: GatewayError): object {
  const { code, reason, action, retryAfterSeconds } = error;
  const fields = Object.fromEntries(error.fields.map(({ field, problem }) => [field, problem]));
  return { code, reason, action, fields, retry_after_seconds: retryAfterSeconds };
}
