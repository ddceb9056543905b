import { randomUUID } from "node:crypto";
import { Client } from "jobgateway-client";

const client = new Client("127.0.0.1:50051", { token: "demo-token" });
const job = { workspaceId: "1", entityId: "7", methodName: "succeed", requestId: randomUUID() };
const input = { $case: "params", value: { duration: 1, steps: 2 } };
const onProgress = ({ progress: p }) => p && console.log(`${p.percentage}% ${p.message}`);
const end = await client.run({ ...job, input }, { onProgress }).finish();
console.log(end.job.status, end.result.toString());
client.close();
