package jobs

import (
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Action is what a client does about an error.
type Action string

// The actions of docs/reference/errors.md.
const (
	Retry  Action = "retry"
	Mend   Action = "mend"
	LogIn  Action = "login"
	Look   Action = "look"
	GiveUp Action = "give_up"
)

// domain is that of the gateway's own ErrorInfo.
const domain = "jobgateway"

// Failure is what an error of a call says.
type Failure struct {
	Code   codes.Code
	Reason string            // that of ErrorInfo; empty if the error is not the gateway's
	Wait   *time.Duration    // that of RetryInfo; nil where no wait is known
	Fields map[string]string // what is wrong with each field at fault
}

// FailureOf reads the error of a call.
func FailureOf(err error) Failure {
	st, _ := status.FromError(err)
	f := Failure{Code: st.Code(), Fields: map[string]string{}}
	for _, detail := range st.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == domain {
				f.Reason = d.GetReason()
			}
		case *errdetails.RetryInfo:
			wait := d.GetRetryDelay().AsDuration()
			f.Wait = &wait
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				f.Fields[v.GetField()] = v.GetDescription()
			}
		}
	}
	return f
}

// Action decides by the reason if its code would say otherwise, else by the code, also that of a reason not known.
//
// Retry of a submission is safe only with a request_id: without one, Retry of an error without Reason means Look.
func (f Failure) Action() Action {
	switch f.Reason {
	case "UPSTREAM_NOT_READY", "UPSTREAM_ERROR":
		return Retry
	case "UPSTREAM_ANSWER_TOO_LARGE":
		return GiveUp
	}
	if f.Reason == "" && (f.Code == codes.Internal || f.Code == codes.Unknown) {
		return Retry // a proxy said it, or the gateway died: another call may work
	}
	switch f.Code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return Retry
	case codes.ResourceExhausted:
		// A limit of rate or load says when to come back; a limit of size does not.
		if f.Wait != nil {
			return Retry
		}
		return Mend
	case codes.InvalidArgument, codes.NotFound, codes.OutOfRange:
		return Mend
	case codes.Unauthenticated:
		return LogIn
	case codes.Unknown:
		return Look
	}
	return GiveUp
}
