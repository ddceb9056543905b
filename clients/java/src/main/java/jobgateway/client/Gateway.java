package jobgateway.client;

import static java.util.concurrent.TimeUnit.SECONDS;

import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.stub.MetadataUtils;
import java.util.Map;
import java.util.function.Supplier;
import jobgateway.v1.JobServiceGrpc;
import jobgateway.v1.JobServiceGrpc.JobServiceBlockingV2Stub;

/** A connection to the gateway, and the bearer token of its calls. */
final class Gateway implements AutoCloseable {
  private static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

  private final String target;
  private final Map<String, ?> serviceConfig;
  private final Supplier<String> freshToken;
  private ManagedChannel channel;
  private String token;

  /**
   * @param target {@code host:port}
   * @param serviceConfig the published service config, as parsed JSON with each number a {@code
   *     Double}
   * @param freshToken gets another bearer token
   */
  Gateway(String target, Map<String, ?> serviceConfig, String token, Supplier<String> freshToken) {
    this.target = target;
    this.serviceConfig = serviceConfig;
    this.token = token;
    this.freshToken = freshToken;
    this.channel = connect();
  }

  /** The channel of the calls to come. */
  synchronized ManagedChannel channel() {
    return channel;
  }

  /** A stub for one call, with the token of now. */
  JobServiceBlockingV2Stub stub() {
    return stub(channel());
  }

  /** The same, over a channel that came from here. */
  synchronized JobServiceBlockingV2Stub stub(ManagedChannel channel) {
    var headers = new Metadata();
    headers.put(AUTHORIZATION, "Bearer " + token);
    return JobServiceGrpc.newBlockingV2Stub(channel)
        .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers));
  }

  synchronized void logIn() {
    token = freshToken.get();
  }

  /**
   * Makes a new connection for the calls to come, unless {@code used} is the old one already; calls
   * in flight end on that.
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

  private ManagedChannel connect() {
    return Grpc.newChannelBuilder(target, InsecureChannelCredentials.create())
        .defaultServiceConfig(serviceConfig)
        .keepAliveTime(20, SECONDS)
        .keepAliveTimeout(10, SECONDS)
        .build();
  }
}
