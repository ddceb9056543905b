package jobs

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	pb "jobclient/gen/jobgateway/v1"
)

const (
	maxAttempts = 5 // of a unary call, including the first

	// The gateway gives up a read after 10 silent seconds, and a submission after 120.
	readLimit = 30 * time.Second
	sendLimit = 150 * time.Second
	waitLimit = 40 * time.Second // of a WaitJob without a timeout
)

// unaryCall is a call of one method.
type unaryCall struct {
	limit    time.Duration // after which the connection counts as dead
	mayRetry func(*Error) bool
	uid      int64 // 0 for a submission
	invoke   func(context.Context, pb.JobServiceClient, ...grpc.CallOption) (*pb.Job, error)
}

// Send sends a job. It sends the request again if certainly no job was created, or if the request has a RequestId, which
// makes that safe.
func (c *Client) Send(ctx context.Context, req *pb.SendJobRequest, options ...Option) (*pb.Job, error) {
	return c.unary(ctx, unaryCall{
		limit:    sendLimit,
		mayRetry: func(e *Error) bool { return e.maySendAgain(req) },
		invoke: func(ctx context.Context, rpc pb.JobServiceClient, more ...grpc.CallOption) (*pb.Job, error) {
			return rpc.SendJob(ctx, req, more...)
		},
	}, options)
}

// Get reads a job once.
func (c *Client) Get(ctx context.Context, req *pb.GetJobRequest, options ...Option) (*pb.Job, error) {
	return c.unary(ctx, unaryCall{
		limit:    readLimit,
		mayRetry: (*Error).mayRetry,
		uid:      req.GetUid(),
		invoke: func(ctx context.Context, rpc pb.JobServiceClient, more ...grpc.CallOption) (*pb.Job, error) {
			return rpc.GetJob(ctx, req, more...)
		},
	}, options)
}

// Cancel asks to cancel a job, and returns its state. The job may continue for a while.
func (c *Client) Cancel(ctx context.Context, uid int64, options ...Option) (*pb.Job, error) {
	return c.unary(ctx, unaryCall{
		limit:    readLimit,
		mayRetry: (*Error).mayRetry,
		uid:      uid,
		invoke: func(ctx context.Context, rpc pb.JobServiceClient, more ...grpc.CallOption) (*pb.Job, error) {
			return rpc.CancelJob(ctx, &pb.CancelJobRequest{Uid: uid}, more...)
		},
	}, options)
}

// Wait waits until a job is done, without a stream. A request with a Timeout is one call, whose job may not be done.
func (c *Client) Wait(ctx context.Context, req *pb.WaitJobRequest, options ...Option) (*pb.Job, error) {
	limit := waitLimit
	if req.GetTimeout() != nil {
		limit = req.GetTimeout().AsDuration()
	}
	for {
		job, err := c.unary(ctx, unaryCall{
			limit:    limit + readLimit,
			mayRetry: (*Error).mayRetry,
			uid:      req.GetUid(),
			invoke: func(ctx context.Context, rpc pb.JobServiceClient, more ...grpc.CallOption) (*pb.Job, error) {
				return rpc.WaitJob(ctx, req, more...)
			},
		}, options)
		if err != nil || job.GetDone() || req.GetTimeout() != nil {
			return job, err
		}
	}
}

// unary makes a call and retries it if the error allows that.
func (c *Client) unary(ctx context.Context, call unaryCall, options []Option) (*pb.Job, error) {
	o := optionsOf(options)
	var wait backoff
	loggedIn := false
	for attempt := 1; ; attempt++ {
		token, err := c.currentToken(ctx)
		if err != nil {
			return nil, err
		}
		conn, err := c.acquire()
		if err != nil {
			return nil, err
		}
		job, trailers, err := call.once(ctx, conn, token)
		c.release(conn)
		if err == nil {
			o.ended(trailers)
			if damaged := Result(nil).verify(job, false); damaged != nil {
				return nil, damaged
			}
			return job, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		e := errorOf(err)
		again := call.mayRetry(e)
		if e.Code == codes.Unauthenticated && !loggedIn {
			loggedIn = true
			if again, err = c.renew(ctx, token); err != nil {
				return nil, err
			}
		}
		if !again || attempt == maxAttempts || c.isClosed() {
			return nil, e
		}
		retry := Retry{Err: e, Wait: wait.next(e.RetryAfter), NewConnection: e.wantsNewConnection()}
		o.retrying(retry)
		if err := c.prepare(ctx, retry, conn); err != nil {
			return nil, err
		}
	}
}

func (call unaryCall) once(ctx context.Context, conn *connection, token string) (*pb.Job, metadata.MD, error) {
	ctx, cancel := context.WithTimeout(withToken(ctx, token), call.limit)
	defer cancel()
	if call.uid != 0 {
		ctx = aboutJob(ctx, call.uid)
	}
	var trailers metadata.MD
	job, err := call.invoke(ctx, pb.NewJobServiceClient(conn), grpc.Trailer(&trailers))
	return job, trailers, err
}
