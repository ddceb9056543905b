package jobs

import (
	"context"
	"math"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

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
	request  proto.Message
	limit    time.Duration // after which the connection counts as dead
	mayRetry func(*Error) bool
	uid      int64     // 0 for a submission
	waits    bool      // reads again as long as a watch resumes, without a limit of attempts
	until    time.Time // no attempt begins later; zero: no limit
	invoke   func(context.Context, pb.JobServiceClient, ...grpc.CallOption) (*pb.Job, error)
}

// Send sends a job. It sends the request again if the gateway guarantees that no job was created, or if the request has a
// RequestId, which makes that safe. It does not after SUBMIT_OUTCOME_UNKNOWN, because the outcome rarely becomes known in
// seconds.
func (c *Client) Send(ctx context.Context, req *pb.SendJobRequest, options ...Option) (*pb.Job, error) {
	return c.unary(ctx, unaryCall{
		request:  req,
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
		request:  req,
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
	req := &pb.CancelJobRequest{Uid: uid}
	return c.unary(ctx, unaryCall{
		request:  req,
		limit:    readLimit,
		mayRetry: (*Error).mayRetry,
		uid:      uid,
		invoke: func(ctx context.Context, rpc pb.JobServiceClient, more ...grpc.CallOption) (*pb.Job, error) {
			return rpc.CancelJob(ctx, req, more...)
		},
	}, options)
}

// Wait waits until a job is done, without a stream. It reads again after the errors after which a watch resumes.
//
// If the Timeout of the request passes, it returns the unfinished job without an error. If no state could be read, it returns
// context.DeadlineExceeded with the last error, immediately if the next attempt would come too late. The Timeout counts for all
// attempts; the last login and the last response may take 30 seconds more. Without a Timeout, ctx limits the wait, and its
// end is an error.
func (c *Client) Wait(ctx context.Context, req *pb.WaitJobRequest, options ...Option) (*pb.Job, error) {
	call := unaryCall{
		request:  req,
		limit:    waitLimit + readLimit,
		mayRetry: (*Error).mayRetry,
		uid:      req.GetUid(),
		waits:    true,
		invoke: func(ctx context.Context, rpc pb.JobServiceClient, more ...grpc.CallOption) (*pb.Job, error) {
			return rpc.WaitJob(ctx, req, more...)
		},
	}
	if req.GetTimeout() != nil {
		return c.waitOnce(ctx, call, req, options)
	}
	for {
		job, err := c.unary(ctx, call, options)
		if err != nil || job.GetDone() {
			return job, err
		}
	}
}

// waitOnce makes the attempts of a WaitJob until its Timeout has passed. Each asks for the rest of it.
func (c *Client) waitOnce(
	ctx context.Context, call unaryCall, req *pb.WaitJobRequest, options []Option,
) (*pb.Job, error) {
	timeout := min(req.GetTimeout().AsDuration(), math.MaxInt64-readLimit)
	call.limit = timeout + readLimit
	call.until = time.Now().Add(timeout)
	ctx, cancel := context.WithTimeout(ctx, call.limit)
	defer cancel()
	next := proto.CloneOf(req)
	call.invoke = func(ctx context.Context, rpc pb.JobServiceClient, more ...grpc.CallOption) (*pb.Job, error) {
		if timeout > 0 { // the gateway rejects a negative one
			next.Timeout = durationpb.New(max(0, time.Until(call.until)))
		}
		return rpc.WaitJob(ctx, next, more...)
	}
	return c.unary(ctx, call, options)
}

// unary makes a call and retries it if the error allows that.
func (c *Client) unary(ctx context.Context, call unaryCall, options []Option) (*pb.Job, error) {
	if err := checkRequest(call.request); err != nil {
		return nil, err
	}
	var last *Error
	job, err := c.attempts(ctx, call, optionsOf(options), &last)
	return job, withLast(err, last)
}

// attempts notes the error of each attempt in last.
func (c *Client) attempts(ctx context.Context, call unaryCall, o callOptions, last **Error) (*pb.Job, error) {
	var wait backoff
	loggedIn := false
	for attempt := 1; ; attempt++ {
		token, conn, err := c.begin(ctx)
		if err != nil {
			return nil, err
		}
		job, trailers, err := c.unaryOnce(ctx, call, conn, token)
		if err == nil {
			o.reportReplayed(trailers)
			if damaged := Result(nil).verify(job, false); damaged != nil {
				return nil, damaged
			}
			return job, nil
		}
		if stopped := c.stopped(ctx); stopped != nil {
			return nil, stopped
		}
		e := errorOf(err)
		*last = e
		again := call.mayRetry(e)
		jobExists := call.uid == 0 && e.UID() != 0 // a submission is not repeated then
		if e.Code == codes.Unauthenticated && !loggedIn && !jobExists {
			loggedIn = true
			if again, err = c.credential.renew(ctx, token); err != nil {
				return nil, err
			}
		}
		unlimited := call.waits && (e.isTransient() || e.Reason == "")
		if !again || attempt >= maxAttempts && !unlimited {
			return nil, e
		}
		retry := Retry{Err: e, Wait: wait.next(e.RetryAfter), NewConnection: e.wantsNewConnection()}
		if !call.until.IsZero() && retry.Wait >= time.Until(call.until) {
			return nil, context.DeadlineExceeded
		}
		o.retrying(retry)
		if err := c.prepare(ctx, retry, conn); err != nil {
			return nil, err
		}
	}
}

// unaryOnce releases the connection also if an interceptor panics.
func (c *Client) unaryOnce(
	ctx context.Context, call unaryCall, conn *connection, token string,
) (*pb.Job, metadata.MD, error) {
	defer c.release(conn)
	ctx, cancel := context.WithTimeout(withToken(ctx, token), call.limit)
	defer cancel()
	if call.uid != 0 {
		ctx = aboutJob(ctx, call.uid)
	}
	var trailers metadata.MD
	job, err := call.invoke(ctx, pb.NewJobServiceClient(conn), grpc.Trailer(&trailers))
	return job, trailers, err
}
