package jobgateway.client;

import static java.util.concurrent.TimeUnit.SECONDS;

import io.grpc.ClientInterceptor;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.stub.MetadataUtils;
import java.util.Map;
import java.util.function.Supplier;
import jobgateway.v1.JobServiceGrpc;
import jobgateway.v1.JobServiceGrpc.JobServiceBlockingV2Stub;
import jobgateway.v1.JobServiceGrpc.JobServiceStub;

/** A connection to the gateway, with a credential. It is safe for several threads. */
final class Gateway implements AutoCloseable {
  private static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
  private static final Metadata.Key<String> JOB_UID =
      Metadata.Key.of("x-job-uid", Metadata.ASCII_STRING_MARSHALLER);

  private final String target;
  private final Map<String, ?> serviceConfig;
  private final Supplier<String> freshToken;
  private ManagedChannel channel;
  private String token;

  /**
   * @param target {@code host:port}
   * @param serviceConfig the published service config: parsed JSON, with numbers as {@code Double}
   * @param freshToken logs in again and returns the new bearer token
   */
  Gateway(String target, Map<String, ?> serviceConfig, String token, Supplier<String> freshToken) {
    this.target = target;
    this.serviceConfig = serviceConfig;
    this.token = token;
    this.freshToken = freshToken;
    this.channel = connect();
  }

  /** Returns the current channel. */
  synchronized ManagedChannel channel() {
    return channel;
  }

  /** Returns a stub for one call, with the current token. */
  JobServiceBlockingV2Stub stub() {
    return stub(channel());
  }

  /** Returns a stub for one call on a channel of this gateway, with the current token. */
  JobServiceBlockingV2Stub stub(ManagedChannel channel) {
    return JobServiceGrpc.newBlockingV2Stub(channel).withInterceptors(credential());
  }

  /** Returns a stub with callbacks, otherwise like {@code stub(channel)}. */
  JobServiceStub asyncStub(ManagedChannel channel) {
    return JobServiceGrpc.newStub(channel).withInterceptors(credential());
  }

  /**
   * Returns a stub for one call about a job. Proxies can route by its header, so that all watches
   * of a job share the polls of one replica.
   */
  static JobServiceBlockingV2Stub aboutJob(JobServiceBlockingV2Stub stub, long uid) {
    var headers = new Metadata();
    headers.put(JOB_UID, Long.toString(uid));
    return stub.withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers));
  }

  /** Replaces the token with a fresh one. */
  synchronized void logIn() {
    token = freshToken.get();
  }

  /**
   * Replaces the channel {@code used}, unless another watch has replaced it already. Calls in
   * flight continue on it.
   */
  synchronized void reconnect(ManagedChannel used) {
    if (used == channel) {
      channel.shutdown();
      channel = connect();
    }
  }

  @Override
  public synchronized void close() throws InterruptedException {
    channel.shutdownNow().awaitTermination(5, SECONDS);
  }

  private synchronized ClientInterceptor credential() {
    var headers = new Metadata();
    headers.put(AUTHORIZATION, "Bearer " + token);
    return MetadataUtils.newAttachHeadersInterceptor(headers);
  }

  private ManagedChannel connect() {
    return Grpc.newChannelBuilder(target, InsecureChannelCredentials.create())
        .defaultServiceConfig(serviceConfig)
        .keepAliveTime(20, SECONDS)
        .keepAliveTimeout(10, SECONDS)
        .build();
  }
}
