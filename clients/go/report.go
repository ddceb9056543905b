package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	pb "jobclient/gen/jobgateway/v1"
	"jobclient/jobs"
)

type line map[string]any

// reporter prints the observations of one step, one JSON line each.
type reporter struct {
	step string
	held jobs.Result
}

func (r *reporter) print(kind string, seen line) error {
	return json.NewEncoder(os.Stdout).Encode(line{"do": r.step, kind: seen})
}

func (r *reporter) event(event *pb.JobEvent) error {
	switch payload := event.GetPayload().(type) {
	case *pb.JobEvent_Job:
		return r.job(payload.Job)
	case *pb.JobEvent_ContentChunk:
		chunk := payload.ContentChunk
		held := len(r.held)
		r.held.Take(chunk)
		return r.print("chunk", line{"offset": chunk.GetOffset(), "size": len(chunk.GetData()), "held": held})
	case *pb.JobEvent_Heartbeat:
		return r.print("heartbeat", line{
			"consecutive_failures": payload.Heartbeat.GetConsecutiveFailures(),
			"last_failure":         payload.Heartbeat.GetLastFailure(),
		})
	}
	return nil // a payload of a later version
}

func (r *reporter) job(job *pb.Job) error {
	seen := line{
		"uid":           strconv.FormatInt(job.GetUid(), 10),
		"status":        job.GetStatus().String(),
		"done":          job.GetDone(),
		"message":       job.GetProgress().GetMessage(),
		"percentage":    job.GetProgress().GetPercentage(),
		"error_message": job.GetError().GetMessage(),
	}
	if job.GetDone() {
		seen["result"] = r.result(job)
	}
	return r.print("job", seen)
}

func (r *reporter) result(job *pb.Job) line {
	seen := line{"as": "none", "content_size": job.GetContentSize(), "content_sha256": job.GetContentSha256()}
	var held []byte
	switch {
	case job.GetContent() != nil:
		seen["as"] = "struct"
		seen["sum"] = job.GetContent().GetFields()["data"].GetStructValue().GetFields()["sum"].GetNumberValue()
		return seen
	case job.GetContentSize() == 0:
		return seen
	case job.GetContentOmitted():
		seen["as"], held = "chunks", r.held
	default:
		seen["as"], held = "json", job.GetContentJson()
	}
	sum := sha256.Sum256(held)
	seen["size"], seen["sha256"] = len(held), hex.EncodeToString(sum[:])
	return seen
}

func (r *reporter) resumption(resumption jobs.Resumption) {
	if err := r.print("resume", line{
		"code":           codeName(resumption.Code),
		"reason":         resumption.Reason,
		"new_connection": resumption.NewConnection,
	}); err != nil {
		panic(fmt.Sprintf("standard output: %v", err))
	}
}

func (r *reporter) failure(failure jobs.Failure) error {
	seen := line{
		"code":   codeName(failure.Code),
		"reason": failure.Reason,
		"action": failure.Action(),
		"fields": failure.Fields,
	}
	if failure.RetryAfter != nil {
		seen["retry_after_seconds"] = failure.RetryAfter.Seconds()
	}
	return r.print("error", seen)
}
