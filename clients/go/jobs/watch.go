package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "jobclient/gen/jobgateway/v1"
)

// Events are the events of a job up to the one whose job is done. Every other end is an error. Iterate over them once.
type Events iter.Seq2[Item, error]

// Finished is a job that has ended.
type Finished struct {
	Job    *pb.Job
	Result []byte // JSON; empty if there is none, or if it was not requested
}

// Finish reads the remaining events, and returns the job and its result. With an error, it returns the last state.
func (e Events) Finish() (*Finished, error) {
	finished := &Finished{}
	for item, err := range e {
		if err != nil {
			return finished, err
		}
		if job := item.Event.GetJob(); job != nil {
			finished.Job, finished.Result = job, item.Result
		}
	}
	switch job := finished.Job; {
	case job.GetContent() != nil:
		text, err := json.Marshal(job.GetContent().AsMap())
		if err != nil {
			return finished, fmt.Errorf("the result of job %d: %w", job.GetUid(), err)
		}
		finished.Result = text
	case job.GetContentJson() != nil:
		finished.Result = job.GetContentJson()
	}
	return finished, nil
}

// Watch watches a job until it ends, and resumes broken streams (docs/clients/index.md). The iteration ends with an *Error
// if a status is final or a result was damaged, or with the cause of ctx.
func (c *Client) Watch(ctx context.Context, req *pb.WatchJobRequest, options ...Option) Events {
	return c.events(ctx, nil, req, options)
}

// Run sends a job and watches it in one call, which is resumed like a Watch. Before the job is known, the request is sent
// again under the conditions of Send.
func (c *Client) Run(ctx context.Context, req *pb.RunJobRequest, options ...Option) Events {
	return c.events(ctx, req, &pb.WatchJobRequest{
		ContentFormat:     req.GetRequest().GetContentFormat(),
		HeartbeatInterval: req.GetHeartbeatInterval(),
	}, options)
}

func (c *Client) events(
	ctx context.Context, run *pb.RunJobRequest, req *pb.WatchJobRequest, options []Option,
) Events {
	return func(yield func(Item, error) bool) {
		w := &watch{run: run, request: proto.CloneOf(req), options: optionsOf(options), yield: yield}
		if err := c.follow(ctx, w, w.options); err != nil {
			yield(Item{}, err)
		}
	}
}

// watch is the watch of one job.
type watch struct {
	run     *pb.RunJobRequest   // the first request of a Run, until the job is known
	request *pb.WatchJobRequest // the next one
	rules   streamRules
	result  Result
	options callOptions
	yield   func(Item, error) bool
}

func (w *watch) wantsToken(err error) bool { return w.rules.wantsToken(err) }

func (w *watch) resume(err error, renewed bool) (Retry, bool) {
	retry, ok := w.decide(err, renewed)
	retry.Jobs = 1
	return retry, ok
}

func (w *watch) decide(err error, renewed bool) (Retry, bool) {
	retry, ok := w.rules.resume(err, w.request.GetResumeToken(), renewed)
	if w.request.GetUid() != 0 || w.run == nil || renewed {
		return retry, ok
	}
	// An error may name the job before an event does.
	w.request.Uid = retry.Err.UID()
	if w.request.Uid == 0 {
		ok = retry.Err.maySendAgain(w.run.GetRequest())
	}
	if ok && retry.Wait == 0 {
		retry = w.rules.retry(retry.Err)
	}
	return retry, ok
}

func (w *watch) open(ctx context.Context, conn *connection) (grpc.ServerStreamingClient[pb.JobEvent], error) {
	rpc := pb.NewJobServiceClient(conn)
	if uid := w.request.GetUid(); uid != 0 || w.run == nil {
		return rpc.WatchJob(aboutJob(ctx, uid), w.request)
	}
	return rpc.RunJob(ctx, w.run)
}

func (w *watch) call(ctx context.Context, conn *connection, token string) (finished bool, err error) {
	w.rules.opened = time.Now()
	silence := silenceOf(w.request)
	listener := listen(withToken(ctx, token), silence)
	defer listener.stop()
	stream, err := w.open(listener.ctx, conn)
	if err != nil {
		return false, listener.reason(err)
	}
	done := false
	for {
		event, err := listener.next(stream, silence)
		switch {
		case err != nil && done:
			if errors.Is(err, io.EOF) {
				w.options.ended(stream.Trailer())
			}
			return true, nil
		case errors.Is(err, io.EOF):
			return false, errNoEnd
		case err != nil:
			return false, err
		}
		w.rules.heard(time.Now(), provesToken(event))
		item, err := w.take(event)
		if err != nil {
			return false, err
		}
		if done = event.GetJob().GetDone(); done {
			silence = endSilence
		}
		w.options.progressed(event.GetJob())
		if !w.yield(item, nil) {
			return true, nil
		}
	}
}

// take notes an event, and verifies the result of a done job.
func (w *watch) take(event *pb.JobEvent) (Item, error) {
	if event.GetUid() != 0 {
		w.request.Uid = event.GetUid()
	}
	if token := event.GetResumeToken(); token != "" {
		w.request.ResumeToken = token
	}
	if chunk := event.GetContentChunk(); chunk != nil {
		w.result.take(chunk)
	}
	if job := event.GetJob(); job.GetDone() {
		// The other formats deliver a large result by another call.
		format := w.request.GetContentFormat()
		complete := format == pb.ContentFormat_CONTENT_FORMAT_UNSPECIFIED ||
			format == pb.ContentFormat_CONTENT_FORMAT_JSON_CHUNKS
		if damaged := w.result.verify(job, complete); damaged != nil {
			return Item{}, damaged
		}
	}
	return Item{UID: w.request.GetUid(), Event: event, Result: w.result}, nil
}
