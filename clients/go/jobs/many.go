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

// endSilence is how long the stream may take to end after the last job has ended.
const endSilence = 5 * time.Second

// Item is an event of a WatchAll, or the end of the watch of one job by an error.
type Item struct {
	UID    int64        // the job; 0 if the event is about the stream
	Event  *pb.JobEvent // nil if the watch has failed
	Result Result       // of the job, if it arrives in chunks, as far as it has arrived
	Err    *Error       // final for this job; the other watches continue. DataLoss: its result was damaged
}

// WatchAll returns the events of many jobs until each has ended or its watch has failed. All watches are on one stream,
// which is resumed after it breaks (docs/clients/index.md). The iteration ends with an error if a status of the stream is
// final, or with the cause of ctx. OnRetry is called for each further stream, and for each further watch of a job on the same
// stream, with its UID.
//
// Each uid is watched once. The HeartbeatInterval of the first request applies to all.
func (c *Client) WatchAll(
	ctx context.Context, requests []*pb.WatchJobRequest, options ...Option,
) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		if len(requests) == 0 {
			return
		}
		w := &manyWatch{
			client:  c,
			rules:   newManyRules(requests),
			changed: make(chan struct{}, 1),
			silence: silenceOf(requests[0]),
			yield:   yield,
			options: optionsOf(options),
		}
		if err := c.follow(ctx, w, w.options); err != nil {
			yield(Item{}, err)
		}
	}
}

// manyWatch is the watch of many jobs.
type manyWatch struct {
	client  *Client
	silence time.Duration
	yield   func(Item, error) bool
	options callOptions

	mu      sync.Mutex // for rules while a call is open
	rules   *manyRules
	changed chan struct{} // receives if there may be another request to send
}

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
	listener := listen(withToken(ctx, token), w.silence)
	var sender sync.WaitGroup
	defer sender.Wait()
	defer listener.stop()
	stream, err := pb.NewJobServiceClient(conn).WatchJobs(listener.ctx)
	if err != nil {
		return false, listener.reason(err)
	}
	sender.Go(func() { w.send(stream) })
	silence := w.silence
	for {
		event, err := listener.next(stream, silence)
		switch {
		case err != nil && len(w.rules.jobs) == 0:
			return true, nil
		case errors.Is(err, io.EOF):
			return false, errNoEnd
		case err != nil:
			return false, err
		}
		outcome := w.take(event)
		if outcome.login != nil {
			renewed, err := w.client.renew(ctx, token)
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
		if outcome.item != nil && !w.yield(*outcome.item, nil) {
			return true, nil
		}
		if len(w.rules.jobs) == 0 {
			silence = endSilence
		}
	}
}

// send sends the requests of one call. It does not delay the events: a thousand requests fill the window of the
// connection, and the gateway reads on only if this client reads, too.
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
	return w.told(w.rules.take(event, time.Now()))
}

func (w *manyWatch) withoutLogin(login *loginError) outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.told(w.rules.withoutLogin(login, time.Now()))
}

// told wakes send if the outcome concerns it.
func (w *manyWatch) told(o outcome) outcome {
	if o.again != nil || len(w.rules.jobs) == 0 {
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
	return o
}
