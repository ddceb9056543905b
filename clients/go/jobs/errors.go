package jobs

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "jobclient/gen/jobgateway/v1"
)

// Action is the reaction of a client to an error.
type Action string

// The actions of docs/reference/errors.md.
const (
	RetryCall  Action = "retry"
	FixRequest Action = "fix"
	LogIn      Action = "login"
	Look       Action = "look"
	GiveUp     Action = "give_up"
)

// domain marks the ErrorInfo of the gateway.
const domain = "jobgateway"

// Error is the error of a call, with its details. The client itself makes errors with the codes InvalidArgument (a request
// that cannot be sent) and DataLoss (a damaged result).
type Error struct {
	Code       codes.Code
	Message    string
	Reason     string            // from ErrorInfo; empty if the error does not come from the gateway
	Metadata   map[string]string // from ErrorInfo
	RetryAfter *time.Duration    // from RetryInfo; nil if there is none
	Fields     []FieldViolation  // from BadRequest, in its order
}

// FieldViolation is a problem of a field of a request. A field may have several.
type FieldViolation struct {
	Field       string
	Description string
}

// Error returns a one-line message. It never contains the token.
func (e *Error) Error() string {
	if e.Reason != "" {
		return fmt.Sprintf("%s [%s, %s]", e.Message, e.Code, e.Reason)
	}
	return fmt.Sprintf("%s [%s]", e.Message, e.Code)
}

// GRPCStatus returns the code and the message. The package status of grpc-go calls it.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Message) }

// UID returns the job that an error of the gateway is about, or 0.
func (e *Error) UID() int64 {
	uid, err := strconv.ParseInt(e.Metadata["uid"], 10, 64)
	if err != nil {
		return 0
	}
	return uid
}

// checkRequest returns an error for a request that no call can send, such as one with an invalid string. gRPC reports it as
// Internal, the code of a broken stream.
func checkRequest(req proto.Message) error {
	if _, err := proto.Marshal(req); err != nil {
		return &Error{Code: codes.InvalidArgument, Message: "the request cannot be encoded: " + err.Error()}
	}
	return nil
}

// errorOf reads the error of a call and its details.
func errorOf(err error) *Error {
	if known := (*Error)(nil); errors.As(err, &known) {
		return known
	}
	st, _ := status.FromError(err)
	f := &Error{Code: st.Code(), Message: st.Message()}
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
				f.Fields = append(f.Fields, FieldViolation{v.GetField(), v.GetDescription()})
			}
		}
	}
	return f
}

// errorOfJob reads the failure of one watch of many.
func errorOfJob(failure *pb.WatchFailure) *Error {
	f := &Error{
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

// isTransient reports whether the error is one of load or of an outage, so that a watch continues after a wait.
func (e *Error) isTransient() bool {
	return e.Code == codes.Unavailable || e.Code == codes.ResourceExhausted && e.RetryAfter != nil
}

// Action returns the reaction to the error: by the reason if the code alone would be misleading, otherwise by the code.
//
// For a submission without a request_id, RetryCall of an error without a Reason means Look.
func (e *Error) Action() Action {
	switch e.Reason {
	case "UPSTREAM_NOT_READY", "UPSTREAM_ERROR":
		return RetryCall
	case "UPSTREAM_ANSWER_TOO_LARGE":
		return GiveUp
	}
	if e.Reason == "" && (e.Code == codes.Internal || e.Code == codes.Unknown || e.Code == codes.OK) {
		return RetryCall // from a proxy, or the gateway died: another call may work
	}
	switch e.Code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return RetryCall
	case codes.ResourceExhausted:
		// Limits of rate and load have a RetryInfo, limits of size do not.
		if e.RetryAfter != nil {
			return RetryCall
		}
		return FixRequest
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.OutOfRange:
		return FixRequest
	case codes.Unauthenticated:
		return LogIn
	case codes.Unknown:
		return Look
	}
	return GiveUp
}

func (e *Error) mayRetry() bool { return e.Action() == RetryCall }

// maySendAgain reports whether a failed submission may be repeated: the gateway guarantees that no job was created, or the
// request_id prevents a second one.
func (e *Error) maySendAgain(req *pb.SendJobRequest) bool {
	nothingSent := e.Reason != "" && (e.Code == codes.Unavailable || e.Code == codes.ResourceExhausted)
	return e.Action() == RetryCall && e.UID() == 0 && (nothingSent || req.GetRequestId() != "")
}

// wantsNewConnection reports whether the connection may be dead, or lead to an instance that shuts down. A new connection
// does not wait for the backoff of the old one, which may be two minutes.
func (e *Error) wantsNewConnection() bool {
	return e.Reason == "" || e.Reason == Silent || e.Reason == "DRAINING"
}
