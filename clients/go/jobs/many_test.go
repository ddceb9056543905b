package jobs

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	pb "jobclient/gen/jobgateway/v1"
)

type jobsStream = grpc.BidiStreamingServer[pb.WatchJobsRequest, pb.JobEvent]

// manyGateway has one script for all streams.
type manyGateway struct {
	pb.UnimplementedJobServiceServer
	script func(jobsStream) error
}

func (g *manyGateway) WatchJobs(stream jobsStream) error { return g.script(stream) }

// watchAll returns the items of a watch of the jobs 1 to count, until visit returns false.
func watchAll(t *testing.T, script func(jobsStream) error, count int64, visit func(Item) bool) error {
	client, err := NewClient(serve(t, &manyGateway{script: script}), Options{Token: "token"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	var requests []*pb.WatchJobRequest
	for uid := int64(1); uid <= count; uid++ {
		requests = append(requests, &pb.WatchJobRequest{Uid: uid})
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	defer func() {
		if ctx.Err() != nil {
			t.Error("the watch did not end before the deadline of the test")
		}
	}()
	for item, err := range client.WatchAll(ctx, requests, OnRetry(func(r Retry) { t.Errorf("resumed: %+v", r) })) {
		if err != nil || !visit(item) {
			return err
		}
	}
	return nil
}

func TestWatchAllReadsWhileItWrites(t *testing.T) {
	const count, chunk, chunks = 5000, 1 << 16, 40
	script := func(stream jobsStream) error {
		for n := range int64(chunks) {
			event := &pb.JobEvent{Uid: 1, Payload: &pb.JobEvent_ContentChunk{
				ContentChunk: &pb.ContentChunk{Offset: n * chunk, Data: make([]byte, chunk)},
			}}
			if err := stream.Send(event); err != nil {
				return err
			}
		}
		for {
			request, err := stream.Recv()
			if err != nil {
				return nil // the client has sent all its requests
			}
			if err := stream.Send(end(request.GetWatch().GetUid(), "{}", "{}")); err != nil {
				return err
			}
		}
	}
	ends := map[int64]int{}
	largest := 0
	err := watchAll(t, script, count, func(item Item) bool {
		largest = max(largest, len(item.Result))
		if item.Event.GetJob().GetDone() {
			ends[item.UID]++
		}
		return true
	})
	if err != nil || len(ends) != count || largest != chunks*chunk {
		t.Errorf("%d ends, %d bytes of a result, error %v", len(ends), largest, err)
	}
}

func TestWatchAllReturnsTheStatusIfAWriteFails(t *testing.T) {
	script := func(jobsStream) error { return gatewayError(codes.PermissionDenied, "TEST") }
	err := watchAll(t, script, 20000, func(Item) bool { return true })
	if f := errorOf(err); f.Code != codes.PermissionDenied || f.Reason != "TEST" {
		t.Errorf("the error is %v", err)
	}
}

func TestLeavingWatchAllCancelsTheStream(t *testing.T) {
	cancelled := make(chan struct{})
	script := func(stream jobsStream) error {
		_ = stream.Send(state(1, "a"))
		<-stream.Context().Done()
		close(cancelled)
		return nil
	}
	if err := watchAll(t, script, 1, func(Item) bool { return false }); err != nil {
		t.Error(err)
	}
	<-cancelled
}
