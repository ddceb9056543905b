package jobgateway.client;

import io.grpc.Context;
import io.grpc.Contexts;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerCredentials;
import io.grpc.ServerInterceptor;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import jobgateway.v1.GetJobRequest;
import jobgateway.v1.Job;
import jobgateway.v1.JobEvent;
import jobgateway.v1.JobServiceGrpc;
import jobgateway.v1.RunJobRequest;
import jobgateway.v1.SendJobRequest;
import jobgateway.v1.WaitJobRequest;
import jobgateway.v1.WatchJobRequest;
import jobgateway.v1.WatchJobsRequest;

/** A gateway with a script for each method, on a free port. */
final class ScriptedGateway extends JobServiceGrpc.JobServiceImplBase
    implements ServerInterceptor, AutoCloseable {

  /** The reaction to a request. {@code call} counts from 1 for each method. */
  interface Script<Q, A> {
    void play(int call, Q request, StreamObserver<A> response) throws Exception;
  }

  static final Context.Key<String> TOKEN = Context.key("token");
  static final Context.Key<String> USER_AGENT = Context.key("user agent");

  final List<SendJobRequest> sent = new CopyOnWriteArrayList<>();
  final List<RunJobRequest> runs = new CopyOnWriteArrayList<>();
  final List<WatchJobRequest> watches = new CopyOnWriteArrayList<>();
  final List<WaitJobRequest> waits = new CopyOnWriteArrayList<>();
  final List<GetJobRequest> gets = new CopyOnWriteArrayList<>();
  Script<SendJobRequest, Job> onSend;
  Script<GetJobRequest, Job> onGet;
  Script<WaitJobRequest, Job> onWait;
  Script<RunJobRequest, JobEvent> onRun;
  Script<WatchJobRequest, JobEvent> onWatch;

  /** The reaction to the first request of a {@code WatchJobs}. */
  Script<WatchJobRequest, JobEvent> onWatches;

  /** Runs when a client cancels a watch. */
  Runnable onCancel = () -> {};

  /** The trailer of each call that succeeds. */
  boolean replayed;

  private final Server server;

  ScriptedGateway() {
    this(InsecureServerCredentials.create());
  }

  ScriptedGateway(ServerCredentials credentials) {
    server = Grpc.newServerBuilderForPort(0, credentials).intercept(this).addService(this).build();
    try {
      server.start();
    } catch (IOException failed) {
      throw new AssertionError(failed);
    }
  }

  String target() {
    return "127.0.0.1:" + server.getPort();
  }

  Client client() {
    return Client.create(target(), "token");
  }

  @Override
  public void sendJob(SendJobRequest request, StreamObserver<Job> response) {
    play(onSend, sent, request, response);
  }

  @Override
  public void runJob(RunJobRequest request, StreamObserver<JobEvent> response) {
    play(onRun, runs, request, response);
  }

  @Override
  public void watchJob(WatchJobRequest request, StreamObserver<JobEvent> response) {
    ((ServerCallStreamObserver<JobEvent>) response).setOnCancelHandler(() -> onCancel.run());
    play(onWatch, watches, request, response);
  }

  @Override
  public void getJob(GetJobRequest request, StreamObserver<Job> response) {
    play(onGet, gets, request, response);
  }

  @Override
  public void waitJob(WaitJobRequest request, StreamObserver<Job> response) {
    play(onWait, waits, request, response);
  }

  @Override
  public StreamObserver<WatchJobsRequest> watchJobs(StreamObserver<JobEvent> response) {
    ((ServerCallStreamObserver<JobEvent>) response).setOnCancelHandler(() -> onCancel.run());
    return new StreamObserver<>() {
      private boolean played;

      @Override
      public void onNext(WatchJobsRequest request) {
        if (!played) {
          played = true;
          play(onWatches, watches, request.getWatch(), response);
        }
      }

      @Override
      public void onError(Throwable error) {}

      @Override
      public void onCompleted() {}
    };
  }

  private static <Q, A> void play(
      Script<Q, A> script, List<Q> received, Q request, StreamObserver<A> response) {
    int call;
    synchronized (received) {
      received.add(request);
      call = received.size();
    }
    try {
      script.play(call, request, response);
    } catch (Exception error) {
      response.onError(error);
    }
  }

  @Override
  public <Q, A> ServerCall.Listener<Q> interceptCall(
      ServerCall<Q, A> call, Metadata headers, ServerCallHandler<Q, A> next) {
    var trailing =
        new io.grpc.ForwardingServerCall.SimpleForwardingServerCall<Q, A>(call) {
          @Override
          public void close(io.grpc.Status status, Metadata trailers) {
            if (status.isOk() && replayed) {
              var name = Metadata.Key.of("jobgateway-replayed", Metadata.ASCII_STRING_MARSHALLER);
              trailers.put(name, "true");
            }
            super.close(status, trailers);
          }
        };
    var context =
        Context.current()
            .withValue(TOKEN, header(headers, "authorization"))
            .withValue(USER_AGENT, header(headers, "user-agent"));
    return Contexts.interceptCall(context, trailing, headers, next);
  }

  private static String header(Metadata headers, String name) {
    return headers.get(Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER));
  }

  @Override
  public void close() {
    server.shutdownNow();
  }
}
