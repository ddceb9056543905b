package jobs

import (
	"context"
	"errors"
	"time"

	pb "jobclient/gen/jobgateway/v1"
)

// listener cancels a call if no event arrives in time. It counts from its creation, and then only while next waits: the
// time that the caller spends on an event is not silence.
type listener struct {
	ctx      context.Context // of the call
	cancel   context.CancelCauseFunc
	watchdog *time.Timer
}

// listen returns a listener for a call that is about to start. Call stop when the call is over.
func listen(ctx context.Context, silence time.Duration) *listener {
	l := &listener{}
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	l.watchdog = time.AfterFunc(silence, func() { l.cancel(errSilent) })
	return l
}

// next returns the next event of the stream.
func (l *listener) next(
	stream interface{ Recv() (*pb.JobEvent, error) }, silence time.Duration,
) (*pb.JobEvent, error) {
	l.watchdog.Reset(silence)
	event, err := stream.Recv()
	l.watchdog.Stop()
	return event, l.reason(err)
}

// reason returns errSilent if the call was silent, whatever status arrived after the timeout, otherwise err.
func (l *listener) reason(err error) error {
	if err != nil && errors.Is(context.Cause(l.ctx), errSilent) {
		return errSilent
	}
	return err
}

// stop cancels the call. A stream that is not read to its end leaks until its context is cancelled.
func (l *listener) stop() {
	l.watchdog.Stop()
	l.cancel(nil)
}
