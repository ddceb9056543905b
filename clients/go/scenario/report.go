package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"google.golang.org/grpc/codes"

	pb "jobclient/gen/jobgateway/v1"
	"jobclient/jobs"
)

type line map[string]any

// reporter prints the observations of one step, one JSON line each.
type reporter struct {
	step  string
	uid   int64 // of a watch_each
	held  jobs.Result
	lines int
}

var output sync.Mutex

func (r *reporter) print(kind string, seen any) error {
	r.lines++
	output.Lock()
	defer output.Unlock()
	return json.NewEncoder(os.Stdout).Encode(line{"do": r.step, kind: seen})
}

// outcome prints the job or the error of a unary call.
func (r *reporter) outcome(job *pb.Job, err error) error {
	if err != nil {
		return r.failed(err)
	}
	return r.job(job)
}

// events prints the events of a watch.
func (r *reporter) events(watch *jobs.Watch) error {
	for item, err := range watch.Events() {
		if err != nil {
			return r.failed(err)
		}
		if err := r.event(item); err != nil {
			return err
		}
	}
	return nil
}

func (r *reporter) event(item jobs.Item) error {
	held := len(r.held)
	r.held = item.Result
	switch payload := item.Event.GetPayload().(type) {
	case *pb.JobEvent_Job:
		return r.job(payload.Job)
	case *pb.JobEvent_ContentChunk:
		chunk := payload.ContentChunk
		seen := line{"offset": chunk.GetOffset(), "size": len(chunk.GetData()), "held": held}
		return r.print("chunk", about(r.uid, seen))
	case *pb.JobEvent_Heartbeat:
		return r.print("heartbeat", about(r.uid, heartbeatLine(payload.Heartbeat)))
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

func heartbeatLine(beat *pb.Heartbeat) line {
	return line{"consecutive_failures": beat.GetConsecutiveFailures(), "last_failure": beat.GetLastFailure()}
}

func (r *reporter) retry(retry jobs.Retry) {
	r.mustPrint("error", failureLine(retry.Err))
}

func (r *reporter) resumption(retry jobs.Retry) {
	r.mustPrint("resume", about(r.uid, resumptionLine(retry)))
}

func resumptionLine(retry jobs.Retry) line {
	return line{
		"code":           codeName(retry.Err.Code),
		"reason":         retry.Err.Reason,
		"new_connection": retry.NewConnection,
	}
}

func (r *reporter) mustPrint(kind string, seen line) {
	if err := r.print(kind, seen); err != nil {
		panic(fmt.Sprintf("standard output: %v", err))
	}
}

// failed prints the error of a call. It returns other errors.
func (r *reporter) failed(err error) error {
	var failure *jobs.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		failure = &jobs.Error{Code: codes.DeadlineExceeded}
	case !errors.As(err, &failure):
		return err
	}
	return errors.Join(errReported, r.print("error", about(r.uid, failureLine(failure))))
}

func failureLine(failure *jobs.Error) line {
	fields := map[string]string{}
	for _, violation := range failure.Fields {
		fields[violation.Field] = violation.Description
	}
	seen := line{
		"code":   codeName(failure.Code),
		"reason": failure.Reason,
		"action": failure.Action(),
		"fields": fields,
	}
	if failure.RetryAfter != nil {
		seen["retry_after_seconds"] = failure.RetryAfter.Seconds()
	}
	return seen
}

// manyReporter prints the observations of a watch_all.
type manyReporter struct {
	reporter
	arrived                   map[int64]int // the bytes in chunks that have arrived, by job
	succeeded, failed, errors int
}

func (r *manyReporter) item(item jobs.Item) error {
	var failure *jobs.Error
	if errors.As(item.Err, &failure) {
		r.errors++
		return r.print("error", about(item.UID, failureLine(failure)))
	}
	switch payload := item.Event.GetPayload().(type) {
	case *pb.JobEvent_Job:
		if payload.Job.GetDone() {
			r.held = item.Result
			if payload.Job.GetStatus() == pb.JobStatus_JOB_STATUS_SUCCESS {
				r.succeeded++
			} else {
				r.failed++
			}
		}
		return r.job(payload.Job)
	case *pb.JobEvent_ContentChunk:
		chunk, held := payload.ContentChunk, r.arrived[item.UID]
		r.arrived[item.UID] = len(item.Result)
		seen := line{"offset": chunk.GetOffset(), "size": len(chunk.GetData()), "held": held}
		return r.print("chunk", about(item.UID, seen))
	case *pb.JobEvent_Heartbeat:
		return r.print("heartbeat", about(item.UID, heartbeatLine(payload.Heartbeat)))
	case *pb.JobEvent_Synced:
		return r.print("synced", true)
	}
	return nil // a payload of a later version
}

func (r *manyReporter) resumption(retry jobs.Retry) {
	if retry.UID != 0 {
		seen := line{"code": codeName(retry.Err.Code), "reason": retry.Err.Reason}
		r.mustPrint("again", about(retry.UID, seen))
		return
	}
	seen := resumptionLine(retry)
	seen["jobs"] = retry.Jobs
	r.mustPrint("resume", seen)
}

func (r *manyReporter) end() error {
	return r.print("ended", line{"succeeded": r.succeeded, "failed": r.failed, "errors": r.errors})
}

// about adds the uid of a job to a line. The uid 0 is that of the stream.
func about(uid int64, seen line) line {
	if uid != 0 {
		seen["uid"] = strconv.FormatInt(uid, 10)
	}
	return seen
}
