package jobs

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"google.golang.org/grpc/metadata"
)

// credential is the token of a client, and the login that replaces it.
type credential struct {
	login   func(context.Context) (string, error) // nil: the token never changes
	closing context.Context                       // of the client

	mu      sync.Mutex
	known   bool // no first login is needed
	token   string
	pending *pendingLogin
}

// pendingLogin is a login that all calls wait for which need one.
type pendingLogin struct {
	cancel   context.CancelFunc
	waiting  int           // the number of calls, protected by the mutex of the credential
	done     chan struct{} // closed after the following fields are set
	token    string
	err      error
	panicked any
}

// tokenError is an error of Options.Login.
type tokenError struct{ cause error }

func (e *tokenError) Error() string { return "login: " + e.cause.Error() }
func (e *tokenError) Unwrap() error { return e.cause }

// checkToken returns an error that does not contain the token if no header can carry it.
func checkToken(token string) error {
	for _, b := range []byte(token) {
		if b <= ' ' || b > '~' {
			return errors.New("the token has a line break or another character that no header can carry: " +
				"remove white space at its ends")
		}
	}
	return nil
}

// current returns the token, after the first login.
func (c *credential) current(ctx context.Context) (string, error) {
	return c.logIn(ctx, func() bool { return c.known })
}

// renew logs in, unless another call has replaced the token used already. It reports whether a login returned a token.
func (c *credential) renew(ctx context.Context, used string) (bool, error) {
	if c.login == nil {
		return false, nil
	}
	token, err := c.logIn(ctx, func() bool { return c.token != used })
	return token != "", err
}

// logIn returns the token, after a login if it is not up to date.
func (c *credential) logIn(ctx context.Context, upToDate func() bool) (string, error) {
	for first := true; ; first = false {
		c.mu.Lock()
		if upToDate() {
			defer c.mu.Unlock()
			return c.token, nil
		}
		shared := c.pending != nil
		if !shared {
			c.start()
		}
		login := c.pending
		login.waiting++
		c.mu.Unlock()
		token, err := c.await(ctx, login)
		// One failed login does not end all calls: those that did not start it log in once more, together.
		if failed := (*tokenError)(nil); first && shared && errors.As(err, &failed) {
			continue
		}
		return token, err
	}
}

// start begins a login. The caller holds mu.
func (c *credential) start() {
	ctx, cancel := context.WithCancel(c.closing)
	login := &pendingLogin{cancel: cancel, done: make(chan struct{})}
	c.pending = login
	go func() {
		defer c.finish(login)
		login.err = &tokenError{errors.New("it did not return")} // runtime.Goexit
		token, err := c.login(ctx)
		if err == nil {
			err = checkToken(token)
		}
		login.token, login.err = token, nil
		if err != nil {
			login.token, login.err = "", &tokenError{err}
		}
	}()
}

// finish takes the result of a login, unless no call waits for it any more. It is deferred.
func (c *credential) finish(login *pendingLogin) {
	if value := recover(); value != nil {
		login.panicked = fmt.Sprintf("%v\n\n%s", value, debug.Stack())
	}
	c.mu.Lock()
	if c.pending == login {
		c.pending = nil
		if login.err == nil && (login.token != "" || !c.known) {
			c.token, c.known = login.token, true
		}
	}
	c.mu.Unlock()
	close(login.done)
	login.cancel()
}

// await waits for a login. The last call that stops waiting cancels it.
func (c *credential) await(ctx context.Context, login *pendingLogin) (string, error) {
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if login.waiting--; login.waiting == 0 {
			login.cancel()
			if c.pending == login {
				c.pending = nil
			}
		}
	}()
	select {
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case <-c.closing.Done():
		return "", ErrClosed
	case <-login.done:
	}
	if login.panicked != nil {
		panic(login.panicked) // in the goroutine of a caller, which may recover
	}
	return login.token, login.err
}

func withToken(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}
