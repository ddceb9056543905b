package jobs

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "jobclient/gen/jobgateway/v1"
)

var start = time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)

// openRules returns rules for the jobs 1 to count, whose requests have been sent.
func openRules(count int64) *manyRules {
	var requests []*pb.WatchJobRequest
	for uid := int64(1); uid <= count; uid++ {
		requests = append(requests, &pb.WatchJobRequest{Uid: uid})
	}
	m := newManyRules(requests)
	reopen(m, start)
	return m
}

// reopen opens a stream and returns the requests that are sent on it immediately.
func reopen(m *manyRules, now time.Time) map[int64]*pb.WatchJobRequest {
	m.open(now)
	sent := map[int64]*pb.WatchJobRequest{}
	for {
		request, _ := m.next(now)
		if request == nil {
			return sent
		}
		sent[request.GetWatch().GetUid()] = request.GetWatch()
	}
}

func state(uid int64, token string) *pb.JobEvent {
	return &pb.JobEvent{Uid: uid, ResumeToken: token, Payload: &pb.JobEvent_Job{Job: &pb.Job{Uid: uid}}}
}

func failed(uid int64, code codes.Code, reason string) *pb.JobEvent {
	failure := &pb.WatchFailure{Code: int32(code), Reason: reason}
	return &pb.JobEvent{Uid: uid, Payload: &pb.JobEvent_Failure{Failure: failure}}
}

func synced(requests int64) *pb.JobEvent {
	return &pb.JobEvent{Payload: &pb.JobEvent_Synced{Synced: &pb.Synced{WatchRequests: requests}}}
}

func gatewayError(code codes.Code, reason string) error {
	st, err := status.New(code, "").WithDetails(&errdetails.ErrorInfo{Domain: domain, Reason: reason})
	if err != nil {
		panic(err)
	}
	return st.Err()
}

func end(uid int64, result, announced string) *pb.JobEvent {
	sum := sha256.Sum256([]byte(announced))
	return &pb.JobEvent{Uid: uid, Payload: &pb.JobEvent_Job{Job: &pb.Job{
		Uid:           uid,
		Done:          true,
		Result:        &pb.Job_ContentJson{ContentJson: []byte(result)},
		ContentSize:   int64(len(announced)),
		ContentSha256: hex.EncodeToString(sum[:]),
	}}}
}

func TestAStreamResumesTheJobsThatHaveNotEnded(t *testing.T) {
	m := openRules(3)
	m.take(state(1, "a"), start)
	m.take(end(2, "{}", "{}"), start)
	m.take(state(1, "b"), start)
	if r, ok := m.resume(status.Error(codes.Unavailable, ""), start, false); !ok || !r.NewConnection || r.Jobs != 2 {
		t.Errorf("the stream resumes with %+v, %v", r, ok)
	}
	sent := reopen(m, start)
	if len(sent) != 2 || sent[1].GetResumeToken() != "b" || sent[3].GetResumeToken() != "" {
		t.Errorf("resumed with %v", sent)
	}
	if o := m.take(state(2, "c"), start); o != (outcome{}) {
		t.Errorf("an event after the end of its job has the consequence %+v", o)
	}
}

func TestEachUIDIsWatchedOnceWithTheFirstInterval(t *testing.T) {
	m := newManyRules([]*pb.WatchJobRequest{
		{Uid: 1, HeartbeatInterval: durationpb.New(time.Second)},
		{Uid: 2, HeartbeatInterval: durationpb.New(time.Minute)},
		{Uid: 1},
	})
	sent := reopen(m, start)
	if len(sent) != 2 || m.requests != 2 {
		t.Errorf("%d requests for %d jobs", m.requests, len(sent))
	}
	if interval := sent[2].GetHeartbeatInterval().AsDuration(); interval != time.Second {
		t.Errorf("the second request has the interval %s", interval)
	}
}

func TestARetryKeepsItsTimeOverANewStream(t *testing.T) {
	m := openRules(2)
	overload := failed(1, codes.ResourceExhausted, "LIMIT_REACHED")
	overload.GetFailure().RetryDelay = durationpb.New(time.Minute)
	if o := m.take(overload, start); o.again == nil || o.again.UID != 1 || o.again.Wait != time.Minute {
		t.Fatalf("the consequence is %+v", o)
	}
	if r, _ := m.resume(errNoEnd, start, false); r.Wait > maxBackoff {
		t.Errorf("the other job waits for %s", r.Wait)
	}
	if sent := reopen(m, start); len(sent) != 1 || sent[2] == nil {
		t.Errorf("sent before its time: %v", sent)
	}
	m.take(end(2, "", ""), start)
	if r, _ := m.resume(errNoEnd, start.Add(10*time.Second), false); r.Wait != 50*time.Second {
		t.Errorf("a stream without a request opens after %s", r.Wait)
	}
	if request, _ := m.next(start.Add(time.Minute)); request.GetWatch().GetUid() != 1 {
		t.Errorf("the request in time is %v", request)
	}
}

