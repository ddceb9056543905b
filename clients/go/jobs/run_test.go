package jobs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "jobclient/gen/jobgateway/v1"
)

// runGateway has a script for each method of a run.
type runGateway struct {
	pb.UnimplementedJobServiceServer
	run            func(call int32, stream grpc.ServerStreamingServer[pb.JobEvent]) error
	watch          func(*pb.WatchJobRequest, grpc.ServerStreamingServer[pb.JobEvent]) error
	runs, watching atomic.Int32
}

func (g *runGateway) RunJob(_ *pb.RunJobRequest, stream grpc.ServerStreamingServer[pb.JobEvent]) error {
	return g.run(g.runs.Add(1), stream)
}

func (g *runGateway) WatchJob(req *pb.WatchJobRequest, stream grpc.ServerStreamingServer[pb.JobEvent]) error {
	g.watching.Add(1)
	return g.watch(req, stream)
}

func newClient(t *testing.T, g pb.JobServiceServer, options Options) *Client {
	client, err := NewClient(serve(t, g), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func runRequest(requestID string) *pb.RunJobRequest {
	return &pb.RunJobRequest{Request: &pb.SendJobRequest{RequestId: requestID}}
}

func TestARunWithoutACallbackContinuesAsAWatch(t *testing.T) {
	g := &runGateway{
		run: func(_ int32, stream grpc.ServerStreamingServer[pb.JobEvent]) error {
			_ = stream.Send(state(7, "a"))
			return status.Error(codes.Unavailable, "sent by a proxy")
		},
		watch: func(req *pb.WatchJobRequest, stream grpc.ServerStreamingServer[pb.JobEvent]) error {
			if req.GetUid() != 7 || req.GetResumeToken() != "a" {
				t.Errorf("the watch is %v", req)
			}
			return stream.Send(end(7, "[1]", "[1]"))
		},
	}
	done, err := newClient(t, g, Options{}).Run(
		context.Background(), runRequest(""), OnRetry(nil), OnProgress(nil), OnReplayed(nil),
	).Finish()
	if err != nil || string(done.Result) != "[1]" || g.runs.Load() != 1 {
		t.Errorf("finished %v with the error %v after %d runs", done, err, g.runs.Load())
	}
}

func TestAnErrorThatNamesTheJobIsWatched(t *testing.T) {
	// The job of the second error would be created again with the token of a login.
	for _, code := range []codes.Code{codes.Unavailable, codes.Unauthenticated} {
		g := &runGateway{
			run: func(int32, grpc.ServerStreamingServer[pb.JobEvent]) error {
				st, _ := status.New(code, "").WithDetails(&errdetails.ErrorInfo{
					Domain: domain, Reason: "TEST", Metadata: map[string]string{"uid": "7"},
				})
				return st.Err()
			},
			watch: func(req *pb.WatchJobRequest, stream grpc.ServerStreamingServer[pb.JobEvent]) error {
				return stream.Send(end(req.GetUid(), "[1]", "[1]"))
			},
		}
		logins := 0
		done, err := newClient(t, g, Options{Login: func(context.Context) (string, error) {
			logins++
			return fmt.Sprint(logins), nil
		}}).Run(context.Background(), runRequest("")).Finish()
		if err != nil || done.Job.GetUid() != 7 || g.runs.Load() != 1 {
			t.Errorf("%s: finished %v with the error %v after %d runs", code, done, err, g.runs.Load())
		}
	}
}

// sendGateway rejects the token of each SendJob, with an error that names the job.
type sendGateway struct {
	pb.UnimplementedJobServiceServer
	sends atomic.Int32
}

func (g *sendGateway) SendJob(context.Context, *pb.SendJobRequest) (*pb.Job, error) {
	g.sends.Add(1)
	st, _ := status.New(codes.Unauthenticated, "").WithDetails(&errdetails.ErrorInfo{
		Domain: domain, Reason: "TEST", Metadata: map[string]string{"uid": "7"},
	})
	return nil, st.Err()
}

func TestASendIsNotRepeatedAfterAnErrorThatNamesTheJob(t *testing.T) {
	g := &sendGateway{}
	logins := 0
	client := newClient(t, g, Options{Login: func(context.Context) (string, error) {
		logins++
		return fmt.Sprint(logins), nil
	}})
	_, err := client.Send(context.Background(), &pb.SendJobRequest{RequestId: "id"})
	if errorOf(err).UID() != 7 || g.sends.Load() != 1 {
		t.Errorf("%d calls, error %v", g.sends.Load(), err)
	}
}

func TestARunIsSentAgainOnlyIfThatIsSafe(t *testing.T) {
	for requestID, sent := range map[string]int32{"": 1, "id": 2} {
		g := &runGateway{run: func(call int32, stream grpc.ServerStreamingServer[pb.JobEvent]) error {
			if call == 1 {
				return status.Error(codes.Internal, "sent by a proxy")
			}
			stream.SetTrailer(metadata.Pairs("jobgateway-replayed", "true"))
			return stream.Send(end(7, "[1]", "[1]"))
		}}
		replayed := false
		_, err := newClient(t, g, Options{}).Run(
			context.Background(), runRequest(requestID), OnReplayed(func() { replayed = true }),
		).Finish()
		if g.runs.Load() != sent || (err == nil) != (sent == 2) || replayed != (sent == 2) {
			t.Errorf("request_id %q: %d runs, error %v, replayed %v", requestID, g.runs.Load(), err, replayed)
		}
	}
}

func TestADamagedResultEndsAWatch(t *testing.T) {
	g := &runGateway{watch: func(_ *pb.WatchJobRequest, stream grpc.ServerStreamingServer[pb.JobEvent]) error {
		return stream.Send(end(7, "[1]", "[2]"))
	}}
	_, err := newClient(t, g, Options{}).Watch(context.Background(), &pb.WatchJobRequest{Uid: 7}).Finish()
	var damaged *Error
	if !errors.As(err, &damaged) || damaged.Code != codes.DataLoss || g.watching.Load() != 1 {
		t.Errorf("the error is %v after %d watches", err, g.watching.Load())
	}
}

func TestWatchesShareOneLogin(t *testing.T) {
	const watches = 20
	var rejected sync.WaitGroup
	rejected.Add(watches)
	g := &runGateway{watch: func(_ *pb.WatchJobRequest, stream grpc.ServerStreamingServer[pb.JobEvent]) error {
		sent, _ := metadata.FromIncomingContext(stream.Context())
		if sent.Get("authorization")[0] == "Bearer 1" {
			rejected.Done()
			rejected.Wait()
			return gatewayError(codes.Unauthenticated, "UPSTREAM_UNAUTHENTICATED")
		}
		return stream.Send(end(7, "[1]", "[1]"))
	}}
	var logins atomic.Int32
	client := newClient(t, g, Options{Login: func(context.Context) (string, error) {
		return fmt.Sprint(logins.Add(1)), nil
	}})
	var all sync.WaitGroup
	for range watches {
		all.Go(func() {
			if _, err := client.Watch(context.Background(), &pb.WatchJobRequest{Uid: 7}).Finish(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if logins.Load() != 2 {
		t.Errorf("%d logins", logins.Load())
	}
}

func TestCloseEndsAWatch(t *testing.T) {
	begun := make(chan struct{})
	g := &runGateway{watch: func(_ *pb.WatchJobRequest, stream grpc.ServerStreamingServer[pb.JobEvent]) error {
		close(begun)
		<-stream.Context().Done()
		return nil
	}}
	client := newClient(t, g, Options{})
	go func() {
		<-begun
		_ = client.Close()
	}()
	if _, err := client.Watch(context.Background(), &pb.WatchJobRequest{Uid: 7}).Finish(); !errors.Is(err, ErrClosed) {
		t.Errorf("the error is %v", err)
	}
}

// certificate writes a self-signed certificate and its key, and returns the names of both files.
func certificate(t *testing.T, name string) (certFile, keyFile string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(t.TempDir(), name), filepath.Join(t.TempDir(), name)
	write := func(file, kind string, bytes []byte) {
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(certFile, "CERTIFICATE", cert)
	write(keyFile, "PRIVATE KEY", text)
	return certFile, keyFile
}

func TestMutualTLS(t *testing.T) {
	serverCert, serverKey := certificate(t, "server")
	clientCert, clientKey := certificate(t, "client")
	config, err := TLSFromFiles(clientCert, serverCert, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	config.ClientCAs, config.ClientAuth = config.RootCAs, tls.RequireAndVerifyClientCert
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(config)))
	pb.RegisterJobServiceServer(server, &runGateway{
		watch: func(_ *pb.WatchJobRequest, stream grpc.ServerStreamingServer[pb.JobEvent]) error {
			return stream.Send(end(7, "[1]", "[1]"))
		},
	})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	for _, certified := range []bool{true, false} {
		cert, key := clientCert, clientKey
		if !certified {
			cert, key = "", ""
		}
		clientConfig, err := TLSFromFiles(serverCert, cert, key)
		if err != nil {
			t.Fatal(err)
		}
		client, err := NewClient(listener.Addr().String(), Options{TLS: clientConfig})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		var refusal string
		// grpc-go may write before it reads the alert of the server, and then reports the failed write.
		leave := OnRetry(func(r Retry) {
			refusal = r.Err.Message
			if strings.Contains(refusal, "certificate required") {
				cancel()
			}
		})
		_, err = client.Watch(ctx, &pb.WatchJobRequest{Uid: 7}, leave).Finish()
		cancel()
		_ = client.Close()
		if certified && err != nil || !certified && !strings.Contains(refusal, "certificate required") {
			t.Errorf("with a certificate: %v, error %v, refusal %q", certified, err, refusal)
		}
	}
	for _, files := range [][3]string{{"none", "", ""}, {serverKey, "", ""}, {"", clientCert, ""}, {"", clientCert, serverKey}} {
		if _, err := TLSFromFiles(files[0], files[1], files[2]); err == nil {
			t.Errorf("%v are accepted", files)
		}
	}
}
