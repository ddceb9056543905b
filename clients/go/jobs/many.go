package jobs

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync"
	"time"

	"google.golang.org/grpc"

	pb "jobclient/gen/jobgateway/v1"
)

// Item is an event of a WatchAll, or the end of the watch of one job by an error.
type Item struct {
	UID    int64        // the job; 0 if the event is about the stream
	Event  *pb.JobEvent // nil if the watch has failed
	Result Result       // of the job, if it arrives in chunks, as far as it has arrived
	Err    error        // an *Error, final for this job; the other watches continue. DataLoss: its result was damaged
}

// WatchAll returns the events of many jobs until each has ended or its watch has failed. All watches are on one stream,
// which is resumed after it breaks (docs/clients/index.md). The iteration ends with an error if a status of the stream is
// final, with the cause of ctx, or with ErrClosed. OnRetry is called for each further stream, and for each further watch of a
// job on the same stream, with its UID.
//
// A loop that is left releases its stream, and a further one continues with the jobs that have not ended.
//
// Each uid is watched once. The HeartbeatInterval of the first request applies to all.
func (c *Client) WatchAll(
	ctx context.Context, requests []*pb.WatchJobRequest, options ...Option,
) iter.Seq2[Item, error] {
	w := &manyWatch{
		client:  c,
		rules:   newManyRules(requests),
		changed: make(chan struct{}, 1),
		options: optionsOf(options),
	}
	w.ended = len(requests) == 0
	if !w.ended {
		w.silence = silenceOf(requests[0])
	}
	for _, req := range requests {
		if w.err == nil {
			w.err = checkRequest(req)
		}
	}
	return func(yield func(Item, error) bool) {
		if err := w.follow(ctx, func(item Item) bool { return yield(item, nil) }); err != nil {
			yield(Item{}, err)
		}
	}
}

// manyWatch is the watch of many jobs.
type manyWatch struct {
	reading
	client  *Client
	silence time.Duration
	yield   func(Item) bool
	options callOptions

	mu      sync.Mutex // for rules while a call is open
	rules   *manyRules
	changed chan struct{} // receives if there may be another request to send
}

func (w *manyWatch) follow(ctx context.Context, yield func(Item) bool) error {
	return w.read(func() error {
		w.yield = yield
		return w.client.follow(ctx, w, w.options)
	})
}

func (w *manyWatch) lastError() *Error { return w.rules.stream.last }

// wantsToken is false after a loginError, for which there is a fresh token already.
func (w *manyWatch) wantsToken(err error) bool {
	_, renewed := err.(*loginError)
	return !renewed && w.rules.stream.wantsToken(err)
}

func (w *manyWatch) resume(err error, renewed bool) (Retry, bool) {
	if _, is := err.(*loginError); is || renewed {
		w.rules.renewed()
	}
	return w.rules.resume(err, time.Now(), renewed)
}

func (w *manyWatch) call(ctx context.Context, conn *connection, token string) (finished bool, err error) {
	w.rules.open(time.Now())
	silence := w.silence
	listener := listen(withToken(ctx, token), silence)
	var sender sync.WaitGroup
	defer sender.Wait()
	defer listener.stop()
	stream, err := pb.NewJobServiceClient(conn).WatchJobs(listener.ctx)
	if err != nil {
		return false, listener.reason(err)
	}
	sender.Go(func() { w.send(stream) })
	var limit time.Time // of the end of the stream, after the last job has ended
	for {
		if w.ended {
			silence = time.Until(limit)
		}
		event, err := listener.next(stream, silence)
		switch {
		case err != nil && w.ended:
			return true, nil
		case errors.Is(err, io.EOF):
			return false, errNoEnd
		case err != nil:
			return false, err
		}
		outcome := w.take(event)
		if outcome.login != nil {
			renewed, err := w.client.credential.renew(ctx, token)
			if err != nil {
				return false, err
			}
			if renewed {
				return false, outcome.login
			}
			outcome = w.withoutLogin(outcome.login)
		}
		if outcome.again != nil {
			w.options.retrying(*outcome.again)
		}
		if !w.ended && len(w.rules.jobs) == 0 {
			w.ended, limit = true, time.Now().Add(endSilence)
		}
		if outcome.item != nil && !w.yield(*outcome.item) {
			return true, nil
		}
	}
}

// send sends the requests of one call. It does not delay the events: a thousand requests fill the window of the
// connection, and the gateway continues to read only if this client reads, too.
func (w *manyWatch) send(stream grpc.BidiStreamingClient[pb.WatchJobsRequest, pb.JobEvent]) {
	for {
		w.mu.Lock()
		pending := len(w.rules.jobs)
		request, due := w.rules.next(time.Now())
		w.mu.Unlock()
		switch {
		case pending == 0:
			_ = stream.CloseSend()
			return
		case request != nil:
			// Recv returns the status of a stream that has ended.
			if stream.Send(request) != nil {
				return
			}
		case !w.await(stream.Context(), due):
			return
		}
	}
}

// await waits for another request to send. It returns false if the call is over.
func (w *manyWatch) await(ctx context.Context, due time.Time) bool {
	var timer <-chan time.Time
	if !due.IsZero() {
		timer = time.After(time.Until(due))
	}
	select {
	case <-ctx.Done():
		return false
	case <-w.changed:
	case <-timer:
	}
	return true
}

func (w *manyWatch) take(event *pb.JobEvent) outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wakeSender(w.rules.take(event, time.Now()))
}

func (w *manyWatch) withoutLogin(login *loginError) outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wakeSender(w.rules.withoutLogin(login, time.Now()))
}

// wakeSender wakes send if the outcome concerns it.
func (w *manyWatch) wakeSender(o outcome) outcome {
	if o.again != nil || len(w.rules.jobs) == 0 {
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
	return o
}
