// The client runs the steps of a scenario file and prints its observations (clients/README.md).
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	rpccode "google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	pb "jobclient/gen/jobgateway/v1"
	"jobclient/jobs"
)

const (
	maxAttempts   = 5 // of a unary call, including the first
	unaryDeadline = 30 * time.Second
)

// errReported means that a step ended with an error that has been printed.
var errReported = errors.New("reported")

type step struct {
	Do      string `json:"do"`
	UID     int64  `json:"uid,string"`
	Request struct {
		WorkspaceID string         `json:"workspace_id"`
		EntityID    int64          `json:"entity_id"`
		MethodName  *string        `json:"method_name"`
		RequestID   string         `json:"request_id"`
		Params      map[string]any `json:"params"`
	} `json:"request"`
	TimeoutSeconds   int64 `json:"timeout_seconds"`
	HeartbeatSeconds int64 `json:"heartbeat_seconds"`
	Chunks           bool  `json:"chunks"`
}

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return errors.New("usage: client TARGET SCENARIO-FILE SERVICE-CONFIG-FILE")
	}
	var scenario struct{ Steps []step }
	text, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &scenario); err != nil {
		return fmt.Errorf("%s: %w", args[1], err)
	}
	serviceConfig, err := os.ReadFile(args[2])
	if err != nil {
		return err
	}
	client, err := jobs.NewClient(args[0], string(serviceConfig), os.Getenv("JOBGATEWAY_TOKEN"),
		func() string { return os.Getenv("JOBGATEWAY_FRESH_TOKEN") })
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	var uid int64
	for _, s := range scenario.Steps {
		if s.UID == 0 {
			s.UID = uid
		}
		if uid, err = do(ctx, client, s); err != nil && !errors.Is(err, errReported) {
			return err
		}
	}
	return nil
}

// do runs one step and returns the uid of its job.
func do(ctx context.Context, client *jobs.Client, s step) (int64, error) {
	switch s.Do {
	case "send":
		req, err := sendRequest(s)
		if err != nil {
			return 0, err
		}
		job, err := call(ctx, s, req.GetRequestId() != "", func(ctx context.Context) (*pb.Job, error) {
			return client.SendJob(ctx, req)
		}, client)
		return job.GetUid(), err
	case "get":
		_, err := call(ctx, s, true, func(ctx context.Context) (*pb.Job, error) {
			return client.GetJob(ctx, &pb.GetJobRequest{Uid: s.UID})
		}, client)
		return s.UID, err
	case "cancel":
		_, err := call(ctx, s, true, func(ctx context.Context) (*pb.Job, error) {
			return client.CancelJob(ctx, &pb.CancelJobRequest{Uid: s.UID})
		}, client)
		return s.UID, err
	case "wait":
		return s.UID, wait(ctx, client, s)
	case "watch":
		return s.UID, watch(ctx, client, s)
	}
	return 0, fmt.Errorf("unknown step %q", s.Do)
}

func sendRequest(s step) (*pb.SendJobRequest, error) {
	req := &pb.SendJobRequest{
		WorkspaceId: s.Request.WorkspaceID,
		EntityId:    s.Request.EntityID,
		MethodName:  s.Request.MethodName,
		RequestId:   s.Request.RequestID,
	}
	if s.Request.Params != nil {
		params, err := structpb.NewStruct(s.Request.Params)
		if err != nil {
			return nil, fmt.Errorf("params: %w", err)
		}
		req.Input = &pb.SendJobRequest_Params{Params: params}
	}
	return req, nil
}

func wait(ctx context.Context, client *jobs.Client, s step) error {
	timeout := time.Duration(s.TimeoutSeconds) * time.Second
	req := &pb.WaitJobRequest{Uid: s.UID, Timeout: durationpb.New(timeout)}
	for {
		job, err := call(ctx, s, true, func(ctx context.Context) (*pb.Job, error) {
			return client.WaitJob(ctx, req)
		}, client)
		if err != nil || job.GetDone() {
			return err
		}
	}
}

func watch(ctx context.Context, client *jobs.Client, s step) error {
	req := &pb.WatchJobRequest{Uid: s.UID}
	if s.HeartbeatSeconds > 0 {
		req.HeartbeatInterval = durationpb.New(time.Duration(s.HeartbeatSeconds) * time.Second)
	}
	if s.Chunks {
		req.ContentFormat = pb.ContentFormat_CONTENT_FORMAT_JSON_CHUNKS
	}
	r := &reporter{step: s.Do}
	for event, err := range client.Watch(ctx, req, r.resumption) {
		if err != nil {
			return errors.Join(errReported, r.failure(jobs.FailureOf(err)))
		}
		if err := r.event(event); err != nil {
			return err
		}
	}
	return nil
}

// call makes a unary call and retries it if the error allows that. repeatable: a second call has no further effect.
func call(
	ctx context.Context, s step, repeatable bool, rpc func(context.Context) (*pb.Job, error), client *jobs.Client,
) (*pb.Job, error) {
	r := &reporter{step: s.Do}
	deadline := unaryDeadline + time.Duration(s.TimeoutSeconds)*time.Second
	loggedIn := false
	for attempt := 1; ; attempt++ {
		callCtx, cancel := context.WithTimeout(client.Authorized(ctx), deadline)
		job, err := rpc(callCtx)
		cancel()
		if err == nil {
			return job, r.job(job)
		}
		failure := jobs.FailureOf(err)
		if err := r.failure(failure); err != nil {
			return nil, err
		}
		switch action := failure.Action(); {
		case action == jobs.LogIn && !loggedIn:
			client.LogIn()
			loggedIn = true
		case action == jobs.Retry && repeatable && attempt < maxAttempts:
			time.Sleep(backoff(failure, attempt))
		default:
			return nil, errReported
		}
	}
}

func backoff(failure jobs.Failure, attempt int) time.Duration {
	jittered := rand.N(200 * time.Millisecond << attempt)
	if failure.RetryAfter != nil {
		return max(*failure.RetryAfter, jittered)
	}
	return jittered
}

// codeName returns the name that gRPC specifies for a code, such as INVALID_ARGUMENT.
func codeName(code codes.Code) string {
	return rpccode.Code(code).String()
}
