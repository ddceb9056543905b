package jobs

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "jobclient/gen/jobgateway/v1"
)

// overload returns an error of the gateway with a RetryInfo.
func overload(delay time.Duration) error {
	st, err := status.New(codes.Unavailable, "").WithDetails(
		&errdetails.ErrorInfo{Domain: domain, Reason: "LIMIT_REACHED"},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(delay)},
	)
	if err != nil {
		panic(err)
	}
	return st.Err()
}

func TestAWatchWaitsBeforeEachAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls []time.Time
		g := &runGateway{watch: func(_ *pb.WatchJobRequest, stream grpc.ServerStreamingServer[pb.JobEvent]) error {
			calls = append(calls, time.Now())
			switch len(calls) {
			case 8:
				return overload(time.Minute)
			case 9:
				return stream.Send(end(7, "[1]", "[1]"))
			}
			return status.Error(codes.Unavailable, "sent by a proxy")
		}}
		client := newBubbleClient(t, g, Options{})
		if _, err := client.Watch(t.Context(), &pb.WatchJobRequest{Uid: 7}).Finish(); err != nil {
			t.Fatal(err)
		}
		bound := initialBackoff
		for n := range 7 {
			if gap := calls[n+1].Sub(calls[n]); gap < bound/2 || gap > bound {
				t.Errorf("the wait before attempt %d is %s of at most %s", n+2, gap, bound)
			}
			bound = min(2*bound, maxBackoff)
		}
		if gap := calls[8].Sub(calls[7]); gap != time.Minute {
			t.Errorf("the gateway asked for a minute, and the wait is %s", gap)
		}
	})
}

func TestASilentStreamIsResumedAfterThreeIntervals(t *testing.T) {
	for interval, silence := range map[time.Duration]time.Duration{
		10 * time.Second: 30 * time.Second, 0: 3 * time.Second, -time.Hour: 3 * time.Second,
	} {
		synctest.Test(t, func(t *testing.T) {
			g := &runGateway{}
			g.watch = func(_ *pb.WatchJobRequest, stream grpc.ServerStreamingServer[pb.JobEvent]) error {
				if g.watching.Load() == 2 {
					return stream.Send(end(7, "[1]", "[1]"))
				}
				<-stream.Context().Done()
				return nil
			}
			client := newBubbleClient(t, g, Options{})
			begun, old := time.Now(), client.conn
			request := &pb.WatchJobRequest{Uid: 7, HeartbeatInterval: durationpb.New(interval)}
			_, err := client.Watch(t.Context(), request, OnRetry(func(r Retry) {
				if waited := time.Since(begun); waited != silence || r.Err.Reason != Silent {
					t.Errorf("resumed after %s because of %s", waited, r.Err)
				}
			})).Finish()
			if err != nil || g.watching.Load() != 2 || client.conn == old {
				t.Errorf("%d calls, error %v, connection replaced: %v", g.watching.Load(), err, client.conn != old)
			}
		})
	}
}

func TestAStreamThatDoesNotEndAfterItsJobIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chatter := func(stream grpc.ServerStream) error {
			_ = stream.SendMsg(end(1, "[1]", "[1]"))
			for {
				select {
				case <-stream.Context().Done():
					return nil
				case <-time.After(time.Second):
					_ = stream.SendMsg(&pb.JobEvent{Payload: &pb.JobEvent_Heartbeat{Heartbeat: &pb.Heartbeat{}}})
				}
			}
		}
		g := &runGateway{watch: func(_ *pb.WatchJobRequest, stream grpc.ServerStreamingServer[pb.JobEvent]) error {
			return chatter(stream)
		}}
		begun := time.Now()
		requests := []*pb.WatchJobRequest{{Uid: 1}}
		_, err := newBubbleClient(t, g, Options{}).Watch(t.Context(), requests[0]).Finish()
		if waited := time.Since(begun); err != nil || waited > endSilence {
			t.Errorf("one job: left after %s with the error %v", waited, err)
		}
		begun = time.Now()
		many := &manyGateway{script: func(stream jobsStream) error { return chatter(stream) }}
		for _, err := range newBubbleClient(t, many, Options{}).WatchAll(t.Context(), requests) {
			if err != nil {
				t.Error(err)
			}
		}
		if waited := time.Since(begun); waited > endSilence {
			t.Errorf("many jobs: left after %s", waited)
		}
	})
}

// waitGateway has a script for WaitJob.
type waitGateway struct {
	pb.UnimplementedJobServiceServer
	calls int
	wait  func(ctx context.Context, call int, req *pb.WaitJobRequest) (*pb.Job, error)
}

func (g *waitGateway) WaitJob(ctx context.Context, req *pb.WaitJobRequest) (*pb.Job, error) {
	g.calls++
	return g.wait(ctx, g.calls, req)
}

func TestWaitSurvivesALongOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &waitGateway{wait: func(_ context.Context, call int, _ *pb.WaitJobRequest) (*pb.Job, error) {
			switch {
			case call < 50:
				return nil, status.Error(codes.Unavailable, "sent by a proxy")
			case call == 50:
				return &pb.Job{Uid: 7}, nil
			}
			return &pb.Job{Uid: 7, Done: true}, nil
		}}
		job, err := newBubbleClient(t, g, Options{}).Wait(t.Context(), &pb.WaitJobRequest{Uid: 7})
		if err != nil || !job.GetDone() || g.calls != 51 {
			t.Errorf("%v after %d calls, error %v", job, g.calls, err)
		}
	})
}

func TestTheTimeoutOfWaitCountsForAllItsAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = 10 * time.Second
		begun := time.Now()
		g := &waitGateway{wait: func(_ context.Context, call int, req *pb.WaitJobRequest) (*pb.Job, error) {
			if left := timeout - time.Since(begun); req.GetTimeout().AsDuration() != left {
				t.Errorf("a call waits for %s, and %s are left", req.GetTimeout().AsDuration(), left)
			}
			if call == 1 {
				return nil, overload(4 * time.Second)
			}
			time.Sleep(req.GetTimeout().AsDuration())
			return &pb.Job{Uid: 7}, nil
		}}
		client := newBubbleClient(t, g, Options{})
		job, err := client.Wait(t.Context(), &pb.WaitJobRequest{Uid: 7, Timeout: durationpb.New(timeout)})
		if err != nil || job.GetUid() != 7 || job.GetDone() || time.Since(begun) != timeout || g.calls != 2 {
			t.Errorf("%v after %s and %d calls, error %v", job, time.Since(begun), g.calls, err)
		}
	})
}

func TestATimeoutOfWaitWithoutAStateHasTheLastError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &waitGateway{wait: func(context.Context, int, *pb.WaitJobRequest) (*pb.Job, error) {
			return nil, overload(4 * time.Second)
		}}
		begun := time.Now()
		request := &pb.WaitJobRequest{Uid: 7, Timeout: durationpb.New(10 * time.Second)}
		_, err := newBubbleClient(t, g, Options{}).Wait(t.Context(), request)
		expired := errors.Is(err, context.DeadlineExceeded) && errorOf(err).Reason == "LIMIT_REACHED"
		if !expired || time.Since(begun) != 8*time.Second { // after the third attempt
			t.Errorf("the error after %s is %v", time.Since(begun), err)
		}
	})
}

func TestTheTimeoutOfWaitLimitsItsLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		client := newBubbleClient(t, &waitGateway{}, Options{Login: func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		}})
		request := &pb.WaitJobRequest{Uid: 7, Timeout: durationpb.New(10 * time.Second)}
		_, err := client.Wait(t.Context(), request)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != 10*time.Second+readLimit {
			t.Errorf("the error after %s is %v", time.Since(begun), err)
		}
	})
}

func TestAWaitWithoutTimeReadsOnce(t *testing.T) {
	g := &waitGateway{wait: func(_ context.Context, _ int, req *pb.WaitJobRequest) (*pb.Job, error) {
		if req.Timeout == nil || req.GetTimeout().AsDuration() != 0 {
			t.Errorf("the timeout is %v", req.Timeout)
		}
		return &pb.Job{Uid: 7}, nil
	}}
	request := &pb.WaitJobRequest{Uid: 7, Timeout: &durationpb.Duration{}}
	if job, err := newClient(t, g, Options{}).Wait(context.Background(), request); err != nil || job.GetUid() != 7 {
		t.Errorf("%v, error %v", job, err)
	}
}

func TestAVeryLongTimeoutOfWaitIsNoTimeout(t *testing.T) {
	g := &waitGateway{wait: func(context.Context, int, *pb.WaitJobRequest) (*pb.Job, error) {
		return &pb.Job{Uid: 7, Done: true}, nil
	}}
	request := &pb.WaitJobRequest{Uid: 7, Timeout: &durationpb.Duration{Seconds: 315_576_000_000}}
	if _, err := newClient(t, g, Options{}).Wait(context.Background(), request); err != nil {
		t.Error(err)
	}
}

func TestWaitStopsAtAnErrorThatIsFinalForAWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &waitGateway{wait: func(context.Context, int, *pb.WaitJobRequest) (*pb.Job, error) {
			return nil, gatewayError(codes.Internal, "UPSTREAM_ERROR")
		}}
		_, err := newBubbleClient(t, g, Options{}).Wait(t.Context(), &pb.WaitJobRequest{Uid: 7})
		if errorOf(err).Reason != "UPSTREAM_ERROR" || g.calls != maxAttempts {
			t.Errorf("%d calls, error %v", g.calls, err)
		}
	})
}

func TestAVeryLongHeartbeatIntervalIsNoSilence(t *testing.T) {
	interval := durationpb.New(120 * 365 * 24 * time.Hour) // three times that is over the largest duration
	if silence := silenceOf(&pb.WatchJobRequest{HeartbeatInterval: interval}); silence < 24*time.Hour {
		t.Errorf("a stream may be silent for %s", silence)
	}
}
