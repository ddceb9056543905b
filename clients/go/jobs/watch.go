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
	initialBackoff   = 200 * time.Millisecond
	maxBackoff       = 5 * time.Second
	defaultHeartbeat = 15 * time.Second

	// Silent is the reason for a stream that was canceled because no event arrived in time.
	Silent = "SILENT"
)

var (
	errSilent = errors.New("no event for three heartbeat intervals")
	errNoEnd  = errors.New("the stream ended with OK before the job was done: a proxy ended it")
)

// Resumption is the reason why a watch resumes with another call.
type Resumption struct {
	Failure
	NewConnection bool
}

// Watch returns the events of a job up to the one with job.done, and resumes broken streams (docs/clients/index.md).
// It ends with an error if a status is final or ctx is done. It calls onResume before each further call.
func (c *Client) Watch(
	ctx context.Context, req *pb.WatchJobRequest, onResume func(Resumption),
) iter.Seq2[*pb.JobEvent, error] {
	return func(yield func(*pb.JobEvent, error) bool) {
		next := proto.CloneOf(req)
		backoff := initialBackoff
		var state state
		for {
			start := time.Now()
			conn := c.acquire()
			callCtx := aboutJob(c.Authorized(ctx), next.GetUid())
			received, finished, err := watchOnce(callCtx, pb.NewJobServiceClient(conn), next, &state, yield)
			c.release(conn)
			if finished {
				return
			}
			resumption, ok := state.resume(err, next.GetResumeToken())
			if !ok || ctx.Err() != nil {
				yield(nil, err)
				return
			}
			// One event does not prove that the stream works: it may break after its first event each time.
			if received && time.Since(start) > maxBackoff {
				backoff = initialBackoff
			}
			onResume(resumption)
			if err := sleep(ctx, wait(resumption, backoff)); err != nil {
				yield(nil, err)
				return
			}
			backoff = min(2*backoff, maxBackoff)
			if resumption.Code == codes.Unauthenticated {
				c.LogIn()
				state.tokenUnproven = true
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

// watchOnce yields the events of one call and stores the last resume token in req. received reports whether an event
// arrived. finished reports that the watch is over: the job has ended, or the caller has stopped the iteration.
func watchOnce(
	ctx context.Context, client pb.JobServiceClient, req *pb.WatchJobRequest, state *state,
	yield func(*pb.JobEvent, error) bool,
) (received, finished bool, err error) {
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
		watchdog.Stop() // the time that the caller spends on an event does not count
		switch {
		case err != nil && done:
			return true, true, nil
		case errors.Is(err, io.EOF):
			return received, false, silentOr(ctx, errNoEnd)
		case err != nil:
			return received, false, silentOr(ctx, err)
		}
		received, state.received = true, true
		if provesToken(event) {
			state.tokenUnproven = false
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

// silentOr returns errSilent if the call was silent, whatever status arrived after the timeout, otherwise err.
func silentOr(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	return err
}

// provesToken reports whether an event proves that the upstream accepts the token. Some heartbeats do not: those before
// the first read has ended, and those between a refusal and the read that confirms it.
func provesToken(event *pb.JobEvent) bool {
	if beat := event.GetHeartbeat(); beat != nil {
		return beat.GetObserveTime() != nil && beat.GetLastFailure() == ""
	}
	return event.GetJob() != nil || event.GetContentChunk() != nil
}

// state is the history of a watch over all its calls.
type state struct {
	received      bool    // an event has arrived
	tokenUnproven bool    // no event since the last login proves that the upstream accepts the token
	overLimitAt   *string // the resume token at the last status that a message over the receive limit causes
}

// resume decides whether the watch resumes after an error, and how. token is the last resume token.
func (s *state) resume(err error, token string) (Resumption, bool) {
	if errors.Is(err, errSilent) {
		return Resumption{Failure{Code: codes.Canceled, Reason: Silent}, true}, true
	}
	if errors.Is(err, errNoEnd) {
		return Resumption{Failure{Code: codes.OK}, true}, true
	}
	f := FailureOf(err)
	// A new connection is made immediately. The old one would wait up to two minutes before it reconnects.
	resumption := Resumption{f, f.Reason == "" || f.Reason == "DRAINING"}
	switch {
	case f.Code == codes.Unauthenticated && !s.tokenUnproven,
		f.Code == codes.ResourceExhausted && f.RetryAfter != nil,
		f.Code == codes.Unavailable:
		return resumption, true
	case f.Reason != "":
		return resumption, false
	}
	return resumption, s.broken(f.Code, token)
}

// broken reports whether a status without the gateway's ErrorInfo means a broken stream, rather than a wrong address or
// a size limit.
func (s *state) broken(code codes.Code, token string) bool {
	switch code {
	case codes.Canceled, codes.Unknown, codes.DeadlineExceeded, codes.Internal, codes.Unavailable:
		return true
	case codes.ResourceExhausted, codes.OutOfRange:
		// A message over this client's own receive limit causes this status, and would cause it again.
		if s.overLimitAt != nil && *s.overLimitAt == token {
			return false
		}
		s.overLimitAt = &token
	}
	return s.received
}

// wait returns a random time between half the backoff and the backoff, or the time in RetryInfo if that is longer.
func wait(r Resumption, backoff time.Duration) time.Duration {
	jittered := backoff/2 + rand.N(backoff/2)
	if r.RetryAfter != nil {
		return max(*r.RetryAfter, jittered)
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

// Result holds the bytes of a result that arrives in chunks.
type Result []byte

// Take adds a chunk. It first cuts the result to the chunk's offset, because chunks may start again at 0 after a resume.
func (r *Result) Take(chunk *pb.ContentChunk) {
	*r = append((*r)[:chunk.GetOffset()], chunk.GetData()...)
}
