package jobs

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"

	pb "jobclient/gen/jobgateway/v1"
)

// pipes is a listener whose connections live in memory, because a bubble of synctest cannot wait for a socket.
type pipes struct {
	dialed chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.dialed:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.closed)
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

func (p *pipes) dial(context.Context, string) (net.Conn, error) {
	client, server := net.Pipe()
	p.dialed <- server
	return client, nil
}

// newBubbleClient returns a client of a gateway in the same bubble, in which time passes when all goroutines wait.
func newBubbleClient(t *testing.T, g pb.JobServiceServer, options Options) *Client {
	listener := &pipes{dialed: make(chan net.Conn), closed: make(chan struct{})}
	server := grpc.NewServer()
	pb.RegisterJobServiceServer(server, g)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	options.Dial = append(options.Dial, grpc.WithContextDialer(listener.dial))
	client, err := NewClient("passthrough:gateway", options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}
