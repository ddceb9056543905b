from uuid import uuid4

from jobgateway_client import Client, JobStatus, SendJobRequest

request = SendJobRequest(workspace_id="1", entity_id=7, method_name="succeed", request_id=str(uuid4()))
request.params.update({"duration": 1, "steps": 2})
with Client("127.0.0.1:50051", token="demo-token") as client:
    watch = client.run(request, on_progress=lambda job: print(f"{job.progress.percentage}% {job.progress.message}"))
    finished = watch.finish()
print(JobStatus.Name(finished.job.status), finished.result.decode())
