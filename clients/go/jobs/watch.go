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
	return c.follow(ctx, nil, req, options)
}

// Run sends a job and watches it in one call, which is resumed like a Watch. Before the job is known, the request is sent
// again under the conditions of Send.
func (c *Client) Run(ctx context.Context, req *pb.RunJobRequest, options ...Option) Events {
	return c.follow(ctx, req, &pb.WatchJobRequest{
		ContentFormat:     req.GetRequest().GetContentFormat(),
		HeartbeatInterval: req.GetHeartbeatInterval(),
	}, options)
}

func (c *Client) follow(
	ctx context.Context, run *pb.RunJobRequest, req *pb.WatchJobRequest, options []Option,
) Events {
	return func(yield func(Item, error) bool) {
		w := &watch{client: c, run: run, request: proto.CloneOf(req), options: optionsOf(options), yield: yield}
		for {
			finished, err := w.attempt(ctx)
			if finished {
				return
			}
			if err != nil {
				yield(Item{}, err)
				return
			}
		}
	}
}

// prepare waits until the next call. used is the connection of the last one.
func (c *Client) prepare(ctx context.Context, r Retry, used *connection) error {
	if err := sleep(ctx, r.Wait); err != nil || !r.NewConnection {
		return err
	}
	return c.reconnect(used)
}

// watch is the watch of one job.
type watch struct {
	client  *Client
	run     *pb.RunJobRequest   // the first request of a Run, until the job is known
	request *pb.WatchJobRequest // the next one
	rules   streamRules
	result  Result
	options callOptions
	yield   func(Item, error) bool
}

// attempt makes one call, and prepares the next one if it was broken. finished reports that the watch is over: the job has
// ended, or the caller has stopped the iteration. An error is final.
func (w *watch) attempt(ctx context.Context) (finished bool, err error) {
	c := w.client
	token, err := c.currentToken(ctx)
	if err != nil {
		return false, err
	}
	conn, err := c.acquire()
	if err != nil {
		return false, err
	}
	finished, err = w.call(withToken(ctx, token), conn)
	c.release(conn)
	if finished {
		return true, nil
	}
	if final := c.final(ctx, err); final != nil {
		return false, final
	}
	renewed := false
	if w.rules.wantsToken(err) {
		var failed error
		if renewed, failed = c.renew(ctx, token); failed != nil {
			return false, failed
		}
	}
	retry, ok := w.resume(err, renewed)
	if !ok {
		return false, retry.Err
	}
	retry.Jobs = 1
	w.options.retrying(retry)
	return false, c.prepare(ctx, retry, conn)
}

// final returns the error with which a watch ends if its stream ended with err, or nil if it depends on the rules.
func (c *Client) final(ctx context.Context, err error) error {
	var damaged *Error
	var token *tokenError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &damaged), errors.As(err, &token):
		return err
	case c.isClosed():
		return errClosed
	}
	return nil
}

// resume decides about the next call.
func (w *watch) resume(err error, renewed bool) (Retry, bool) {
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

// call yields the events of one call. finished reports that the watch is over.
func (w *watch) call(ctx context.Context, conn *connection) (finished bool, err error) {
	w.rules.opened = time.Now()
	silence := silenceOf(w.request)
	listener := listen(ctx, silence)
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
