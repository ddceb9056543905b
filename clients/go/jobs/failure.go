package jobs

import (
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "jobclient/gen/jobgateway/v1"
)

// Action is the reaction of a client to an error.
type Action string

// The actions of docs/reference/errors.md.
const (
	Retry  Action = "retry"
	Fix    Action = "fix"
	LogIn  Action = "login"
	Look   Action = "look"
	GiveUp Action = "give_up"
)

// domain marks the ErrorInfo of the gateway.
const domain = "jobgateway"

// Failure is the error of a call, with its details.
type Failure struct {
	Code       codes.Code
	Message    string
	Reason     string            // from ErrorInfo; empty if the error does not come from the gateway
	Metadata   map[string]string // from ErrorInfo
	RetryAfter *time.Duration    // from RetryInfo; nil if there is none
	Fields     map[string]string // from BadRequest: invalid field to description
}

// FailureOf reads the error of a call and its details.
func FailureOf(err error) Failure {
	st, _ := status.FromError(err)
	f := Failure{Code: st.Code(), Message: st.Message(), Fields: map[string]string{}}
	for _, detail := range st.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == domain {
				f.Reason, f.Metadata = d.GetReason(), d.GetMetadata()
			}
		case *errdetails.RetryInfo:
			delay := d.GetRetryDelay().AsDuration()
			f.RetryAfter = &delay
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				f.Fields[v.GetField()] = v.GetDescription()
			}
		}
	}
	return f
}

// failureOfJob reads the failure of one watch of many.
func failureOfJob(failure *pb.WatchFailure) Failure {
	f := Failure{
		Code:     codes.Code(failure.GetCode()),
		Message:  failure.GetMessage(),
		Reason:   failure.GetReason(),
		Metadata: failure.GetMetadata(),
	}
	if failure.GetRetryDelay() != nil {
		delay := failure.GetRetryDelay().AsDuration()
		f.RetryAfter = &delay
	}
	return f
}

// passes reports whether the error is one of load or of an outage, so that a watch continues after a wait.
func (f Failure) passes() bool {
	return f.Code == codes.Unavailable || f.Code == codes.ResourceExhausted && f.RetryAfter != nil
}

// Action returns the reaction to the error: by the reason if the code alone would be misleading, otherwise by the code.
//
// Retry a submission only if it has a request_id. Without one, Retry of an error without a Reason means Look.
func (f Failure) Action() Action {
	switch f.Reason {
	case "UPSTREAM_NOT_READY", "UPSTREAM_ERROR":
		return Retry
	case "UPSTREAM_ANSWER_TOO_LARGE":
		return GiveUp
	}
	if f.Reason == "" && (f.Code == codes.Internal || f.Code == codes.Unknown) {
		return Retry // from a proxy, or the gateway died: another call may work
	}
	switch f.Code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return Retry
	case codes.ResourceExhausted:
		// Limits of rate and load have a RetryInfo, limits of size do not.
		if f.RetryAfter != nil {
			return Retry
		}
		return Fix
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.OutOfRange:
		return Fix
	case codes.Unauthenticated:
		return LogIn
	case codes.Unknown:
		return Look
	}
	return GiveUp
}
