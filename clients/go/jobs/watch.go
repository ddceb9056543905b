package jobs

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "jobclient/gen/jobgateway/v1"
)

// endSilence is how long a stream may take to end after the last job has ended.
const endSilence = 5 * time.Second

var errUnknownJob = errors.New("the last loop was left before the job was known, and this one would send it again")

// Watch is the watch of one job. It is not safe for concurrent use.
type Watch struct {
	reading
	client  *Client
	ctx     context.Context
	run     *pb.RunJobRequest   // the first request of a Run, until the job is known
	request *pb.WatchJobRequest // the next one
	options callOptions
	rules   streamRules
	result  Result
	last    Item // the last one with a job
	yield   func(Item) bool
}

// Finished is a job that has ended.
type Finished struct {
	Job    *pb.Job
	Result []byte // JSON; empty if there is none, or if it did not arrive (Job.ContentOmitted)
}

// Watch watches a job until it ends, and resumes broken streams (docs/clients/index.md). It makes its first call when its
// events are read.
//
// The watch ends with an *Error if a status is final or a result was damaged, with the cause of ctx, or with ErrClosed.
// While it reaches no gateway, it continues: ctx limits it, and OnRetry gets the reason of each attempt.
func (c *Client) Watch(ctx context.Context, req *pb.WatchJobRequest, options ...Option) *Watch {
	return c.newWatch(ctx, nil, req, options)
}

// Run sends a job and watches it in one call, which is resumed like a Watch. Before the job is known, the request is sent
// again under the conditions of Send.
//
// CancelOnDisconnect must be false: with it, a broken connection cancels the job that the client is about to resume.
func (c *Client) Run(ctx context.Context, req *pb.RunJobRequest, options ...Option) *Watch {
	w := c.newWatch(ctx, req, &pb.WatchJobRequest{
		ContentFormat:     req.GetRequest().GetContentFormat(),
		HeartbeatInterval: req.GetHeartbeatInterval(),
	}, options)
	if w.err == nil {
		w.err = checkRequest(req)
	}
	if w.err == nil && req.GetCancelOnDisconnect() {
		const message = "cancel_on_disconnect: must be false, because this client resumes after a broken connection"
		w.err = &Error{Code: codes.InvalidArgument, Message: message}
	}
	return w
}

func (c *Client) newWatch(ctx context.Context, run *pb.RunJobRequest, req *pb.WatchJobRequest, options []Option) *Watch {
	w := &Watch{client: c, ctx: ctx, run: run, request: &pb.WatchJobRequest{}, options: optionsOf(options)}
	proto.Merge(w.request, req)
	w.err = checkRequest(req)
	return w
}

// Events are the events of the job up to the one whose job is done. Every other end is an error.
//
// A loop that is left releases its stream, and a further one continues after the last event. A watch that has ended has
// no more events, and one that has failed returns its error again.
func (w *Watch) Events() iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		if err := w.follow(func(item Item) bool { return yield(item, nil) }); err != nil {
			yield(Item{}, err)
		}
	}
}

// Finish reads the remaining events, and returns the job and its result. With an error, it returns the last state.
func (w *Watch) Finish() (*Finished, error) {
	err := w.follow(func(Item) bool { return true })
	finished := &Finished{Job: w.last.Event.GetJob()}
	if err == nil {
		finished.Result, err = ResultOf(w.last)
	}
	return finished, err
}

func (w *Watch) follow(yield func(Item) bool) error {
	err := w.read(func() error {
		w.yield = yield
		return w.client.follow(w.ctx, w, w.options)
	})
	if err == nil && !w.ended && w.run != nil && w.request.GetUid() == 0 {
		w.err = errUnknownJob // for a further loop
	}
	return err
}

func (w *Watch) wantsToken(err error) bool { return w.rules.wantsToken(err) }
func (w *Watch) lastError() *Error         { return w.rules.last }

func (w *Watch) resume(err error, renewed bool) (Retry, bool) {
	retry, ok := w.decide(err, renewed)
	retry.Jobs = 1
	return retry, ok
}

func (w *Watch) decide(err error, renewed bool) (Retry, bool) {
	if w.run != nil && w.request.GetUid() == 0 {
		w.request.Uid = errorOf(err).UID() // an error may name the job before an event does
	}
	retry, ok := w.rules.resume(err, w.request.GetResumeToken(), renewed)
	if w.request.GetUid() != 0 || w.run == nil || renewed {
		return retry, ok
	}
	ok = retry.Err.maySendAgain(w.run.GetRequest())
	if ok && retry.Wait == 0 {
		retry = w.rules.retry(retry.Err)
	}
	return retry, ok
}

func (w *Watch) open(ctx context.Context, conn *connection) (grpc.ServerStreamingClient[pb.JobEvent], error) {
	rpc := pb.NewJobServiceClient(conn)
	if uid := w.request.GetUid(); uid != 0 || w.run == nil {
		return rpc.WatchJob(aboutJob(ctx, uid), w.request)
	}
	return rpc.RunJob(ctx, w.run)
}

func (w *Watch) call(ctx context.Context, conn *connection, token string) (finished bool, err error) {
	w.rules.opened = time.Now()
	silence := silenceOf(w.request)
	listener := listen(withToken(ctx, token), silence)
	defer listener.stop()
	stream, err := w.open(listener.ctx, conn)
	if err != nil {
		return false, listener.reason(err)
	}
	for !w.ended {
		event, err := listener.next(stream, silence)
		switch {
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
		w.options.progressed(event.GetJob())
		if !w.yield(item) && !w.ended { // the trailers of the last call are read in any case
			return true, nil
		}
	}
	w.readTrailers(listener, stream)
	return true, nil
}

// readTrailers reads the end of a stream whose job has ended, and ignores further events.
func (w *Watch) readTrailers(listener *listener, stream grpc.ServerStreamingClient[pb.JobEvent]) {
	for limit := time.Now().Add(endSilence); ; {
		if _, err := listener.next(stream, time.Until(limit)); err != nil {
			if errors.Is(err, io.EOF) {
				w.options.reportReplayed(stream.Trailer())
			}
			return
		}
	}
}

// take notes an event, and verifies the result of a done job.
func (w *Watch) take(event *pb.JobEvent) (Item, error) {
	if event.GetUid() != 0 {
		w.request.Uid = event.GetUid()
	}
	if token := event.GetResumeToken(); token != "" {
		w.request.ResumeToken = token
	}
	if chunk := event.GetContentChunk(); chunk != nil {
		w.result.take(chunk)
	}
	item := Item{UID: w.request.GetUid(), Event: event, Result: w.result.soFar()}
	if job := event.GetJob(); job != nil {
		if job.GetDone() {
			if damaged := w.result.verify(job, deliversResult(w.request)); damaged != nil {
				return Item{}, damaged
			}
		}
		w.last, w.ended = item, job.GetDone()
	}
	return item, nil
}
