package jobs

import (
	"context"
	"errors"
)

// errInUse is the error of a watch that is read while another loop reads it, or after a callback panicked.
var errInUse = errors.New("the watch is being read by another loop, or a panic ended its last loop")

// follower is a watch of one job or of many, over several calls.
type follower interface {
	// call yields the items of one call. finished reports that the reading is over: all jobs have ended, or the caller has
	// left the loop.
	call(ctx context.Context, conn *connection, token string) (finished bool, err error)
	// wantsToken reports whether a fresh token may help after an error.
	wantsToken(err error) bool
	// resume decides about the next call. renewed: a fresh token was wanted, and there is one.
	resume(err error, renewed bool) (Retry, bool)
	// lastError returns the error after which the current call or wait began, or nil if an event has arrived since.
	lastError() *Error
}

// reading is the state of a watch between its loops.
type reading struct {
	ended bool  // every job has ended
	err   error // final
}

// read runs one loop over a watch. A watch that has ended has no more items, and one that has failed keeps its error.
func (r *reading) read(follow func() error) error {
	if r.ended || r.err != nil {
		return r.err
	}
	r.err = errInUse
	r.err = follow()
	return r.err
}

// follow makes calls until the reading is over, and returns an error that is final.
func (c *Client) follow(ctx context.Context, f follower, o callOptions) error {
	for {
		finished, err := c.attempt(ctx, f, o)
		if finished || err != nil {
			return withLast(err, f.lastError())
		}
	}
}

// attempt makes one call, and prepares the next one if it was broken. An error is final.
func (c *Client) attempt(ctx context.Context, f follower, o callOptions) (finished bool, err error) {
	token, conn, err := c.begin(ctx)
	if err != nil {
		return false, err
	}
	finished, broken := c.callOnce(ctx, f, conn, token)
	if finished {
		return true, nil
	}
	if err := c.final(ctx, broken); err != nil {
		return false, err
	}
	renewed := false
	if f.wantsToken(broken) {
		if renewed, err = c.credential.renew(ctx, token); err != nil {
			return false, err
		}
	}
	retry, ok := f.resume(broken, renewed)
	if !ok {
		return false, retry.Err
	}
	o.retrying(retry)
	return false, c.prepare(ctx, retry, conn)
}

// callOnce releases the connection also if the body of the caller's loop panics.
func (c *Client) callOnce(ctx context.Context, f follower, conn *connection, token string) (bool, error) {
	defer c.release(conn)
	return f.call(ctx, conn, token)
}

// final returns the error with which a watch ends if its call ended with err, or nil if that depends on its rules.
func (c *Client) final(ctx context.Context, err error) error {
	var own *Error
	var login *tokenError
	if errors.As(err, &own) || errors.As(err, &login) {
		return err
	}
	return c.stopped(ctx)
}