func TestAnUnknownOrRepeatedWatchIsIgnored(t *testing.T) {
	m := openRules(1)
	for _, event := range []*pb.JobEvent{failed(1, codes.AlreadyExists, "ALREADY_WATCHED"), failed(7, codes.NotFound, "")} {
		if o := m.take(event, start); o != (outcome{}) {
			t.Errorf("%v has the consequence %+v", event, o)
		}
	}
}

func TestAFreshTokenIsProvenForEachJob(t *testing.T) {
	rejected := func(uid int64) *pb.JobEvent { return failed(uid, codes.Unauthenticated, "UPSTREAM_UNAUTHENTICATED") }
	m := openRules(3)
	if o := m.take(rejected(1), start); o.login == nil {
		t.Fatalf("the first rejection has the consequence %+v", o)
	}
	m.renewed()
	reopen(m, start)
	m.take(state(1, "a"), start)
	m.take(synced(2), start)
	if o := m.take(rejected(2), start); o.item == nil || errorOf(o.item.Err).Code != codes.Unauthenticated {
		t.Errorf("a rejection with the fresh token has the consequence %+v", o)
	}
	if o := m.take(rejected(1), start); o.login == nil {
		t.Errorf("a rejection after a state has the consequence %+v", o)
	}
	m.take(synced(3), start)
	if o := m.take(rejected(3), start); o.login == nil {
		t.Errorf("a rejection after synced has the consequence %+v", o)
	}
}

func TestWithoutAnotherTokenNoLoginIsTriedAgain(t *testing.T) {
	m := openRules(2)
	o := m.take(failed(1, codes.Unauthenticated, "UPSTREAM_UNAUTHENTICATED"), start)
	if o = m.withoutLogin(o.login, start); o.item == nil || o.item.UID != 1 {
		t.Errorf("the consequence is %+v", o)
	}
	if o = m.take(failed(2, codes.Unauthenticated, "UPSTREAM_UNAUTHENTICATED"), start); o.item == nil {
		t.Errorf("the consequence is %+v", o)
	}
}

func TestADefectIsFinalWithoutProgress(t *testing.T) {
	m := openRules(1)
	defect := gatewayError(codes.Internal, "GATEWAY_DEFECT")
	if r, ok := m.resume(defect, start, false); !ok || r.NewConnection {
		t.Errorf("the first defect: %+v, %v", r, ok)
	}
	m.take(synced(1), start)
	limited := failed(1, codes.Unavailable, "LIMIT_REACHED")
	limited.ResumeToken = "a"
	m.take(limited, start)
	if _, ok := m.resume(defect, start, false); ok {
		t.Error("the second defect without progress is not final")
	}
	m.take(state(1, "a"), start)
	if _, ok := m.resume(defect, start, false); !ok {
		t.Error("a defect after progress is final")
	}
	if _, ok := m.resume(gatewayError(codes.InvalidArgument, "INVALID_REQUEST"), start, false); ok {
		t.Error("another error of the gateway is not final")
	}
}

func TestADamagedResultFailsItsJobOnly(t *testing.T) {
	m := openRules(2)
	o := m.take(end(1, "[1]", "[2]"), start)
	if o.item == nil || o.item.Err == nil || errorOf(o.item.Err).Code != codes.DataLoss {
		t.Errorf("the consequence is %+v", o)
	}
	if o := m.take(end(2, "[2]", "[2]"), start); o.item.Err != nil || len(m.jobs) != 0 {
		t.Errorf("the consequence for the other job is %+v", o)
	}
}

func TestOnlyALateEventResetsTheBackoff(t *testing.T) {
	m := openRules(1)
	unavailable := failed(1, codes.Unavailable, "UPSTREAM_UNAVAILABLE")
	now := start
	for range 6 {
		m.take(state(1, "a"), now)
		o := m.take(unavailable, now)
		now = now.Add(o.again.Wait)
		m.next(now)
	}
	if o := m.take(unavailable, now); o.again.Wait < maxBackoff/2 {
		t.Errorf("the wait after early events is %s", o.again.Wait)
	}
	now = now.Add(maxBackoff)
	m.next(now)
	now = now.Add(maxBackoff + 1)
	m.take(state(1, "b"), now)
	if o := m.take(unavailable, now); o.again.Wait > initialBackoff {
		t.Errorf("the wait after a late event is %s", o.again.Wait)
	}
}

func badRequest(violations []FieldViolation) error {
	detail := &errdetails.BadRequest{}
	for _, v := range violations {
		detail.FieldViolations = append(
			detail.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: v.Field, Description: v.Description},
		)
	}
	st, err := status.New(codes.InvalidArgument, "").WithDetails(detail)
	if err != nil {
		panic(err)
	}
	return st.Err()
}
