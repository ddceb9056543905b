package jobs

import (
	"errors"
	"math"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"

	pb "jobclient/gen/jobgateway/v1"
)

const (
	initialBackoff   = 200 * time.Millisecond
	maxBackoff       = 5 * time.Second
	minSilence       = 3 * time.Second
	defaultHeartbeat = 15 * time.Second

	// Silent is the reason for a stream that was canceled because no event arrived in time.
	Silent = "SILENT"
)

var (
	errSilent = errors.New("no event for three heartbeat intervals")
	errNoEnd  = errors.New("the stream ended with OK before the job was done: a proxy ended it")
)

// Retry is a further attempt after an error.
type Retry struct {
	Err           *Error
	UID           int64 // the job that WatchAll watches again on the same stream; 0 if the stream itself is resumed
	Jobs          int   // the number of jobs that have not ended
	Wait          time.Duration
	NewConnection bool
}

// backoff is the bound of the next wait. It doubles up to maxBackoff; 0 means initialBackoff.
type backoff time.Duration

// next returns a random time between half the bound and the bound, or retryAfter if that is longer.
func (b *backoff) next(retryAfter *time.Duration) time.Duration {
	bound := max(time.Duration(*b), initialBackoff)
	*b = backoff(min(2*bound, maxBackoff))
	jittered := bound/2 + rand.N(bound/2)
	if retryAfter != nil {
		return max(*retryAfter, jittered)
	}
	return jittered
}

// heard resets the bound if an event arrives long enough after the start. An earlier one does not prove that the watch
// works: it may break after its first event each time.
func (b *backoff) heard(start, now time.Time) {
	if now.Sub(start) > maxBackoff {
		*b = 0
	}
}

// streamRules decide whether and how a stream resumes, over all its calls (docs/clients/index.md).
type streamRules struct {
	opened        time.Time
	backoff       backoff
	last          *Error // of the last call, until an event arrives
	received      bool   // an event has arrived
	tokenUnproven bool   // no event since the last login proves that the upstream accepts the token
	repeatableAt  any    // the position of the last error that another call may repeat
}

// heard notes an event.
func (s *streamRules) heard(now time.Time, provesToken bool) {
	s.received, s.last = true, nil
	s.tokenUnproven = s.tokenUnproven && !provesToken
	s.backoff.heard(s.opened, now)
}

// wantsToken reports whether a fresh token may help after an error.
func (s *streamRules) wantsToken(err error) bool {
	return errorOf(err).Code == codes.Unauthenticated && !s.tokenUnproven
}

// resume decides whether the stream resumes after an error. position changes with each event that has a resume token.
// renewed: a fresh token was wanted, and there is one.
func (s *streamRules) resume(err error, position any, renewed bool) (Retry, bool) {
	f := errorOf(err)
	switch {
	case errors.Is(err, errSilent):
		f.Code, f.Reason = codes.Canceled, Silent
	case errors.Is(err, errNoEnd):
		f.Code = codes.OK
	case f.isTransient():
	case renewed:
		s.tokenUnproven = true
	case f.Reason != "" || !s.broken(f.Code, position):
		return Retry{Err: f}, false
	}
	return s.retry(f), true
}

// retry returns the next call.
func (s *streamRules) retry(e *Error) Retry {
	s.last = e
	return Retry{Err: e, Wait: s.backoff.next(e.RetryAfter), NewConnection: e.wantsNewConnection()}
}

// broken reports whether a status without the gateway's ErrorInfo means a broken stream, rather than a wrong address or
// a size limit.
func (s *streamRules) broken(code codes.Code, position any) bool {
	switch code {
	case codes.Canceled, codes.Unknown, codes.DeadlineExceeded, codes.Internal:
		return true
	case codes.ResourceExhausted, codes.OutOfRange:
		// A message over this client's own receive limit causes this status, and would cause it again.
		return s.firstAt(position) && s.received
	}
	return s.received
}

// firstAt reports whether an error that another call may repeat is the first one at a position.
func (s *streamRules) firstAt(position any) bool {
	before := s.repeatableAt
	s.repeatableAt = position
	return before != position
}

// provesToken reports whether an event proves that the upstream accepts the token. Some heartbeats do not: those before
// the first read has ended, and those between a refusal and the read that confirms it.
func provesToken(event *pb.JobEvent) bool {
	if beat := event.GetHeartbeat(); beat != nil {
		return beat.GetObserveTime() != nil && beat.GetLastFailure() == ""
	}
	return event.GetJob() != nil || event.GetContentChunk() != nil
}

// silenceOf returns how long the stream of a request may be silent. The gateway rejects an invalid interval, and has time
// to do so.
func silenceOf(req *pb.WatchJobRequest) time.Duration {
	if req.GetHeartbeatInterval() == nil {
		return 3 * defaultHeartbeat
	}
	return max(minSilence, 3*min(req.GetHeartbeatInterval().AsDuration(), math.MaxInt64/3))
}
