package jobs

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	pb "jobclient/gen/jobgateway/v1"
)

type eventStream = grpc.ServerStreamingServer[pb.JobEvent]

// pausing sends the first state of job 7 in a run, and its end in a watch.
func pausing(t *testing.T) *runGateway {
	return &runGateway{
		run: func(_ int32, stream eventStream) error {
			_ = stream.Send(state(7, "a"))
			<-stream.Context().Done()
			return nil
		},
		watch: func(req *pb.WatchJobRequest, stream eventStream) error {
			if req.GetUid() != 7 || req.GetResumeToken() != "a" {
				t.Errorf("the watch continues with %v", req)
			}
			return stream.Send(end(7, "[1]", "[1]"))
		},
	}
}

func TestAFurtherLoopContinuesAndSendsNothingAgain(t *testing.T) {
	g := pausing(t)
	watch := newClient(t, g, Options{}).Run(context.Background(), runRequest("id"))
	for range watch.Events() {
		break
	}
	done, err := watch.Finish()
	if err != nil || string(done.Result) != "[1]" || g.runs.Load() != 1 || g.watching.Load() != 1 {
		t.Errorf("finished %v, error %v, %d runs, %d watches", done, err, g.runs.Load(), g.watching.Load())
	}
	for item := range watch.Events() {
		t.Errorf("after the end: %v", item)
	}
	if done, err = watch.Finish(); err != nil || string(done.Result) != "[1]" || g.watching.Load() != 1 {
		t.Errorf("finished again: %v, error %v, %d watches", done, err, g.watching.Load())
	}
}

func TestFinishAfterALoopThatWasLeftAtTheEnd(t *testing.T) {
	g := pausing(t)
	watch := newClient(t, g, Options{}).Run(context.Background(), runRequest("id"))
	for range 2 { // at the first state, and at the end
		for range watch.Events() {
			break
		}
	}
	if done, err := watch.Finish(); err != nil || !done.Job.GetDone() || g.watching.Load() != 1 {
		t.Errorf("finished %v, error %v, %d watches", done, err, g.watching.Load())
	}
}

func TestARunWithoutAUIDIsNotSentByAFurtherLoop(t *testing.T) {
	g := &runGateway{run: func(_ int32, stream eventStream) error {
		_ = stream.Send(&pb.JobEvent{Payload: &pb.JobEvent_Heartbeat{Heartbeat: &pb.Heartbeat{}}})
		<-stream.Context().Done()
		return nil
	}}
	watch := newClient(t, g, Options{}).Run(context.Background(), runRequest("id"))
	for range watch.Events() {
		break
	}
	if _, err := watch.Finish(); err == nil || g.runs.Load() != 1 {
		t.Errorf("error %v after %d runs", err, g.runs.Load())
	}
}

func TestAFailedWatchStaysFailed(t *testing.T) {
	g := &runGateway{watch: func(*pb.WatchJobRequest, eventStream) error {
		return gatewayError(codes.PermissionDenied, "TEST")
	}}
	watch := newClient(t, g, Options{}).Watch(context.Background(), &pb.WatchJobRequest{Uid: 7})
	_, first := watch.Finish()
	for range 2 {
		if _, err := watch.Finish(); err == nil || !errors.Is(err, first) {
			t.Errorf("the error of Finish is %v", err)
		}
		for _, err := range watch.Events() {
			if err == nil || !errors.Is(err, first) {
				t.Errorf("the error of a loop is %v", err)
			}
		}
	}
	if g.watching.Load() != 1 {
		t.Errorf("%d watches", g.watching.Load())
	}
}

func TestAFurtherLoopOverManyJobsContinues(t *testing.T) {
	var streams atomic.Int32
	many := &manyGateway{script: func(stream jobsStream) error {
		streams.Add(1)
		for {
			request, err := stream.Recv()
			if err != nil {
				return nil
			}
			if uid := request.GetWatch().GetUid(); uid == 1 {
				_ = stream.Send(end(1, "[1]", "[1]"))
			} else if streams.Load() > 1 {
				_ = stream.Send(end(uid, "[2]", "[2]"))
			}
		}
	}}
	items := newClient(t, many, Options{}).WatchAll(context.Background(), []*pb.WatchJobRequest{{Uid: 1}, {Uid: 2}})
	var ends []int64
	for range 3 {
		for item, err := range items {
			if err != nil {
				t.Fatal(err)
			}
			ends = append(ends, item.UID)
			break
		}
	}
	if !slices.Equal(ends, []int64{1, 2}) || streams.Load() != 2 {
		t.Errorf("the ends are %v on %d streams", ends, streams.Load())
	}
}

