package jobs

import (
	"container/heap"
	"math"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "jobclient/gen/jobgateway/v1"
)

const (
	gatewayDefect  = "GATEWAY_DEFECT"
	alreadyWatched = "ALREADY_WATCHED"
)

// watched is a job whose watch has not ended.
type watched struct {
	request       *pb.WatchJobRequest // the next one
	due           time.Time           // not before this time
	sent          time.Time           // the last one
	backoff       backoff
	tokenUnproven bool // no event since the last login proves that the upstream accepts the token for this job
	unsent        bool // the request was not sent on the current stream
	result        Result
}

// schedule is a heap of the jobs whose request was not sent on the current stream, by their due time.
type schedule []*watched

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].due.Before(s[j].due) }
func (s schedule) Swap(i, j int)      { s[i], s[j] = s[j], s[i] }
func (s *schedule) Push(job any)      { *s = append(*s, job.(*watched)) }

func (s *schedule) Pop() any {
	last := len(*s) - 1
	job := (*s)[last]
	*s = (*s)[:last]
	return job
}

// manyRules decide about the requests, events and errors of a watch of many jobs. They do no input or output.
type manyRules struct {
	jobs      map[int64]*watched
	stream    streamRules
	unsent    schedule
	requests  int64 // sent on the current stream
	resumable int   // the number of events after which a stream can continue
	noToken   bool  // a login returned no token during the current stream
}

// outcome is the consequence of an event. At most one field is set.
type outcome struct {
	item  *Item
	again *Retry
	login *loginError
}

// loginError is the failure of the watch of one job for which a fresh token may help.
type loginError struct {
	uid     int64
	failure *Error
}

func (e *loginError) Error() string { return e.failure.Message }

// newManyRules returns the rules for the first request of each job. The heartbeat interval of a stream is that of the
// request that comes first, which may be that of any job.
func newManyRules(requests []*pb.WatchJobRequest) *manyRules {
	m := &manyRules{jobs: map[int64]*watched{}}
	for _, req := range requests {
		if m.jobs[req.GetUid()] == nil {
			next := &pb.WatchJobRequest{}
			proto.Merge(next, req)
			next.HeartbeatInterval = requests[0].GetHeartbeatInterval()
			m.jobs[req.GetUid()] = &watched{request: next}
		}
	}
	return m
}

// open notes that a stream begins.
func (m *manyRules) open(now time.Time) {
	m.stream.opened = now
	m.requests, m.noToken = 0, false
	m.unsent = m.unsent[:0]
	for _, job := range m.jobs {
		job.unsent = true
		m.unsent = append(m.unsent, job)
	}
	heap.Init(&m.unsent)
}

// next returns the request that is to be sent now. If there is none, it returns the time of the next one, which is zero
// if no job waits for its request.
func (m *manyRules) next(now time.Time) (*pb.WatchJobsRequest, time.Time) {
	if len(m.unsent) == 0 {
		return nil, time.Time{}
	}
	if due := m.unsent[0].due; due.After(now) {
		return nil, due
	}
	job := heap.Pop(&m.unsent).(*watched)
	job.unsent, job.sent = false, now
	m.requests++
	// A copy, because the next event changes the resume token while gRPC encodes the request.
	return &pb.WatchJobsRequest{Action: &pb.WatchJobsRequest_Watch{Watch: proto.CloneOf(job.request)}}, time.Time{}
}

// take notes an event. Events of a job that has ended have no consequence.
func (m *manyRules) take(event *pb.JobEvent, now time.Time) outcome {
	m.note(event, now)
	job := m.jobs[event.GetUid()]
	switch {
	case job == nil && event.GetUid() == 0:
		return outcome{item: &Item{Event: event}}
	case job == nil || event.GetFailure().GetReason() == alreadyWatched:
		return outcome{}
	case event.GetFailure() != nil:
		f := errorOfJob(event.GetFailure())
		if f.Code == codes.Unauthenticated && !job.tokenUnproven && !m.noToken {
			return outcome{login: &loginError{event.GetUid(), f}}
		}
		return m.fail(event.GetUid(), f, now)
	}
	job.backoff.heard(job.sent, now)
	if token := event.GetResumeToken(); token != "" {
		job.request.ResumeToken = token
	}
	if provesToken(event) {
		job.tokenUnproven = false
	}
	if chunk := event.GetContentChunk(); chunk != nil {
		job.result.take(chunk)
	}
	item := &Item{UID: event.GetUid(), Event: event, Result: job.result.soFar()}
	if event.GetJob().GetDone() {
		delete(m.jobs, event.GetUid())
		if err := job.result.verify(event.GetJob(), deliversResult(job.request)); err != nil {
			return outcome{item: &Item{UID: item.UID, Err: err}}
		}
	}
	return outcome{item: item}
}

// note notes what an event says about the stream.
func (m *manyRules) note(event *pb.JobEvent, now time.Time) {
	allSynced := event.GetSynced() != nil && event.GetSynced().GetWatchRequests() >= m.requests
	m.stream.heard(now, allSynced || provesToken(event))
	if event.GetResumeToken() != "" && event.GetFailure() == nil {
		m.resumable++
	}
	if allSynced {
		for _, job := range m.jobs {
			job.tokenUnproven = job.tokenUnproven && job.unsent
		}
	}
}

// withoutLogin returns the consequence of a failure of a job if a login returned no token.
func (m *manyRules) withoutLogin(login *loginError, now time.Time) outcome {
	m.noToken = true
	return m.fail(login.uid, login.failure, now)
}

func (m *manyRules) fail(uid int64, f *Error, now time.Time) outcome {
	if !f.isTransient() {
		delete(m.jobs, uid)
		return outcome{item: &Item{UID: uid, Err: f}}
	}
	m.stream.last = f
	job := m.jobs[uid]
	wait := job.backoff.next(f.RetryAfter)
	job.due = now.Add(wait)
	job.unsent = true
	heap.Push(&m.unsent, job)
	return outcome{again: &Retry{Err: f, UID: uid, Jobs: len(m.jobs), Wait: wait}}
}

// renewed notes that the next stream has a fresh token.
func (m *manyRules) renewed() {
	m.stream.tokenUnproven = true
	for _, job := range m.jobs {
		job.tokenUnproven = true
	}
}

// resume decides whether the jobs that have not ended are resumed on a new stream.
// renewed: a fresh token was wanted, and there is one.
func (m *manyRules) resume(err error, now time.Time, renewed bool) (Retry, bool) {
	var resumption Retry
	ok := true
	if login, is := err.(*loginError); is {
		resumption = m.stream.retry(login.failure)
	} else if f := errorOf(err); f.Reason == gatewayDefect {
		// It may be that of one event, which would come again.
		resumption, ok = m.stream.retry(f), m.stream.firstAt(m.resumable)
	} else {
		resumption, ok = m.stream.resume(err, m.resumable, renewed)
	}
	// Without a request, the stream would have no heartbeats.
	untilFirst := time.Duration(math.MaxInt64)
	for _, job := range m.jobs {
		untilFirst = min(untilFirst, job.due.Sub(now))
	}
	resumption.Jobs, resumption.Wait = len(m.jobs), max(resumption.Wait, untilFirst)
	return resumption, ok
}
