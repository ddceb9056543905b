package jobs

import (
	"slices"

	"google.golang.org/grpc/metadata"

	pb "jobclient/gen/jobgateway/v1"
)

// Option is an option of one call.
type Option func(*callOptions)

type callOptions struct {
	onRetry    func(Retry)
	onProgress func(*pb.Job)
	onReplayed func()
}

// OnRetry calls f before the wait for each further attempt: of a unary call, of the stream of a watch, and in WatchAll also
// of the watch of one job. It tells why a watch does not end while no gateway can be reached. f may be nil.
func OnRetry(f func(Retry)) Option { return func(o *callOptions) { o.onRetry = f } }

// OnProgress calls f with each state of a job in Run and Watch. f may be nil.
func OnProgress(f func(*pb.Job)) Option { return func(o *callOptions) { o.onProgress = f } }

// OnReplayed calls f if Send or Run returned the job of an earlier submission with the same request_id. f may be nil.
func OnReplayed(f func()) Option { return func(o *callOptions) { o.onReplayed = f } }

func optionsOf(options []Option) callOptions {
	var o callOptions
	for _, option := range options {
		if option != nil {
			option(&o)
		}
	}
	return o
}

func (o callOptions) retrying(r Retry) {
	if o.onRetry != nil {
		o.onRetry(r)
	}
}

func (o callOptions) progressed(job *pb.Job) {
	if job != nil && o.onProgress != nil {
		o.onProgress(job)
	}
}

// reportReplayed reads the trailers of a successful call.
func (o callOptions) reportReplayed(trailers metadata.MD) {
	if o.onReplayed != nil && slices.Contains(trailers.Get("jobgateway-replayed"), "true") {
		o.onReplayed()
	}
}
