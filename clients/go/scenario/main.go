// The client runs the steps of a scenario file and prints its observations (clients/README.md).
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	rpccode "google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	pb "jobclient/gen/jobgateway/v1"
	"jobclient/jobs"
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

	Count        *int     `json:"count"`         // of send
	UIDs         []string `json:"uids"`          // of watch_all, in addition to the jobs that were sent
	PauseAfter   int      `json:"pause_after"`   // of watch_all; lines
	PauseSeconds int      `json:"pause_seconds"` // of watch_all
}

// program runs the steps of a scenario.
type program struct {
	client *jobs.Client
	sent   []int64
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
	client, err := jobs.NewClient(args[0], jobs.Options{Login: login(), ServiceConfig: string(serviceConfig)})
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	p := &program{client: client}
	for _, s := range scenario.Steps {
		if s.UID == 0 && len(p.sent) > 0 {
			s.UID = p.sent[len(p.sent)-1]
		}
		if err := p.do(ctx, s); err != nil && !errors.Is(err, errReported) {
			return err
		}
	}
	return nil
}

// login returns the first token, and from then on the one that a new login returns.
func login() func(context.Context) (string, error) {
	next := os.Getenv("JOBGATEWAY_TOKEN")
	return func(context.Context) (string, error) {
		token := next
		next = os.Getenv("JOBGATEWAY_FRESH_TOKEN")
		return token, nil
	}
}

// do runs one step.
func (p *program) do(ctx context.Context, s step) error {
	r := &reporter{step: s.Do}
	switch s.Do {
	case "send":
		return p.send(ctx, s, r)
	case "get":
		job, err := p.client.Get(ctx, &pb.GetJobRequest{Uid: s.UID}, jobs.OnRetry(r.retry))
		return r.outcome(job, err)
	case "cancel":
		job, err := p.client.Cancel(ctx, s.UID, jobs.OnRetry(r.retry))
		return r.outcome(job, err)
	case "wait":
		return p.wait(ctx, s, r)
	case "watch":
		return r.events(p.client.Watch(ctx, watchRequest(s, s.UID), jobs.OnRetry(r.resumption)))
	case "run":
		request, err := sendRequest(s)
		if err != nil {
			return err
		}
		run := &pb.RunJobRequest{Request: request, HeartbeatInterval: watchRequest(s, 0).HeartbeatInterval}
		return r.events(p.client.Run(ctx, run, jobs.OnRetry(r.resumption)))
	case "watch_each":
		return p.watchEach(ctx, s)
	case "watch_all":
		return p.watchAll(ctx, s)
	}
	return fmt.Errorf("unknown step %q", s.Do)
}

func (p *program) send(ctx context.Context, s step, r *reporter) error {
	req, err := sendRequest(s)
	if err != nil {
		return err
	}
	count := 1
	if s.Count != nil {
		count = *s.Count
	}
	for range count {
		job, err := p.client.Send(ctx, req, jobs.OnRetry(r.retry))
		if err := r.outcome(job, err); err != nil {
			return err
		}
		p.sent = append(p.sent, job.GetUid())
	}
	return nil
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

func (p *program) wait(ctx context.Context, s step, r *reporter) error {
	timeout := time.Duration(s.TimeoutSeconds) * time.Second
	req := &pb.WaitJobRequest{Uid: s.UID, Timeout: durationpb.New(timeout)}
	for {
		job, err := p.client.Wait(ctx, req, jobs.OnRetry(r.retry))
		if err := r.outcome(job, err); err != nil || job.GetDone() {
			return err
		}
	}
}

// watchEach watches each job that was sent, all at the same time.
func (p *program) watchEach(ctx context.Context, s step) error {
	ended := make(chan error)
	for _, uid := range p.sent {
		go func() {
			r := &reporter{step: s.Do, uid: uid}
			ended <- r.events(p.client.Watch(ctx, watchRequest(s, uid), jobs.OnRetry(r.resumption)))
		}()
	}
	var failed []error
	for range p.sent {
		failed = append(failed, <-ended)
	}
	return errors.Join(failed...)
}

// watchAll watches the jobs that were sent, and those of the step.
func (p *program) watchAll(ctx context.Context, s step) error {
	var requests []*pb.WatchJobRequest
	for _, uid := range p.sent {
		requests = append(requests, watchRequest(s, uid))
	}
	for _, text := range s.UIDs {
		uid, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("uids: %w", err)
		}
		requests = append(requests, watchRequest(s, uid))
	}
	r := &manyReporter{reporter: reporter{step: s.Do}, arrived: map[int64]int{}}
	paused := s.PauseAfter == 0
	for item, err := range p.client.WatchAll(ctx, requests, jobs.OnRetry(r.resumption)) {
		if err != nil {
			return r.reporter.failed(err)
		}
		if err := r.item(item); err != nil {
			return err
		}
		if !paused && r.lines >= s.PauseAfter {
			paused = true
			time.Sleep(time.Duration(s.PauseSeconds) * time.Second)
		}
	}
	return r.end()
}

func watchRequest(s step, uid int64) *pb.WatchJobRequest {
	req := &pb.WatchJobRequest{Uid: uid}
	if s.HeartbeatSeconds > 0 {
		req.HeartbeatInterval = durationpb.New(time.Duration(s.HeartbeatSeconds) * time.Second)
	}
	if s.Chunks {
		req.ContentFormat = pb.ContentFormat_CONTENT_FORMAT_JSON_CHUNKS
	}
	return req
}

// codeName returns the name that gRPC specifies for a code, such as INVALID_ARGUMENT.
func codeName(code codes.Code) string {
	return rpccode.Code(code).String()
}
