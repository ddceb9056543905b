/** Runs the steps of a scenario file and prints its observations (clients/README.md). */

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { type CallPolicy, unary } from "./calls.js";
import { describe, type Failure, isServiceError } from "./errors.js";
import { Gateway } from "./gateway.js";
import {
  ContentFormat,
  GetJobRequest,
  type Job,
  SendJobRequest,
  WaitJobRequest,
} from "./gen/jobgateway/v1/job_service.js";
import { watchJob } from "./watch.js";

interface Step {
  do: "send" | "get" | "wait" | "cancel" | "watch";
  uid?: string;
  request?: {
    workspace_id?: string;
    entity_id?: number;
    method_name?: string;
    request_id?: string;
    params?: Record<string, unknown>;
  };
  timeout_seconds?: number;
  heartbeat_seconds?: number;
  chunks?: boolean;
}

/** Runs a step for the job `uid`, and returns the `uid` for the next step. */
async function perform(step: Step, gateway: Gateway, uid: string): Promise<string> {
  const print = (seen: object) => console.log(JSON.stringify({ do: step.do, ...seen }));
  const printJob = (job: Job, chunks?: Buffer) => print({ job: jobView(job, chunks) });
  const policy: CallPolicy = {
    deadlineSeconds: 30,
    repeatable: true,
    onFailure: (failure) => print({ error: errorView(failure) }),
  };

  switch (step.do) {
    case "send": {
      const request = sendRequest(step);
      const repeatable = request.requestId !== "";
      const job = await unary(gateway, (client) => client.sendJob, request, {
        ...policy,
        repeatable,
      });
      printJob(job);
      return job.uid;
    }
    case "get":
      printJob(
        await unary(gateway, (client) => client.getJob, GetJobRequest.create({ uid }), policy),
      );
      return uid;
    case "cancel":
      printJob(await unary(gateway, (client) => client.cancelJob, { uid }, policy));
      return uid;
    case "wait": {
      const { timeout_seconds: seconds = 60 } = step;
      const request = WaitJobRequest.fromPartial({ uid, timeout: { seconds } });
      const patient = { ...policy, deadlineSeconds: seconds + 30 };
      let job: Job;
      do {
        job = await unary(gateway, (client) => client.waitJob, request, patient);
        printJob(job);
      } while (!job.done);
      return uid;
    }
    case "watch":
      try {
        const options = {
          heartbeatSeconds: step.heartbeat_seconds,
          contentFormat: step.chunks ? ContentFormat.CONTENT_FORMAT_JSON_CHUNKS : undefined,
        };
        for await (const event of watchJob(gateway, uid, options)) {
          switch (event.kind) {
            case "job":
              printJob(event.job, event.content);
              break;
            case "heartbeat": {
              const { consecutiveFailures, lastFailure } = event.heartbeat;
              print({
                heartbeat: { consecutive_failures: consecutiveFailures, last_failure: lastFailure },
              });
              break;
            }
            case "chunk": {
              const { offset, data } = event.chunk;
              print({ chunk: { offset, size: data.length, held: event.held } });
              break;
            }
            case "resume": {
              const { code, reason, newConnection } = event;
              print({ resume: { code, reason, new_connection: newConnection } });
              break;
            }
          }
        }
      } catch (error) {
        if (!isServiceError(error)) throw error;
        print({ error: errorView(describe(error)) });
        throw error;
      }
      return uid;
  }
}

function sendRequest({ request = {} }: Step): SendJobRequest {
  return SendJobRequest.fromPartial({
    workspaceId: request.workspace_id,
    entityId: request.entity_id?.toString(),
    methodName: request.method_name,
    requestId: request.request_id,
    input: request.params && { $case: "params", value: request.params },
  });
}

function jobView(job: Job, chunks?: Buffer): object {
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

function errorView({ retryAfterSeconds, ...failure }: Failure): object {
  return { ...failure, retry_after_seconds: retryAfterSeconds };
}

const [target, scenarioFile, serviceConfigFile] = process.argv.slice(2);
if (!target || !scenarioFile || !serviceConfigFile) {
  throw new Error("usage: main.js <target> <scenario-file> <service-config-file>");
}
const { steps }: { steps: Step[] } = JSON.parse(await readFile(scenarioFile, "utf8"));
const gateway = new Gateway({
  target,
  serviceConfig: await readFile(serviceConfigFile, "utf8"),
  token: process.env.JOBGATEWAY_TOKEN ?? "",
  logIn: async () => process.env.JOBGATEWAY_FRESH_TOKEN ?? "",
});
try {
  let uid = "";
  for (const step of steps) {
    try {
      uid = await perform(step, gateway, step.uid ?? uid);
    } catch (error) {
      // A failed call has been printed. Any other error ends the program.
      if (!isServiceError(error)) throw error;
    }
  }
} finally {
  gateway.close();
}
