// Package jobs is a client of the Job Gateway. It sends jobs, and watches them over broken connections until they end.
package jobs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // enables the health checks of the service config
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
)

// version is that of the module and of the contract.
const version = "0.1.0"

// ErrClosed is the error of calls and watches of a client that was closed.
var ErrClosed = errors.New("the client was closed")

// Options are the options of a Client. The zero value is a plaintext connection without a token.
type Options struct {
	// Token is a bearer token that never changes. It consists of visible ASCII characters.
	Token string
	// Login returns a bearer token, instead of Token. A Client calls it before its first call, and again whenever the
	// gateway rejects the token, once for all calls that wait for it. It returns "" if there is no (other) one. Its
	// context ends when the client is closed, or when no call waits for the token any more.
	Login func(context.Context) (string, error)

	TLS           *tls.Config       // nil is plaintext; see TLSFromFiles
	ServiceConfig string            // a gRPC service config as JSON (docs/clients/index.md); "" is none
	Dial          []grpc.DialOption // further options, which replace those of the client
}

// Format hides the token, with every verb.
func (o Options) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "jobs.Options{TLS: %t, Token: hidden}", o.TLS != nil)
}

// Client is a client of a gateway. It is safe for concurrent use: its calls share one connection, which is replaced once
// for all of them if it breaks.
type Client struct {
	target     string
	options    []grpc.DialOption
	credential *credential
	closing    context.Context // ends every wait
	close      context.CancelFunc

	mu   sync.Mutex
	conn *connection
	open map[*connection]struct{}
}

// connection counts its calls. A replaced connection is closed after its last call, because Close cancels all calls.
type connection struct {
	*grpc.ClientConn
	calls int
}

// NewClient returns a client that connects at its first call. target is an address such as 127.0.0.1:50051, or any name
// that gRPC resolves.
func NewClient(target string, options Options) (*Client, error) {
	if err := checkTarget(target); err != nil {
		return nil, err
	}
	if err := checkToken(options.Token); err != nil {
		return nil, err
	}
	closing, cancel := context.WithCancel(context.Background())
	c := &Client{
		target: target,
		credential: &credential{
			login:   options.Login,
			closing: closing,
			known:   options.Login == nil,
			token:   options.Token,
		},
		closing: closing,
		close:   cancel,
		open:    map[*connection]struct{}{},
	}
	transport := insecure.NewCredentials()
	if options.TLS != nil {
		transport = credentials.NewTLS(options.TLS)
	}
	c.options = []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithUserAgent("jobgateway-go/" + version),
	}
	if options.ServiceConfig != "" {
		c.options = append(c.options, grpc.WithDefaultServiceConfig(options.ServiceConfig))
	}
	c.options = append(c.options, options.Dial...)
	if err := c.connect(); err != nil {
		cancel()
		return nil, err
	}
	return c, nil
}

// checkTarget returns an error for a target that gRPC accepts and never reaches.
func checkTarget(target string) error {
	lower := strings.ToLower(target)
	if target == "" || strings.ContainsFunc(target, unicode.IsSpace) ||
		strings.HasPrefix(lower, "http://") || strings.HasPrefix(lower, "https://") {
		return fmt.Errorf("target: must be HOST:PORT, without a scheme or spaces (got %q)", target)
	}
	return nil
}

// Format prints the target only, with every verb.
func (c *Client) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "jobs.Client(%s)", c.target)
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

// begin returns the token and the connection for one call. Call release when the call has ended.
func (c *Client) begin(ctx context.Context) (string, *connection, error) {
	if err := c.stopped(ctx); err != nil {
		return "", nil, err
	}
	token, err := c.credential.current(ctx)
	if err != nil {
		return "", nil, err
	}
	conn, err := c.acquire()
	return token, conn, err
}

func (c *Client) acquire() (*connection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing.Err() != nil {
		return nil, ErrClosed
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
	if c.closing.Err() != nil {
		return ErrClosed
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

// Close closes all connections. Calls, watches and their waits end with ErrClosed.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.close()
	var failed []error
	for conn := range c.open {
		failed = append(failed, conn.Close())
	}
	clear(c.open)
	return errors.Join(failed...)
}

// stopped returns the cause of ctx or ErrClosed if a call must not continue, otherwise nil.
func (c *Client) stopped(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case c.closing.Err() != nil:
		return ErrClosed
	}
	return nil
}

// prepare waits until the next call. used is the connection of the last one.
func (c *Client) prepare(ctx context.Context, r Retry, used *connection) error {
	timer := time.NewTimer(r.Wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-c.closing.Done():
	case <-timer.C:
	}
	if err := c.stopped(ctx); err != nil || !r.NewConnection {
		return err
	}
	return c.reconnect(used)
}

// withLast adds the last error to that of a call that its context or Close has stopped. last may be nil.
func withLast(err error, last *Error) error {
	var final *Error
	var login *tokenError
	if err == nil || last == nil || errors.As(err, &final) || errors.As(err, &login) {
		return err
	}
	return fmt.Errorf("%w; the last error: %w", err, last)
}

// aboutJob returns a context for one call about a job. Proxies can route by its header, so that all watches of a job
// share the polls of one replica.
func aboutJob(ctx context.Context, uid int64) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "x-job-uid", strconv.FormatInt(uid, 10))
}
