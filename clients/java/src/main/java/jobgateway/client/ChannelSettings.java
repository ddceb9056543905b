package jobgateway.client;

import static java.util.concurrent.TimeUnit.SECONDS;

import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import java.util.Map;
import java.util.function.Consumer;
import java.util.regex.Pattern;

/**
 * The settings of each connection of a client.
 *
 * @param maxMessageSize the longest received message in bytes; null means the default of gRPC
 * @param configure changes the settings of gRPC
 */
record ChannelSettings(
    String target,
    ChannelCredentials credentials,
    Map<String, ?> serviceConfig,
    Integer maxMessageSize,
    Consumer<? super ManagedChannelBuilder<?>> configure) {

  /** That of the package. A jar that contains this one may have another manifest. */
  private static final String VERSION = "0.1.0";

  private static final int MAX_PORT = 65_535;
  private static final Pattern HOST_AND_PORT =
      Pattern.compile("(\\[[^\\[\\]\\s/]+\\]|[^\\[\\]:\\s/]+):(\\d{1,5})");

  /** A URI of gRPC, such as {@code dns:///gateway:50051}. gRPC checks the scheme. */
  private static final Pattern URI = Pattern.compile("(?!(?i:https?):)[A-Za-z][\\w+.-]*:/\\S+");

  ChannelSettings {
    if (!isAddress(target) && !URI.matcher(target).matches()) {
      throw invalid(target, null);
    }
  }

  private static boolean isAddress(String target) {
    var parts = HOST_AND_PORT.matcher(target);
    if (!parts.matches()) {
      return false;
    }
    int port = Integer.parseInt(parts.group(2));
    return port > 0 && port <= MAX_PORT;
  }

  /**
   * Returns a connection, which is made with its first call.
   *
   * @throws IllegalArgumentException if gRPC rejects a setting
   */
  ManagedChannel connect() {
    var channel =
        Grpc.newChannelBuilder(target, credentials)
            .userAgent("jobgateway-java/" + VERSION)
            .defaultServiceConfig(serviceConfig)
            .keepAliveTime(20, SECONDS)
            .keepAliveTimeout(10, SECONDS);
    if (maxMessageSize != null) {
      channel.maxInboundMessageSize(maxMessageSize);
    }
    configure.accept(channel);
    try {
      return channel.build();
    } catch (IllegalArgumentException rejected) {
      throw invalid(target, rejected);
    } catch (IllegalStateException rejected) {
      // The message has a stack trace behind the first line.
      var problem = rejected.getMessage().lines().findFirst().orElse("");
      throw new IllegalArgumentException("serviceConfig: " + problem);
    }
  }

  private static IllegalArgumentException invalid(String target, Throwable cause) {
    return new IllegalArgumentException(
        "target: must be HOST:PORT, such as 127.0.0.1:50051, or a name that gRPC resolves, such as"
            + " dns:///gateway:50051 (got \""
            + target
            + "\")",
        cause);
  }
}