func TestAFailedWatchOfManyJobsStaysFailed(t *testing.T) {
	var streams atomic.Int32
	many := &manyGateway{script: func(jobsStream) error {
		streams.Add(1)
		return gatewayError(codes.PermissionDenied, "TEST")
	}}
	items := newClient(t, many, Options{}).WatchAll(context.Background(), []*pb.WatchJobRequest{{Uid: 1}})
	for range 2 {
		failed := false
		for _, err := range items {
			failed = errorOf(err).Reason == "TEST"
		}
		if !failed || streams.Load() != 1 {
			t.Errorf("failed: %v, after %d streams", failed, streams.Load())
		}
	}
}

func TestALoopThatDoesNotReturnReleasesItsConnection(t *testing.T) {
	for name, leave := range map[string]func(){"panic": func() { panic("test") }, "Goexit": runtime.Goexit} {
		client := newClient(t, pausing(t), Options{})
		watch := client.Run(context.Background(), runRequest("id"))
		var all sync.WaitGroup
		all.Go(func() {
			defer func() { _ = recover() }()
			for range watch.Events() {
				leave()
			}
		})
		all.Wait()
		if client.conn.calls != 0 {
			t.Errorf("%s: %d calls hold the connection", name, client.conn.calls)
		}
		if _, err := watch.Finish(); !errors.Is(err, errInUse) {
			t.Errorf("%s: the error afterwards is %v", name, err)
		}
	}
}

func TestARequestThatCannotBeEncodedIsNotSent(t *testing.T) {
	const invalid = "\xff"
	g := &runGateway{}
	client, ctx := newClient(t, g, Options{}), context.Background()
	retried := OnRetry(func(r Retry) { t.Errorf("retried: %s", r.Err) })
	_, ran := client.Run(ctx, runRequest(invalid), retried).Finish()
	_, sent := client.Send(ctx, &pb.SendJobRequest{RequestId: "id", WorkspaceId: invalid}, retried)
	request := &pb.WatchJobRequest{Uid: 7, ResumeToken: invalid}
	_, watched := client.Watch(ctx, request, retried).Finish()
	var many error
	for _, err := range client.WatchAll(ctx, []*pb.WatchJobRequest{{Uid: 1}, request}, retried) {
		many = err
	}
	for n, err := range []error{ran, sent, watched, many} {
		if own := (*Error)(nil); !errors.As(err, &own) || own.Code != codes.InvalidArgument {
			t.Errorf("the error of request %d is %v", n, err)
		}
	}
}

func TestARunThatCancelsOnDisconnectIsRejected(t *testing.T) {
	g := &runGateway{}
	request := runRequest("id")
	request.CancelOnDisconnect = true
	_, err := newClient(t, g, Options{}).Run(context.Background(), request).Finish()
	if errorOf(err).Code != codes.InvalidArgument || g.runs.Load() != 0 {
		t.Errorf("%d runs, error %v", g.runs.Load(), err)
	}
}

func TestNothingAfterTheEndIsAnEvent(t *testing.T) {
	g := &runGateway{watch: func(_ *pb.WatchJobRequest, stream eventStream) error {
		_ = stream.Send(end(7, "[1]", "[1]"))
		_ = stream.Send(state(7, "b"))
		_ = stream.Send(end(7, "[1]", "[1]"))
		return status.Error(codes.Unavailable, "sent by a proxy")
	}}
	events := 0
	watch := newClient(t, g, Options{}).Watch(context.Background(), &pb.WatchJobRequest{Uid: 7})
	for _, err := range watch.Events() {
		if events++; err != nil {
			t.Error(err)
		}
	}
	if events != 1 || g.watching.Load() != 1 {
		t.Errorf("%d events of %d streams", events, g.watching.Load())
	}
}

