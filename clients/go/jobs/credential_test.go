package jobs

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	pb "jobclient/gen/jobgateway/v1"
)

// tokenGateway rejects all tokens but one.
func tokenGateway(accepted string) *runGateway {
	return &runGateway{watch: func(_ *pb.WatchJobRequest, stream grpc.ServerStreamingServer[pb.JobEvent]) error {
		sent, _ := metadata.FromIncomingContext(stream.Context())
		if token := sent.Get("authorization"); len(token) == 0 || token[0] != "Bearer "+accepted {
			return gatewayError(codes.Unauthenticated, "UPSTREAM_UNAUTHENTICATED")
		}
		return stream.Send(end(7, "[1]", "[1]"))
	}}
}

func TestATokenThatNoHeaderCarriesIsRejected(t *testing.T) {
	for _, token := range []string{"secret\n", "sécret", " secret", "sec\x00ret", "sec\x7fret"} {
		if _, err := NewClient("127.0.0.1:1", Options{Token: token}); err == nil || strings.Contains(err.Error(), "ret") {
			t.Errorf("the error for the token %q is %v", token, err)
		}
		g := tokenGateway("")
		client := newClient(t, g, Options{Login: func(context.Context) (string, error) { return token, nil }})
		_, watched := client.Watch(context.Background(), &pb.WatchJobRequest{Uid: 7}).Finish()
		_, got := client.Get(context.Background(), &pb.GetJobRequest{Uid: 7})
		for _, err := range []error{watched, got} {
			if err == nil || strings.Contains(err.Error(), "ret") || !strings.Contains(err.Error(), "remove white space") {
				t.Errorf("the error after a login with the token %q is %v", token, err)
			}
		}
		if g.watching.Load() != 0 {
			t.Errorf("%d calls with the token %q", g.watching.Load(), token)
		}
	}
}

func TestNothingPrintsTheToken(t *testing.T) {
	options := Options{Token: "secret"}
	client, err := NewClient("127.0.0.1:1", options)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	watch := client.Watch(context.Background(), &pb.WatchJobRequest{Uid: 7})
	for _, value := range []any{options, &options, []Options{options}, struct{ O Options }{options}, client, watch} {
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			text := fmt.Sprintf(format, value)
			if strings.Contains(text, "secret") || strings.Contains(text, fmt.Sprintf("%x", "secret")) {
				t.Errorf("%s of a %T prints the token: %s", format, value, text)
			}
		}
	}
}

func TestALoginIsAwaitedUntilTheContextEnds(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	defer close(end)
	var logins atomic.Int32
	client := newClient(t, tokenGateway("token"), Options{Login: func(context.Context) (string, error) {
		if logins.Add(1) == 1 {
			close(begun)
			<-end // it ignores its context
		}
		return "token", nil
	}})
	var all sync.WaitGroup
	ctx, cancel := context.WithCancelCause(context.Background())
	left := errors.New("left")
	for range 3 {
		all.Go(func() {
			if _, err := client.Watch(ctx, &pb.WatchJobRequest{Uid: 7}).Finish(); !errors.Is(err, left) {
				t.Errorf("the error of a watch is %v", err)
			}
			if _, err := client.Get(ctx, &pb.GetJobRequest{Uid: 7}); !errors.Is(err, left) {
				t.Errorf("the error of a call is %v", err)
			}
		})
	}
	<-begun
	cancel(left)
	all.Wait()
	// A login that no call waits for does not hold up the next one.
	_, err := client.Watch(context.Background(), &pb.WatchJobRequest{Uid: 7}).Finish()
	if err != nil || logins.Load() != 2 {
		t.Errorf("the next watch has the error %v after %d logins", err, logins.Load())
	}
}

func TestCloseEndsTheWaitForALogin(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	client := newClient(t, tokenGateway("token"), Options{Login: func(context.Context) (string, error) {
		close(begun)
		<-end // it ignores its context
		return "token", nil
	}})
	go func() {
		<-begun
		_ = client.Close()
	}()
	if _, err := client.Watch(context.Background(), &pb.WatchJobRequest{Uid: 7}).Finish(); !errors.Is(err, ErrClosed) {
		t.Errorf("the error is %v", err)
	}
	close(end)
}

