/** Runs the steps of a scenario file and prints its observations (clients/README.md). */

import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import {
  Client,
  ContentFormat,
  type DeepPartial,
  GatewayError,
  type Job,
  JobStatus,
  type Retry,
  type SendJobRequest,
  type Watch,
  type WatchSettings,
} from "jobgateway-client";
import { errorView, jobView, resumeView, watchAllView, watchView } from "./views.js";

interface Step {
  do: "send" | "run" | "get" | "wait" | "cancel" | "watch" | "watch_each" | "watch_all";
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
async function perform(step: Step, client: Client, sent: string[]): Promise<void> {
  const uid = step.uid ?? sent.at(-1) ?? "";
  const print: Print = (seen) => console.log(JSON.stringify({ do: step.do, ...seen }));
  const onRetry = ({ error }: Retry) => print({ error: errorView(error) });
  const printJob = (job: Job) => print({ job: jobView(job) });

  try {
    switch (step.do) {
      case "send":
        for (let left = step.count ?? 1; left > 0; left--) {
          const job = await client.send(sendRequest(step), { onRetry });
          printJob(job);
          sent.push(job.uid);
        }
        return;
      case "get":
        return printJob(await client.get(uid, { onRetry }));
      case "cancel":
        return printJob(await client.cancel(uid, { onRetry }));
      case "wait":
        return await wait(step, client, uid, onRetry, printJob);
      case "watch":
        return await follow(client.watch(uid, settings(step, print)), print);
      case "run":
        return await follow(client.run(sendRequest(step), settings(step, print)), print);
      case "watch_each":
        await Promise.all(sent.map((each) => watchEach(step, client, each, print)));
        return;
      case "watch_all":
        return await watchMany(step, client, sent, print);
    }
  } catch (error) {
    if (!(error instanceof GatewayError)) throw error;
    print({ error: errorView(error) });
  }
}

async function wait(
  step: Step,
  client: Client,
  uid: string,
  onRetry: (retry: Retry) => void,
  printJob: (job: Job) => void,
): Promise<void> {
  const { timeout_seconds: timeoutSeconds = 60 } = step;
  let job: Job;
  do {
    job = await client.wait(uid, { timeoutSeconds, onRetry });
    printJob(job);
  } while (!job.done);
}

async function follow(watch: Watch, print: Print): Promise<void> {
  for await (const event of watch) print(watchView(event));
}

/** Watches one of several jobs. Its lines have the uid. */
async function watchEach(step: Step, client: Client, uid: string, print: Print): Promise<void> {
  const printOf: Print = (seen) => {
    const [[kind, about] = []] = Object.entries(seen);
    if (kind) print({ [kind]: { uid, ...about } });
  };
  try {
    await follow(client.watch(uid, settings(step, printOf)), printOf);
  } catch (error) {
    if (!(error instanceof GatewayError)) throw error;
    printOf({ error: errorView(error) });
  }
}

/** Watches the jobs that were sent, and those of the step. */
async function watchMany(step: Step, client: Client, sent: string[], print: Print): Promise<void> {
  const uids = [...sent, ...(step.uids ?? [])];
  const ended = { succeeded: 0, failed: 0, errors: 0 };
  let lines = 0;
  const count: Print = (seen) => {
    print(seen);
    lines++;
  };
  let paused = step.pause_after === undefined;
  for await (const event of client.watchAll(uids, settings(step, count))) {
    count(watchAllView(event));
    if (event.kind === "failed") ended.errors++;
    if (event.kind === "job" && event.job.done) {
      ended[event.job.status === JobStatus.JOB_STATUS_SUCCESS ? "succeeded" : "failed"]++;
    }
    if (!paused && lines >= (step.pause_after ?? 0)) {
      paused = true;
      await sleep((step.pause_seconds ?? 0) * 1000);
    }
  }
  print({ ended });
}

function settings(step: Step, print: Print): WatchSettings {
  return {
    heartbeatSeconds: step.heartbeat_seconds,
    contentFormat: step.chunks ? ContentFormat.CONTENT_FORMAT_JSON_CHUNKS : undefined,
    onRetry: (retry) => print(resumeView(retry)),
  };
}

function sendRequest({ request = {} }: Step): DeepPartial<SendJobRequest> {
  return {
    workspaceId: request.workspace_id,
    entityId: request.entity_id?.toString(),
    methodName: request.method_name,
    requestId: request.request_id,
    input: request.params && { $case: "params", value: request.params },
  };
}

const [target, scenarioFile, serviceConfigFile] = process.argv.slice(2);
if (!target || !scenarioFile || !serviceConfigFile) {
  throw new Error("usage: main.js <target> <scenario-file> <service-config-file>");
}
const { steps }: { steps: Step[] } = JSON.parse(await readFile(scenarioFile, "utf8"));
let nextToken = process.env.JOBGATEWAY_TOKEN;
const client = new Client(target, {
  serviceConfig: await readFile(serviceConfigFile, "utf8"),
  token: () => {
    const token = nextToken;
    nextToken = process.env.JOBGATEWAY_FRESH_TOKEN;
    return token;
  },
});
try {
  const sent: string[] = [];
  for (const step of steps) await perform(step, client, sent);
} finally {
  client.close();
}
