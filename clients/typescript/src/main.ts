/** Runs the steps of a scenario file and prints its observations (clients/README.md). */

import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { type CallPolicy, unary } from "./calls.js";
import { describe, isServiceError } from "./errors.js";
import { Gateway } from "./gateway.js";
import {
  ContentFormat,
  GetJobRequest,
  type Job,
  JobStatus,
  SendJobRequest,
  WaitJobRequest,
} from "./gen/jobgateway/v1/job_service.js";
import { errorView, jobView, watchAllView, watchView } from "./views.js";
import { type WatchOptions, watchJob } from "./watch.js";
import { watchAll } from "./watch-all.js";

interface Step {
  do: "send" | "get" | "wait" | "cancel" | "watch" | "watch_all";
  uid?: string;
  uids?: string[];
  count?: number;
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
  pause_after?: number;
  pause_seconds?: number;
}

type Print = (seen: object) => void;

/** Runs a step. `sent` are the jobs that were sent so far. */
async function perform(step: Step, gateway: Gateway, sent: string[]): Promise<void> {
  const uid = step.uid ?? sent.at(-1) ?? "";
  const print: Print = (seen) => console.log(JSON.stringify({ do: step.do, ...seen }));
  const printJob = (job: Job) => print({ job: jobView(job) });
  const policy: CallPolicy = {
    deadlineSeconds: 30,
    repeatable: true,
    onFailure: (failure) => print({ error: errorView(failure) }),
  };

  switch (step.do) {
    case "send": {
      const request = sendRequest(step);
      const repeatable = request.requestId !== "";
      for (let left = step.count ?? 1; left > 0; left--) {
        const job = await unary(gateway, (client) => client.sendJob, request, {
          ...policy,
          repeatable,
        });
        printJob(job);
        sent.push(job.uid);
      }
      return;
    }
    case "get":
      printJob(
        await unary(gateway, (client) => client.getJob, GetJobRequest.create({ uid }), policy),
      );
      return;
    case "cancel":
      printJob(await unary(gateway, (client) => client.cancelJob, { uid }, policy));
      return;
    case "wait": {
      const { timeout_seconds: seconds = 60 } = step;
      const request = WaitJobRequest.fromPartial({ uid, timeout: { seconds } });
      const patient = { ...policy, deadlineSeconds: seconds + 30 };
      let job: Job;
      do {
        job = await unary(gateway, (client) => client.waitJob, request, patient);
        printJob(job);
      } while (!job.done);
      return;
    }
    case "watch":
    case "watch_all":
      try {
        if (step.do === "watch") await watchOne(step, gateway, uid, print);
        else await watchMany(step, gateway, sent, print);
      } catch (error) {
        if (!isServiceError(error)) throw error;
        print({ error: errorView(describe(error)) });
        throw error;
      }
      return;
  }
}

async function watchOne(step: Step, gateway: Gateway, uid: string, print: Print): Promise<void> {
  for await (const event of watchJob(gateway, uid, watchOptions(step))) print(watchView(event));
}

/** Watches the jobs that were sent, and those of the step. */
async function watchMany(
  step: Step,
  gateway: Gateway,
  sent: string[],
  print: Print,
): Promise<void> {
  const uids = [...sent, ...(step.uids ?? [])];
  const ended = { succeeded: 0, failed: 0, errors: 0 };
  let lines = 0;
  for await (const event of watchAll(gateway, uids, watchOptions(step))) {
    print(watchAllView(event));
    if (event.kind === "failed") ended.errors++;
    if (event.kind === "job" && event.job.done) {
      ended[event.job.status === JobStatus.JOB_STATUS_SUCCESS ? "succeeded" : "failed"]++;
    }
    if (++lines === step.pause_after) await sleep((step.pause_seconds ?? 0) * 1000);
  }
  print({ ended });
}

function watchOptions(step: Step): WatchOptions {
  return {
    heartbeatSeconds: step.heartbeat_seconds,
    contentFormat: step.chunks ? ContentFormat.CONTENT_FORMAT_JSON_CHUNKS : undefined,
  };
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
  const sent: string[] = [];
  for (const step of steps) {
    try {
      await perform(step, gateway, sent);
    } catch (error) {
      // A failed call has been printed. Any other error ends the program.
      if (!isServiceError(error)) throw error;
    }
  }
} finally {
  gateway.close();
}
