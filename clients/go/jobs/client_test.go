package jobs

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "jobclient/gen/jobgateway/v1"
)

const broken, steady = 1, 2

// gateway breaks the first stream of the job `broken`, and ends both jobs when that stream is resumed.
type gateway struct {
	pb.UnimplementedJobServiceServer
	brokenCalls, steadyCalls atomic.Int32
	begun, resumed           chan struct{}
}

func (g *gateway) WatchJob(req *pb.WatchJobRequest, stream grpc.ServerStreamingServer[pb.JobEvent]) error {
	end := &pb.JobEvent{Payload: &pb.JobEvent_Job{Job: &pb.Job{Uid: req.GetUid(), Done: true}}}
	if req.GetUid() == steady {
		if g.steadyCalls.Add(1) == 1 {
			close(g.begun)
		}
		select {
		case <-g.resumed:
			return stream.Send(end)
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
	if g.brokenCalls.Add(1) == 1 {
		<-g.begun
		return status.Error(codes.Unavailable, "sent by a proxy")
	}
	close(g.resumed)
	return stream.Send(end)
}

func serve(t *testing.T, g pb.JobServiceServer) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterJobServiceServer(server, g)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

func TestReconnectDoesNotDisturbOtherWatches(t *testing.T) {
	g := &gateway{begun: make(chan struct{}), resumed: make(chan struct{})}
	client, err := NewClient(serve(t, g), Options{Token: "token"})
	if err != nil {
		t.Fatal(err)
	}
	old := client.conn
	var watches sync.WaitGroup
	for _, uid := range []int64{broken, steady} {
		watches.Go(func() {
			request := &pb.WatchJobRequest{Uid: uid}
			for _, err := range client.Watch(context.Background(), request).Events() {
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	watches.Wait()
	if calls := g.steadyCalls.Load(); calls != 1 {
		t.Errorf("the steady watch took %d calls", calls)
	}
	if client.conn == old {
		t.Error("the broken watch resumed on the old connection")
	}
	if state := old.GetState().String(); state != "SHUTDOWN" {
		t.Errorf("the old connection is %s after its last call", state)
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
}
