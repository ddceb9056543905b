// Package jobs is a client of the Job Gateway. It sends jobs, and watches them over broken connections until they end.
package jobs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // enables the health checks of the service config
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
)

// Options are the options of a Client. The zero value is a plaintext connection without a token.
type Options struct {
	// Token is a bearer token that never changes.
	Token string
	// Login returns a bearer token, instead of Token. A Client calls it before its first call, and again whenever the
	// gateway rejects the token. It returns "" if there is no (other) one.
	Login func(context.Context) (string, error)

	TLS           *tls.Config       // nil is plaintext; see TLSFromFiles
	ServiceConfig string            // a gRPC service config as JSON (docs/clients/index.md); "" is none
	Dial          []grpc.DialOption // further options, which replace those of the client
}

// Client is a client of a gateway. It is safe for concurrent use: its calls share one connection, which is replaced once
// for all of them if it breaks.
type Client struct {
	target  string
	options []grpc.DialOption
	login   func(context.Context) (string, error)

	mu     sync.Mutex
	conn   *connection
	open   map[*connection]struct{}
	closed bool

	tokenMu sync.Mutex // held during a login, so that concurrent calls share it
	known   bool       // the token is known: no first login is needed
	token   string
}

// connection counts its calls. A replaced connection is closed after its last call, because Close cancels all calls.
type connection struct {
	*grpc.ClientConn
	calls int
}

// tokenError is an error of Options.Login.
type tokenError struct{ cause error }

func (e *tokenError) Error() string { return "login: " + e.cause.Error() }
func (e *tokenError) Unwrap() error { return e.cause }

var errClosed = &Error{Code: codes.Canceled, Message: "the client was closed"}

// NewClient returns a client that connects at its first call. target is an address such as 127.0.0.1:50051, or any name
// that gRPC resolves.
func NewClient(target string, options Options) (*Client, error) {
	c := &Client{
		target: target,
		login:  options.Login,
		open:   map[*connection]struct{}{},
		known:  options.Login == nil,
		token:  options.Token,
	}
	transport := insecure.NewCredentials()
	if options.TLS != nil {
		transport = credentials.NewTLS(options.TLS)
	}
	c.options = []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
	}
	if options.ServiceConfig != "" {
		c.options = append(c.options, grpc.WithDefaultServiceConfig(options.ServiceConfig))
	}
	c.options = append(c.options, options.Dial...)
	return c, c.connect()
}

// connect makes the current connection. The caller holds mu, or is the only user of the client.
func (c *Client) connect() error {
	conn, err := grpc.NewClient(c.target, c.options...)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", c.target, err)
	}
	c.conn = &connection{ClientConn: conn}
	c.open[c.conn] = struct{}{}
	return nil
}

// acquire returns the current connection for one call. Call release when the call has ended.
func (c *Client) acquire() (*connection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	c.conn.calls++
	return c.conn, nil
}

func (c *Client) release(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn.calls--
	c.closeUnused(conn)
}

// closeUnused closes a replaced connection that has no calls. The caller holds mu.
func (c *Client) closeUnused(conn *connection) {
	if conn != c.conn && conn.calls == 0 {
		delete(c.open, conn)
		_ = conn.Close()
	}
}

// reconnect replaces the connection used, unless another call has replaced it already. Calls in flight continue on it.
func (c *Client) reconnect(used *connection) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errClosed
	}
	if used != c.conn {
		return nil
	}
	if err := c.connect(); err != nil {
		return err
	}
	c.closeUnused(used)
	return nil
}

// Close closes all connections. Calls in flight fail.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	var failed []error
	for conn := range c.open {
		failed = append(failed, conn.Close())
	}
	clear(c.open)
	return errors.Join(failed...)
}

func (c *Client) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// currentToken returns the token, after the first login.
func (c *Client) currentToken(ctx context.Context) (string, error) {
	c.tokenMu.Lock()
	defer c.tokenMu.Unlock()
	if !c.known {
		token, err := c.login(ctx)
		if err != nil {
			return "", &tokenError{err}
		}
		c.token, c.known = token, true
	}
	return c.token, nil
}

// renew logs in, unless another call has replaced the token used already. It reports whether a login returned a token.
func (c *Client) renew(ctx context.Context, used string) (bool, error) {
	c.tokenMu.Lock()
	defer c.tokenMu.Unlock()
	if c.token != used {
		return true, nil
	}
	if c.login == nil {
		return false, nil
	}
	token, err := c.login(ctx)
	if err != nil {
		return false, &tokenError{err}
	}
	if token == "" {
		return false, nil
	}
	c.token = token
	return true, nil
}

func withToken(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// aboutJob returns a context for one call about a job. Proxies can route by its header, so that all watches of a job
// share the polls of one replica.
func aboutJob(ctx context.Context, uid int64) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "x-job-uid", strconv.FormatInt(uid, 10))
}
