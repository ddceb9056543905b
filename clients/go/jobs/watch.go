package jobs

import (
	"context"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "jobclient/gen/jobgateway/v1"
)

const (
	firstWait        = 200 * time.Millisecond
	longestWait      = 5 * time.Second
	defaultHeartbeat = 15 * time.Second

	// Silent is the reason of a stream that was given up because nothing was heard from it.
	Silent = "SILENT"
)

var (
	errSilent = errors.New("nothing was heard for three heartbeat intervals")
	errNoEnd  = errors.New("the stream ended with OK and without the job's end: a proxy ended it")
)

// Resumption says why a watch goes on with another call.
type Resumption struct {
	Failure
	NewConnection bool
}

// Watch returns the events of a job up to the one with job.done, over as many calls as that takes (docs/clients/index.md).
// It ends with an error where a status is final, or ctx is done. onResume is told before each further call.
func (c *Client) Watch(
	ctx context.Context, req *pb.WatchJobRequest, onResume func(Resumption),
) iter.Seq2[*pb.JobEvent, error] {
	return func(yield func(*pb.JobEvent, error) bool) {
		next := proto.CloneOf(req)
		backoff := firstWait
		var state state
		for {
			began := time.Now()
			conn := c.acquire()
			heard, left, err := watchOnce(c.Authorized(ctx), pb.NewJobServiceClient(conn), next, &state, yield)
			c.release(conn)
			if left {
				return
			}
			resumption, ok := state.resume(err, next.GetResumeToken())
			if !ok || ctx.Err() != nil {
				yield(nil, err)
				return
			}
			// One event does not make a stream that works: it may break each time after the first.
			if heard && time.Since(began) > longestWait {
				backoff = firstWait
			}
			onResume(resumption)
			if err := sleep(ctx, wait(resumption, backoff)); err != nil {
				yield(nil, err)
				return
			}
			backoff = min(2*backoff, longestWait)
			if resumption.Code == codes.Unauthenticated {
				c.LogIn()
				state.freshToken = true
			}
			if resumption.NewConnection {
				if err := c.reconnect(conn); err != nil {
					yield(nil, err)
					return
				}
			}
		}
	}
}

// watchOnce yields the events of one call and keeps the last resume token in req. left says that there is nothing more to
// do: the job has ended, or the caller wants no more.
func watchOnce(
	ctx context.Context, client pb.JobServiceClient, req *pb.WatchJobRequest, state *state,
	yield func(*pb.JobEvent, error) bool,
) (heard, left bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil) // a stream that is not read to its end leaks until its context is cancelled
	silence := 3 * defaultHeartbeat
	if req.GetHeartbeatInterval() != nil {
		silence = 3 * req.GetHeartbeatInterval().AsDuration()
	}
	watchdog := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer watchdog.Stop()
	stream, err := client.WatchJob(ctx, req)
	if err != nil {
		return false, false, silentOr(ctx, err)
	}
	done := false
	for {
		watchdog.Reset(silence)
		event, err := stream.Recv()
		watchdog.Stop() // only waiting counts, not what the caller does with the event
		switch {
		case err != nil && done:
			return true, true, nil
		case errors.Is(err, io.EOF):
			return heard, false, silentOr(ctx, errNoEnd)
		case err != nil:
			return heard, false, silentOr(ctx, err)
		}
		heard, state.heard = true, true
		if provesToken(event) {
			state.freshToken = false
		}
		if token := event.GetResumeToken(); token != "" {
			req.ResumeToken = token
		}
		done = event.GetJob().GetDone()
		if !yield(event, nil) {
			return true, true, nil
		}
	}
}

// silentOr is errSilent where the call was given up, whatever it ended with meanwhile, else err.
func silentOr(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	return err
}

// provesToken says whether an event shows that the upstream accepts the token. A heartbeat also comes before the first read
// has ended, and between a refusal and the read that confirms it.
func provesToken(event *pb.JobEvent) bool {
	if beat := event.GetHeartbeat(); beat != nil {
		return beat.GetObserveTime() != nil && beat.GetLastFailure() == ""
	}
	return event.GetJob() != nil || event.GetContentChunk() != nil
}

// state is what a watch knows of its calls so far.
type state struct {
	heard       bool    // an event came
	freshToken  bool    // nothing has shown since the last login that the upstream accepts its token
	overLimitAt *string // the resume token at the last status that a message over the receive limit gives
}

// resume says how to go on after an error, and false if that is no use. token is the last resume token that came.
func (s *state) resume(err error, token string) (Resumption, bool) {
	if errors.Is(err, errSilent) {
		return Resumption{Failure{Code: codes.Canceled, Reason: Silent}, true}, true
	}
	if errors.Is(err, errNoEnd) {
		return Resumption{Failure{Code: codes.OK}, true}, true
	}
	f := FailureOf(err)
	// A new connection also forgets the old one's own backoff, which grows up to two minutes.
	resumption := Resumption{f, f.Reason == "" || f.Reason == "DRAINING"}
	switch {
	case f.Code == codes.Unauthenticated && !s.freshToken,
		f.Code == codes.ResourceExhausted && f.Wait != nil,
		f.Code == codes.Unavailable:
		return resumption, true
	case f.Reason != "":
		return resumption, false
	}
	return resumption, s.broken(f.Code, token)
}

// broken says whether a status that is not the gateway's means a broken stream, and not a wrong address or a limit.
func (s *state) broken(code codes.Code, token string) bool {
	switch code {
	case codes.Canceled, codes.Unknown, codes.DeadlineExceeded, codes.Internal, codes.Unavailable:
		return true
	case codes.ResourceExhausted, codes.OutOfRange:
		// A message over this client's own receive limit ends like this, and would do so again.
		if s.overLimitAt != nil && *s.overLimitAt == token {
			return false
		}
		s.overLimitAt = &token
	}
	return s.heard
}

// wait is what RetryInfo says, and at least a random time below the bound.
func wait(r Resumption, bound time.Duration) time.Duration {
	jittered := bound/2 + rand.N(bound/2)
	if r.Wait != nil {
		return max(*r.Wait, jittered)
	}
	return jittered
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// Result is the bytes of a result that comes in chunks.
type Result []byte

// Take adds a chunk. After a resumption chunks may begin again at 0, so what is held is cut to its offset.
func (r *Result) Take(chunk *pb.ContentChunk) {
	*r = append((*r)[:chunk.GetOffset()], chunk.GetData()...)
}
