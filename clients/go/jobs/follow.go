package jobs

import (
	"context"
	"errors"
	"time"
)

// follower is a watch of one job or of many, over several calls.
type follower interface {
	// call yields the items of one call. finished reports that the watch is over: all jobs have ended, or the caller has
	// stopped the iteration.
	call(ctx context.Context, conn *connection, token string) (finished bool, err error)
	// wantsToken reports whether a fresh token may help after an error.
	wantsToken(err error) bool
	// resume decides about the next call. renewed: a fresh token was wanted, and there is one.
	resume(err error, renewed bool) (Retry, bool)
}

// follow makes calls until the watch is over, and returns an error that is final.
func (c *Client) follow(ctx context.Context, f follower, o callOptions) error {
	for {
		finished, err := c.attempt(ctx, f, o)
		if finished || err != nil {
			return err
		}
	}
}

// attempt makes one call, and prepares the next one if it was broken. An error is final.
func (c *Client) attempt(ctx context.Context, f follower, o callOptions) (finished bool, err error) {
	token, err := c.currentToken(ctx)
	if err != nil {
		return false, err
	}
	conn, err := c.acquire()
	if err != nil {
		return false, err
	}
	finished, broken := f.call(ctx, conn, token)
	c.release(conn)
	if finished {
		return true, nil
	}
	if err := c.final(ctx, broken); err != nil {
		return false, err
	}
	renewed := false
	if f.wantsToken(broken) {
		if renewed, err = c.renew(ctx, token); err != nil {
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

// final returns the error with which a watch ends if its call ended with err, or nil if that depends on its rules.
func (c *Client) final(ctx context.Context, err error) error {
	var damaged *Error
	var login *tokenError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &damaged), errors.As(err, &login):
		return err
	case c.isClosed():
		return errClosed
	}
	return nil
}

// prepare waits until the next call. used is the connection of the last one.
func (c *Client) prepare(ctx context.Context, r Retry, used *connection) error {
	if err := sleep(ctx, r.Wait); err != nil || !r.NewConnection {
		return err
	}
	return c.reconnect(used)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
