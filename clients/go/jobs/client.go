// Package jobs is a client of the Job Gateway: a connection, the reaction to each error, and watches that resume.
package jobs

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // enables the health checks of the service config
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	pb "jobclient/gen/jobgateway/v1"
)

// Client is a connection to the gateway with a credential. It is safe for concurrent use.
type Client struct {
	pb.JobServiceClient

	target        string
	serviceConfig string
	freshToken    func() string

	mu    sync.Mutex
	token string
	conn  *connection
}

// connection counts its calls. A replaced connection is closed after its last call, because Close cancels all calls.
type connection struct {
	*grpc.ClientConn
	calls    int
	replaced bool
}

// NewClient returns a client that connects at its first call. freshToken logs in again and returns the new token.
func NewClient(target, serviceConfig, token string, freshToken func() string) (*Client, error) {
	c := &Client{target: target, serviceConfig: serviceConfig, token: token, freshToken: freshToken}
	c.JobServiceClient = pb.NewJobServiceClient(c)
	var err error
	c.conn, err = c.connect()
	return c, err
}

func (c *Client) connect() (*connection, error) {
	conn, err := grpc.NewClient(c.target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(c.serviceConfig),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", c.target, err)
	}
	return &connection{ClientConn: conn}, nil
}

// acquire returns the current connection for one call. Call release when the call has ended.
func (c *Client) acquire() *connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn.calls++
	return c.conn
}

func (c *Client) release(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn.calls--
	if conn.replaced && conn.calls == 0 {
		_ = conn.Close()
	}
}

// reconnect replaces the connection used, unless another watch has replaced it already. Calls in flight continue on it.
func (c *Client) reconnect(used *connection) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if used != c.conn {
		return nil
	}
	conn, err := c.connect()
	if err != nil {
		return err
	}
	used.replaced, c.conn = true, conn
	if used.calls == 0 {
		return used.Close()
	}
	return nil
}

// Invoke makes a unary call. It is for the generated client.
func (c *Client) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	conn := c.acquire()
	defer c.release(conn)
	if req, ok := args.(interface{ GetUid() int64 }); ok {
		ctx = aboutJob(ctx, req.GetUid())
	}
	return conn.Invoke(ctx, method, args, reply, opts...)
}

// NewStream starts a stream. It is for the generated client. Cancel ctx if you do not read the stream to its end.
func (c *Client) NewStream(
	ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	conn := c.acquire()
	release := sync.OnceFunc(func() { c.release(conn) })
	stream, err := conn.NewStream(ctx, desc, method, append(opts, grpc.OnFinish(func(error) { release() }))...)
	if err != nil {
		release()
	}
	return stream, err
}

// LogIn replaces the token with a fresh one.
func (c *Client) LogIn() {
	token := c.freshToken()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token = token
}

// renew logs in, unless another call has replaced the token used already. It reports whether there is another token.
func (c *Client) renew(used string) bool {
	if c.currentToken() == used {
		c.LogIn()
	}
	return c.currentToken() != used
}

func (c *Client) currentToken() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token
}

// Authorized returns a context for one call that carries the token.
func (c *Client) Authorized(ctx context.Context) context.Context {
	return withToken(ctx, c.currentToken())
}

func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// aboutJob returns a context for one call about a job. Proxies can route by its header, so that all watches of a job
// share the polls of one replica.
func aboutJob(ctx context.Context, uid int64) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "x-job-uid", strconv.FormatInt(uid, 10))
}

// Close closes the connection and cancels its calls.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn.Close()
}