// longWait is a gateway that asks every call to wait for an hour.
type longWait struct {
	pb.UnimplementedJobServiceServer
}

func (longWait) WatchJob(*pb.WatchJobRequest, eventStream) error { return overload(time.Hour) }
func (longWait) WatchJobs(jobsStream) error                      { return overload(time.Hour) }

func (longWait) WaitJob(context.Context, *pb.WaitJobRequest) (*pb.Job, error) {
	return nil, overload(time.Hour)
}

// waiters make calls of a longWait, with an option each.
func waiters(client *Client, ctx context.Context, option Option) map[string]func() error {
	requests := []*pb.WatchJobRequest{{Uid: 7}}
	return map[string]func() error{
		"watch": func() error {
			_, err := client.Watch(ctx, requests[0], option).Finish()
			return err
		},
		"watch all": func() (err error) {
			for _, err = range client.WatchAll(ctx, requests, option) {
			}
			return err
		},
		"wait": func() error {
			_, err := client.Wait(ctx, &pb.WaitJobRequest{Uid: 7}, option)
			return err
		},
	}
}

func TestCloseAndTheContextEndAWait(t *testing.T) {
	left := errors.New("left")
	for _, name := range []string{"watch", "watch all", "wait"} {
		for _, expected := range []error{ErrClosed, left} {
			client := newClient(t, longWait{}, Options{})
			ctx, cancel := context.WithCancelCause(context.Background())
			err := waiters(client, ctx, OnRetry(func(Retry) {
				// In another goroutine, because the wait begins after this function.
				go func() {
					if expected == left {
						cancel(left)
					} else {
						_ = client.Close()
					}
				}()
			}))[name]()
			cancel(nil)
			var last *Error
			if !errors.Is(err, expected) || !errors.As(err, &last) || last.Reason != "LIMIT_REACHED" {
				t.Errorf("%s: the error is %v", name, err)
			}
		}
	}
}

