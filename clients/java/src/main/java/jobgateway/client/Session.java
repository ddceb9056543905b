package jobgateway.client;

import io.grpc.Context;
import io.grpc.Metadata;
import io.grpc.StatusException;
import io.grpc.stub.MetadataUtils;
import java.util.concurrent.atomic.AtomicReference;
import jobgateway.client.Connections.Connection;
import jobgateway.v1.JobServiceGrpc;
import jobgateway.v1.JobServiceGrpc.JobServiceBlockingV2Stub;
import jobgateway.v1.JobServiceGrpc.JobServiceStub;

/** What all calls of a client share: its connections and its token. */
record Session(Connections connections, Credential credential) {
  private static final Metadata.Key<String> AUTHORIZATION = key("authorization");
  private static final Metadata.Key<String> JOB_UID = key("x-job-uid");
  private static final Metadata.Key<String> REPLAYED = key("jobgateway-replayed");

  /** The connection and the token of one call. Close it after the call. */
  final class Access implements AutoCloseable {
    private final String token;
    private final Connection connection;
    private final Metadata headers = new Metadata();
    private final AtomicReference<Metadata> trailers = new AtomicReference<>();
    private boolean closed;

    private Access(long uid) throws InterruptedException {
      token = credential.token();
      connection = connections.acquire();
      if (token != null) {
        headers.put(AUTHORIZATION, "Bearer " + token);
      }
      if (uid != 0) {
        headers.put(JOB_UID, Long.toString(uid));
      }
    }

    JobServiceBlockingV2Stub stub() {
      return JobServiceGrpc.newBlockingV2Stub(connection.channel())
          .withInterceptors(
              MetadataUtils.newAttachHeadersInterceptor(headers),
              MetadataUtils.newCaptureMetadataInterceptor(new AtomicReference<>(), trailers));
    }

    JobServiceStub asyncStub() {
      return JobServiceGrpc.newStub(connection.channel())
          .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers));
    }

    /** Returns whether the call, which has ended, repeated an earlier submission. */
    boolean isReplayed() {
      return trailers.get() != null && "true".equals(trailers.get().get(REPLAYED));
    }

    /** Gets another token than that of this call; false if there is none. */
    boolean renewToken() throws InterruptedException {
      return credential.renew(token);
    }

    /** Waits until the next call, and replaces the connection if that call needs another one. */
    void prepare(Retry retry) throws InterruptedException {
      connections.sleep(retry.delay());
      if (retry.newConnection()) {
        connections.replace(connection);
      }
    }

    @Override
    public void close() {
      if (!closed) {
        closed = true;
        connections.release(connection);
      }
    }
  }

  /**
   * Returns what one call needs.
   *
   * @param uid the job that the call is about, or 0. Proxies can route by it, so that all watches
   *     of a job share the polls of one replica
   */
  Access access(long uid) throws InterruptedException {
    return new Access(uid);
  }

  /**
   * Returns the failure of a call.
   *
   * @param last the failure before this one; null if this is the first
   * @throws GatewayException if the caller's {@code Context} has ended, and each further call would
   * @throws IllegalStateException if the client was closed
   */
  GatewayException failure(StatusException error, GatewayException last)
      throws InterruptedException {
    connections.throwIfClosed();
    if (Thread.interrupted()) {
      throw new InterruptedException();
    }
    var failure = GatewayException.of(error);
    if (Context.current().isCancelled()) {
      // It says why the time was too short.
      if (last != null) {
        failure.addSuppressed(last);
      }
      throw failure;
    }
    return failure;
  }

  private static Metadata.Key<String> key(String name) {
    return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
  }
}
