// Package jobs is a client of the Job Gateway: a connection, what its errors mean, and a watch that resumes.
package jobs

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // client-side health checking, as the service config asks for
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	pb "jobclient/gen/jobgateway/v1"
)

// Client is a connection to the gateway, and the credential that goes over it. It is for one goroutine.
type Client struct {
	pb.JobServiceClient

	target        string
	serviceConfig string
	token         string
	freshToken    func() string
	conn          *grpc.ClientConn
}

// NewClient returns a client that is not connected until its first call; freshToken logs in again.
func NewClient(target, serviceConfig, token string, freshToken func() string) (*Client, error) {
	c := &Client{target: target, serviceConfig: serviceConfig, token: token, freshToken: freshToken}
	return c, c.connect()
}

func (c *Client) connect() error {
	conn, err := grpc.NewClient(c.target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(c.serviceConfig),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
	)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", c.target, err)
	}
	c.conn, c.JobServiceClient = conn, pb.NewJobServiceClient(conn)
	return nil
}

// Reconnect goes on over a new connection.
func (c *Client) Reconnect() error {
	if err := c.Close(); err != nil {
		return err
	}
	return c.connect()
}

// LogIn takes a fresh token.
func (c *Client) LogIn() {
	c.token = c.freshToken()
}

// Authorized returns a context that bears the token, for one call.
func (c *Client) Authorized(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.token)
}

// Close ends the connection and the calls over it.
func (c *Client) Close() error {
	return c.conn.Close()
}
