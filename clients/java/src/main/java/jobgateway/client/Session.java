package jobgateway.client;

import io.grpc.Metadata;
import io.grpc.stub.AbstractStub;
import io.grpc.stub.MetadataUtils;
import java.time.Duration;
import java.util.concurrent.atomic.AtomicReference;
import jobgateway.client.Connections.Connection;
import jobgateway.v1.JobServiceGrpc;
import jobgateway.v1.JobServiceGrpc.JobServiceBlockingV2Stub;
import jobgateway.v1.JobServiceGrpc.JobServiceStub;

/** The connections and the token of a client, which all its calls share. */
record Session(Connections connections, Credential credential) {
  private static final Metadata.Key<String> AUTHORIZATION = key("authorization");
  private static final Metadata.Key<String> JOB_UID = key("x-job-uid");
  private static final Metadata.Key<String> REPLAYED = key("jobgateway-replayed");

  /** The connection and the token of one call. Close it after the call. */
  final class Access implements AutoCloseable {
    private final Scope scope;
    private final Credential.Login login;
    private final Connection connection;
    private final Metadata headers = new Metadata();
    private final AtomicReference<Metadata> trailers = new AtomicReference<>();
    private Runnable cancel = () -> {};
    private boolean closed;

    private Access(long uid, Scope scope) throws InterruptedException {
      this.scope = scope;
      login = credential.current(scope);
      connection = connections.acquire();
      if (login.token() != null) {
        headers.put(AUTHORIZATION, "Bearer " + login.token());
      }
      if (uid != 0) {
        headers.put(JOB_UID, Long.toString(uid));
      }
      scope.onClose(this::close);
    }

    JobServiceBlockingV2Stub stub() {
      return limited(JobServiceGrpc.newBlockingV2Stub(connection.channel()))
          .withInterceptors(
              MetadataUtils.newAttachHeadersInterceptor(headers),
              MetadataUtils.newCaptureMetadataInterceptor(new AtomicReference<>(), trailers));
    }

    JobServiceStub asyncStub() {
      return limited(JobServiceGrpc.newStub(connection.channel()))
          .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers));
    }

    private <S extends AbstractStub<S>> S limited(S stub) {
      return scope.deadline() == null ? stub : stub.withDeadline(scope.deadline());
    }

    /** Sets the function that cancels the call; calls it immediately if this is closed already. */
    void cancelWith(Runnable cancel) {
      synchronized (this) {
        if (!closed) {
          this.cancel = cancel;
          return;
        }
      }
      cancel.run();
    }

    /** Returns whether the call, which has ended, repeated an earlier submission. */
    boolean isReplayed() {
      return trailers.get() != null && "true".equals(trailers.get().get(REPLAYED));
    }

    /**
     * Logs in after the gateway rejected the token of this call; false if there is no other one.
     */
    boolean renewToken() throws InterruptedException {
      return credential.renew(login, scope);
    }

    /**
     * Waits until the next call, and replaces the connection if that call needs another one.
     *
     * @throws GatewayException if the scope ends before that call
     */
    void waitFor(Retry retry, Options options) throws InterruptedException {
      scope.checkTime(retry.delay());
      options.retrying(retry);
      scope.sleep(retry.delay());
      if (retry.newConnection()) {
        connections.replace(connection);
      }
    }

    /** Cancels the call, if it has not ended. Any thread may do so. */
    @Override
    public void close() {
      synchronized (this) {
        if (closed) {
          return;
        }
        closed = true;
      }
      cancel.run();
      connections.release(connection);
    }
  }

  /**
   * Returns the scope of a call.
   *
   * @param timeout null if there is none
   */
  Scope scope(Duration timeout) {
    return new Scope(connections.closed(), timeout);
  }

  /**
   * Returns the connection and the token for one call.
   *
   * @param uid the job that the call is about, or 0. Proxies can route by it, so that all watches
   *     of a job share the polls of one replica
   */
  Access access(long uid, Scope scope) throws InterruptedException {
    return new Access(uid, scope);
  }

  private static Metadata.Key<String> key(String name) {
    return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
  }
}
