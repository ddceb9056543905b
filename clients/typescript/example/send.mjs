import { randomUUID } from "node:crypto";
import { Client } from "jobgateway-client";

const client = new Client("127.0.0.1:50051", { token: "demo-token" });
const input = { $case: "params", value: { duration: 1, steps: 2 } };
const request = { workspaceId: "1", entityId: "7", methodName: "succeed", requestId: randomUUID(), input };
const onProgress = ({ progress }) => console.log(`${progress?.percentage ?? 0}% ${progress?.message ?? ""}`);
const { job, result } = await client.run(request, { onProgress }).finish();
console.log(job.status, result.toString());
client.close();
