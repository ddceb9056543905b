package jobs

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "jobclient/gen/jobgateway/v1"
)

// Watch returns the events of a job up to the one with job.done, and resumes broken streams (docs/clients/index.md).
// It ends with an error if a status is final or ctx is done. It calls onResume before the wait for each further call.
func (c *Client) Watch(
	ctx context.Context, req *pb.WatchJobRequest, onResume func(Resumption),
) iter.Seq2[*pb.JobEvent, error] {
	return func(yield func(*pb.JobEvent, error) bool) {
		w := &watch{client: c, request: proto.CloneOf(req), yield: yield}
		for {
			conn, token := c.acquire(), c.currentToken()
			finished, err := w.call(withToken(ctx, token), conn)
			c.release(conn)
			if finished {
				return
			}
			resumption, ok := w.rules.resume(err, w.request.GetResumeToken())
			if !ok || ctx.Err() != nil {
				yield(nil, err)
				return
			}
			resumption.Jobs = 1
			onResume(resumption)
			if resumption.Code == codes.Unauthenticated {
				c.renew(token)
				w.rules.tokenUnproven = true
			}
			if err := c.prepare(ctx, resumption, conn); err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// prepare waits until the next call of a watch. used is the connection of the last one.
func (c *Client) prepare(ctx context.Context, r Resumption, used *connection) error {
	if err := sleep(ctx, r.Wait); err != nil || !r.NewConnection {
		return err
	}
	return c.reconnect(used)
}

// watch is the watch of one job.
type watch struct {
	client  *Client
	request *pb.WatchJobRequest // the next one
	rules   streamRules
	yield   func(*pb.JobEvent, error) bool
}

// call yields the events of one call. finished reports that the watch is over: the job has ended, or the caller has
// stopped the iteration.
func (w *watch) call(ctx context.Context, conn *connection) (finished bool, err error) {
	w.rules.opened = time.Now()
	silence := silenceOf(w.request)
	listener := listen(aboutJob(ctx, w.request.GetUid()), silence)
	defer listener.stop()
	stream, err := pb.NewJobServiceClient(conn).WatchJob(listener.ctx, w.request)
	if err != nil {
		return false, listener.reason(err)
	}
	done := false
	for {
		event, err := listener.next(stream, silence)
		switch {
		case err != nil && done:
			return true, nil
		case errors.Is(err, io.EOF):
			return false, errNoEnd
		case err != nil:
			return false, err
		}
		w.rules.heard(time.Now(), provesToken(event))
		if token := event.GetResumeToken(); token != "" {
			w.request.ResumeToken = token
		}
		done = event.GetJob().GetDone()
		if !w.yield(event, nil) {
			return true, nil
		}
	}
}
