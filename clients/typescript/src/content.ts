import { createHash } from "node:crypto";
import { GatewayError } from "./errors.js";
import {
  type ContentChunk,
  ContentFormat,
  type Heartbeat,
  type Job,
  type JobEvent,
} from "./gen/jobgateway/v1/job_service.js";

/** An event of a job. */
export type JobUpdate =
  /** `content` is the result of a done job if it arrived in chunks. */
  | { kind: "job"; job: Job; content: Buffer | undefined }
  | { kind: "heartbeat"; heartbeat: Heartbeat }
  /** `held` is the number of bytes of the result before this chunk. */
  | { kind: "chunk"; chunk: ContentChunk; held: number };

/** The bytes of a result that arrives in chunks. */
export class ChunkedContent {
  #bytes = Buffer.alloc(0);
  #size = 0;

  /** Returns what an event says about the job, after adding its chunk; undefined for a payload of a later version. */
  take({ payload }: JobEvent): JobUpdate | undefined {
    switch (payload?.$case) {
      case "job": {
        const job = payload.value;
        return { kind: "job", job, content: job.contentOmitted ? this.#content() : undefined };
      }
      case "contentChunk": {
        const held = this.#size;
        this.#add(payload.value);
        return { kind: "chunk", chunk: payload.value, held };
      }
      case "heartbeat":
        return { kind: "heartbeat", heartbeat: payload.value };
      default:
        return undefined;
    }
  }

  /** Adds a chunk. It first cuts the result to the chunk's offset, because chunks may start again at 0 after a resume. */
  #add({ offset, data, contentSize }: ContentChunk): void {
    if (this.#bytes.length !== contentSize) {
      this.#bytes = Buffer.concat([this.#bytes.subarray(0, offset)], contentSize);
    }
    data.copy(this.#bytes, offset);
    this.#size = offset + data.length;
  }

  #content(): Buffer {
    return this.#bytes.subarray(0, this.#size);
  }
}

/**
 * Returns the JSON of the result of a done job; empty if there is none, or if it was not sent (`job.contentOmitted`). The
 * JSON of a `Struct` has the same values as the upstream's, but not the same bytes.
 */
export function resultOf({ job, content }: { job: Job; content?: Buffer | undefined }): Buffer {
  if (job.result?.$case === "content") return Buffer.from(JSON.stringify(job.result.value ?? {}));
  return job.result?.value ?? content ?? Buffer.alloc(0);
}

/** Returns whether a stream of this format delivers each result. The end of a job alone does not show that it arrived. */
export function deliversResult(contentFormat: ContentFormat | undefined): boolean {
  return contentFormat !== ContentFormat.CONTENT_FORMAT_NONE;
}

/**
 * Compares the bytes of a result, which may have arrived in chunks, with its SHA-256. The gateway may leave a result out of
 * a call that is not `delivered`, and it does not keep that of a job without a number.
 *
 * @throws GatewayError with the code `DATA_LOSS` if they do not match
 */
export function verify(
  job: Job,
  { content, delivered }: { content?: Buffer | undefined; delivered: boolean },
): void {
  // A Struct does not have the bytes that the hash is about.
  if (job.contentSize === 0 || job.result?.$case === "content") return;
  const json = resultOf({ job, content });
  const isExpected = delivered && job.uid !== "0";
  if (json.length === 0 && job.contentOmitted && !isExpected) return;
  const problem = damage(job, json);
  if (problem) {
    const { uid } = job;
    const message = `the result of job ${uid} is damaged: ${problem}; get the job again`;
    throw new GatewayError("DATA_LOSS", message, { metadata: { uid } });
  }
}

function damage({ contentSize, contentSha256 }: Job, json: Buffer): string | undefined {
  if (json.length === 0) return `nothing of its ${contentSize} bytes arrived`;
  if (json.length !== contentSize) return `${json.length} of ${contentSize} bytes arrived`;
  const sha256 = createHash("sha256").update(json).digest("hex");
  return sha256 === contentSha256
    ? undefined
    : `all ${contentSize} bytes arrived, with a wrong SHA-256`;
}