func TestTheLastCallThatLeavesCancelsItsLogin(t *testing.T) {
	begun, cancelled := make(chan struct{}), make(chan struct{})
	var logins atomic.Int32
	client := newClient(t, tokenGateway("token"), Options{Login: func(ctx context.Context) (string, error) {
		if logins.Add(1) > 1 {
			return "token", nil
		}
		close(begun)
		<-ctx.Done()
		close(cancelled)
		return "late", nil
	}})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-begun
		cancel()
	}()
	if _, err := client.Watch(ctx, &pb.WatchJobRequest{Uid: 7}).Finish(); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	<-cancelled
	if _, err := client.Watch(context.Background(), &pb.WatchJobRequest{Uid: 7}).Finish(); err != nil {
		t.Errorf("the next watch has the error %v", err)
	}
}

func TestOneFailedLoginEndsOneWatch(t *testing.T) {
	const watches = 20
	synctest.Test(t, func(t *testing.T) {
		failure := errors.New("no connection")
		var logins, failed atomic.Int32
		client := newBubbleClient(t, tokenGateway("token"), Options{Login: func(context.Context) (string, error) {
			time.Sleep(time.Second) // until all wait for it
			if logins.Add(1) == 1 {
				return "", failure
			}
			return "token", nil
		}})
		var all sync.WaitGroup
		for range watches {
			all.Go(func() {
				if _, err := client.Watch(t.Context(), &pb.WatchJobRequest{Uid: 7}).Finish(); errors.Is(err, failure) {
					failed.Add(1)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if failed.Load() != 1 || logins.Load() != 2 {
			t.Errorf("%d watches failed after %d logins", failed.Load(), logins.Load())
		}
	})
}

func TestFailedLoginsAreNotRepeatedForEachWatch(t *testing.T) {
	const watches = 20
	synctest.Test(t, func(t *testing.T) {
		var logins atomic.Int32
		client := newBubbleClient(t, tokenGateway("token"), Options{Login: func(context.Context) (string, error) {
			time.Sleep(time.Second)
			logins.Add(1)
			return "", errors.New("no connection")
		}})
		var all sync.WaitGroup
		for range watches {
			all.Go(func() { _, _ = client.Watch(t.Context(), &pb.WatchJobRequest{Uid: 7}).Finish() })
		}
		all.Wait()
		if logins.Load() != 2 {
			t.Errorf("%d logins", logins.Load())
		}
	})
}

func TestTheSameTokenIsTriedOnce(t *testing.T) {
	var logins atomic.Int32
	g := tokenGateway("other")
	client := newClient(t, g, Options{Login: func(context.Context) (string, error) {
		logins.Add(1)
		return "token", nil
	}})
	_, err := client.Watch(context.Background(), &pb.WatchJobRequest{Uid: 7}).Finish()
	if errorOf(err).Code != codes.Unauthenticated || g.watching.Load() != 2 || logins.Load() != 2 {
		t.Errorf("%d calls after %d logins, error %v", g.watching.Load(), logins.Load(), err)
	}
}

func TestAPanicOfALoginReachesItsCaller(t *testing.T) {
	client := newClient(t, tokenGateway("token"), Options{Login: func(context.Context) (string, error) { panic("no idea") }})
	defer func() {
		if value := fmt.Sprint(recover()); !strings.Contains(value, "no idea") {
			t.Errorf("recovered %s", value)
		}
	}()
	_, err := client.Get(context.Background(), &pb.GetJobRequest{Uid: 7})
	t.Errorf("the error is %v", err)
}

func TestALoginThatExitsItsGoroutineIsAnError(t *testing.T) {
	client := newClient(t, tokenGateway("token"), Options{Login: func(context.Context) (string, error) {
		runtime.Goexit()
		return "", nil
	}})
	_, err := client.Get(context.Background(), &pb.GetJobRequest{Uid: 7})
	if failed := (*tokenError)(nil); !errors.As(err, &failed) {
		t.Errorf("the error is %v", err)
	}
}