func TestAnErrorBeforeAnEventIsNotTheLastOne(t *testing.T) {
	g := &runGateway{}
	g.watch = func(_ *pb.WatchJobRequest, stream eventStream) error {
		if g.watching.Load() == 1 {
			return status.Error(codes.Unavailable, "sent by a proxy")
		}
		_ = stream.Send(state(7, "a"))
		<-stream.Context().Done()
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	_, err := newClient(t, g, Options{}).Watch(
		ctx, &pb.WatchJobRequest{Uid: 7}, OnProgress(func(*pb.Job) { cancel() }),
	).Finish()
	if last := (*Error)(nil); !errors.Is(err, context.Canceled) || errors.As(err, &last) {
		t.Errorf("the error is %v", err)
	}
}

func TestTheFailureOfOneOfManyJobsIsTheLastError(t *testing.T) {
	many := &manyGateway{script: func(stream jobsStream) error {
		limited := failed(7, codes.Unavailable, "LIMIT_REACHED")
		limited.GetFailure().RetryDelay = durationpb.New(time.Hour)
		_ = stream.Send(limited)
		<-stream.Context().Done()
		return nil
	}}
	ctx, cancel := context.WithCancel(context.Background())
	err := waiters(newClient(t, many, Options{}), ctx, OnRetry(func(Retry) { cancel() }))["watch all"]()
	if last := (*Error)(nil); !errors.Is(err, context.Canceled) || !errors.As(err, &last) || last.Reason != "LIMIT_REACHED" {
		t.Errorf("the error is %v", err)
	}
}

func TestAnInterceptorThatPanicsReleasesTheConnection(t *testing.T) {
	interceptor := grpc.WithUnaryInterceptor(
		func(context.Context, string, any, any, *grpc.ClientConn, grpc.UnaryInvoker, ...grpc.CallOption) error {
			panic("test")
		},
	)
	client := newClient(t, &runGateway{}, Options{Dial: []grpc.DialOption{interceptor}})
	defer func() {
		if recover() == nil || client.conn.calls != 0 {
			t.Errorf("%d calls hold the connection", client.conn.calls)
		}
	}()
	_, _ = client.Get(context.Background(), &pb.GetJobRequest{Uid: 7})
}

func TestTheUserAgentHasTheVersion(t *testing.T) {
	g := &runGateway{watch: func(_ *pb.WatchJobRequest, stream eventStream) error {
		sent, _ := metadata.FromIncomingContext(stream.Context())
		if agent := sent.Get("user-agent"); len(agent) != 1 || agent[0] != "jobgateway-go/"+version+" grpc-go/"+grpc.Version {
			t.Errorf("the user agent is %q", agent)
		}
		return stream.Send(end(7, "[1]", "[1]"))
	}}
	if _, err := newClient(t, g, Options{}).Watch(context.Background(), &pb.WatchJobRequest{Uid: 7}, nil).Finish(); err != nil {
		t.Error(err)
	}
}

func TestAnInvalidTargetOrServiceConfigIsRejected(t *testing.T) {
	for _, target := range []string{"", "http://127.0.0.1:50051", "HTTPS://gateway", "127.0.0.1:50051 ", "a b:1", "a:1\n"} {
		if _, err := NewClient(target, Options{}); err == nil {
			t.Errorf("%q is accepted", target)
		}
	}
	if _, err := NewClient("127.0.0.1:50051", Options{ServiceConfig: "{"}); err == nil {
		t.Error("an invalid service config is accepted")
	}
}

func TestADamagedResultSaysWhatArrived(t *testing.T) {
	inline := func(result, announced string) *pb.Job { return end(7, result, announced).GetJob() }
	omitted := func(announced string) *pb.Job {
		job := inline("", announced)
		job.Result, job.ContentOmitted = nil, true
		return job
	}
	unkept := omitted("[1]")
	unkept.Uid = 0
	for _, test := range []struct {
		held      Result
		job       *pb.Job
		delivered bool
		problem   string
	}{
		{nil, inline("[1]", "[1]"), true, ""},
		{nil, inline("", ""), true, ""},
		{Result("[1]"), omitted("[1]"), true, ""},
		{nil, omitted("[1]"), false, ""},
		{nil, unkept, true, ""},
		{nil, omitted("[1]"), true, "nothing of its 3 bytes arrived"},
		{nil, inline("", "[1]"), false, "nothing of its 3 bytes arrived"},
		{nil, inline("[1", "[1]"), false, "2 of 3 bytes arrived"},
		{Result("[1"), omitted("[1]"), true, "2 of 3 bytes arrived"},
		{Result("[2]"), omitted("[1]"), true, "its 3 bytes have the wrong SHA-256"},
	} {
		err := test.held.verify(test.job, test.delivered)
		switch {
		case test.problem == "" && err != nil:
			t.Errorf("the error is %v", err)
		case test.problem != "" && (err == nil || err.Code != codes.DataLoss || err.UID() != 7 ||
			err.Message != "the result of job 7 is damaged: "+test.problem+"; read the job again"):
			t.Errorf("the error is %v, not: %s", err, test.problem)
		}
	}
}

func TestAResultOfWhichNothingArrivedIsDamaged(t *testing.T) {
	omitted := func(uid int64) *pb.JobEvent {
		event := end(uid, "", "[1]")
		event.GetJob().Result, event.GetJob().ContentOmitted = nil, true
		return event
	}
	for format, code := range map[pb.ContentFormat]codes.Code{
		pb.ContentFormat_CONTENT_FORMAT_JSON_CHUNKS: codes.DataLoss,
		pb.ContentFormat_CONTENT_FORMAT_UNSPECIFIED: codes.DataLoss,
		pb.ContentFormat_CONTENT_FORMAT_NONE:        codes.OK,
	} {
		request := &pb.WatchJobRequest{Uid: 7, ContentFormat: format}
		one := &runGateway{watch: func(_ *pb.WatchJobRequest, stream eventStream) error { return stream.Send(omitted(7)) }}
		many := &manyGateway{script: func(stream jobsStream) error { return stream.Send(omitted(7)) }}
		_, err := newClient(t, one, Options{}).Watch(context.Background(), request).Finish()
		if status.Code(err) != code {
			t.Errorf("%s: the error is %v", format, err)
		}
		for item, err := range newClient(t, many, Options{}).WatchAll(context.Background(), []*pb.WatchJobRequest{request}) {
			if err != nil || status.Code(item.Err) != code {
				t.Errorf("%s: the item is %v, the error %v", format, item, err)
			}
		}
	}
}

func TestTheBytesOfAnItemDoNotChange(t *testing.T) {
	take := func(r *Result, offset int64, data string) Result {
		r.take(&pb.ContentChunk{Offset: offset, Data: []byte(data)})
		return r.soFar()
	}
	var held Result
	first := take(&held, 0, "[111")
	second := take(&held, 4, "1")
	third := take(&held, 1, "2") // the result changed
	fourth := take(&held, 2, "2]")
	_ = append(third, "mine"...)
	if all := fmt.Sprintf("%s %s %s %s", first, second, third, fourth); all != "[111 [1111 [2 [22]" {
		t.Error(all)
	}
	if restarted := take(&held, -1, "3"); string(restarted) != "3" {
		t.Errorf("after a negative offset: %s", restarted)
	}
}

func TestALoopThatIsLeftAtTheEndLearnsThatItIsARepetition(t *testing.T) {
	g := &runGateway{run: func(_ int32, stream eventStream) error {
		stream.SetTrailer(metadata.Pairs("jobgateway-replayed", "true"))
		return stream.Send(end(7, "[1]", "[1]"))
	}}
	replayed := false
	watch := newClient(t, g, Options{}).Run(context.Background(), runRequest("id"), OnReplayed(func() { replayed = true }))
	for item := range watch.Events() {
		if item.Event.GetJob().GetDone() {
			break
		}
	}
	if !replayed {
		t.Error("not reported")
	}
}

func TestTheResultOfAnItemInEachForm(t *testing.T) {
	content, err := structpb.NewStruct(map[string]any{"sum": 3})
	if err != nil {
		t.Fatal(err)
	}
	event := func(job *pb.Job) *pb.JobEvent { return &pb.JobEvent{Payload: &pb.JobEvent_Job{Job: job}} }
	for _, test := range []struct {
		item     Item
		expected string
	}{
		{Item{Event: event(&pb.Job{Done: true, Result: &pb.Job_Content{Content: content}})}, `{"sum":3}`},
		{Item{Event: event(&pb.Job{Done: true, Result: &pb.Job_ContentJson{ContentJson: []byte("[1]")}})}, "[1]"},
		{Item{Event: event(&pb.Job{Done: true, ContentOmitted: true}), Result: Result("[2]")}, "[2]"},
		{Item{Event: event(&pb.Job{Done: true})}, ""},
		{Item{Event: event(&pb.Job{}), Result: Result("[2")}, ""},
		{Item{Err: ErrClosed}, ""},
	} {
		if result, err := ResultOf(test.item); err != nil || string(result) != test.expected {
			t.Errorf("the result is %q, not %q; error %v", result, test.expected, err)
		}
	}
}

func TestAFieldMayHaveSeveralViolations(t *testing.T) {
	violations := []FieldViolation{{"params", "too large"}, {"params", "not an object"}}
	if e := errorOf(badRequest(violations)); !slices.Equal(e.Fields, violations) {
		t.Errorf("the fields are %v", e.Fields)
	}
}

// damagedGateway damages the result in unary calls.
type damagedGateway struct {
	pb.UnimplementedJobServiceServer
	calls atomic.Int32
}

func (g *damagedGateway) GetJob(context.Context, *pb.GetJobRequest) (*pb.Job, error) {
	g.calls.Add(1)
	return end(7, "[1]", "[2]").GetJob(), nil
}

func TestADamagedResultFailsAUnaryCall(t *testing.T) {
	g := &damagedGateway{}
	_, err := newClient(t, g, Options{}).Get(context.Background(), &pb.GetJobRequest{Uid: 7})
	if errorOf(err).Code != codes.DataLoss || g.calls.Load() != 1 {
		t.Errorf("%d calls, error %v", g.calls.Load(), err)
	}
}
