package jobgateway.client;

import static java.util.concurrent.TimeUnit.SECONDS;

import com.google.gson.Gson;
import com.google.gson.reflect.TypeToken;
import com.google.protobuf.util.Durations;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import java.time.Duration;
import java.util.Collection;
import java.util.Map;
import java.util.Objects;
import java.util.function.LongSupplier;
import java.util.function.Supplier;
import jobgateway.v1.CancelJobRequest;
import jobgateway.v1.GetJobRequest;
import jobgateway.v1.Job;
import jobgateway.v1.SendJobRequest;
import jobgateway.v1.WaitJobRequest;

/**
 * A client of a gateway, for any number of threads. Its calls share one connection. A broken one is
 * replaced once for all of them, and closed after its last call.
 *
 * <p>All calls block. A call that fails permanently throws a {@link GatewayException}. Interrupting
 * its thread ends a call; a job continues. A call also ends with the {@code io.grpc.Context} of its
 * thread, so a deadline of the context is one for a whole watch.
 */
public final class Client implements AutoCloseable {
  // The gateway gives up a read after 10 silent seconds, and a submission after 120.
  private static final Duration READ_LIMIT = Duration.ofSeconds(30);
  private static final Duration SEND_LIMIT = Duration.ofSeconds(150);

  /** The limit of a {@code WaitJob} without a timeout, without that of a read. */
  private static final Duration WAIT_LIMIT = Duration.ofSeconds(40);

  private static final String VERSION = version();

  private final Session session;
  private final UnaryCalls calls;

  private Client(Builder builder) {
    var credential = new Credential(builder.login, builder.token);
    session = new Session(new Connections(builder::connect), credential);
    calls = new UnaryCalls(session);
  }

  /** The options of a client. */
  public static final class Builder {
    private final String target;
    private ChannelCredentials credentials = InsecureChannelCredentials.create();
    private Map<String, ?> serviceConfig = Map.of();
    private Supplier<String> login;
    private String token;

    private Builder(String target) {
      this.target = valid(target);
    }

    /** Sets a bearer token that never changes. */
    public Builder token(String token) {
      this.token = token;
      return this;
    }

    /**
     * Sets a function that returns a bearer token, instead of {@code token}.
     *
     * <p>The client calls it before the first call, and again whenever the gateway rejects the
     * token, once for all calls. It returns null if there is no (other) token. Its exception ends
     * the call.
     */
    public Builder login(Supplier<String> login) {
      this.login = login;
      return this;
    }

    /**
     * Sets the credentials of the connection, such as {@link Tls#fromFiles}, or {@code
     * TlsChannelCredentials.create()} for the CA certificates of Java. Default: plaintext.
     */
    public Builder tls(ChannelCredentials credentials) {
      this.credentials = Objects.requireNonNull(credentials);
      return this;
    }

    /**
     * Sets a gRPC service config (docs/clients/index.md).
     *
     * @throws com.google.gson.JsonParseException if it is not a JSON object
     */
    public Builder serviceConfig(String json) {
      serviceConfig = new Gson().fromJson(json, new TypeToken<Map<String, Object>>() {});
      return this;
    }

    /**
     * Returns a client, which connects at its first call.
     *
     * @throws IllegalArgumentException if an option is invalid
     */
    public Client build() {
      return new Client(this);
    }

    private static String valid(String target) {
      boolean isUrl = target.matches("(?i)https?://.*");
      if (isUrl || target.isEmpty() || target.chars().anyMatch(Character::isWhitespace)) {
        throw new IllegalArgumentException(
            "target: write HOST:PORT, such as 127.0.0.1:50051" + (isUrl ? ", and not a URL" : ""));
      }
      return target;
    }

    private ManagedChannel connect() {
      return Grpc.newChannelBuilder(target, credentials)
          .userAgent("jobgateway-java/" + VERSION)
          .defaultServiceConfig(serviceConfig)
          .keepAliveTime(20, SECONDS)
          .keepAliveTimeout(10, SECONDS)
          .build();
    }
  }

  /** Returns the options of a client for a target such as {@code 127.0.0.1:50051}. */
  public static Builder builder(String target) {
    return new Builder(target);
  }

  /** Returns a client without TLS, with a bearer token that never changes. */
  public static Client create(String target, String token) {
    return builder(target).token(token).build();
  }

  /** Sends a job, with the default options. */
  public Job send(SendJobRequest request) throws InterruptedException {
    return send(request, Options.defaults());
  }

  /**
   * Sends a job. The request is sent again if the gateway guarantees that no job was created, or if
   * it has a {@code request_id}, which makes that safe.
   */
  public Job send(SendJobRequest request, Options options) throws InterruptedException {
    boolean hasId = !request.getRequestId().isEmpty();
    return calls.call(
        stub -> stub.sendJob(request),
        0,
        SEND_LIMIT,
        UnaryCalls.FEW_ATTEMPTS,
        failure -> failure.maySendAgain(hasId),
        options);
  }

  /** Reads a job once, with the default options. */
  public Job get(long uid) throws InterruptedException {
    return get(uid, Options.defaults());
  }

  /** Reads a job once. */
  public Job get(long uid, Options options) throws InterruptedException {
    var request =
        GetJobRequest.newBuilder().setUid(uid).setContentFormat(options.contentFormat()).build();
    return calls.call(
        stub -> stub.getJob(request),
        uid,
        READ_LIMIT,
        UnaryCalls.FEW_ATTEMPTS,
        Client::mayRetry,
        options);
  }

  /** Asks to cancel a job, with the default options. */
  public Job cancel(long uid) throws InterruptedException {
    return cancel(uid, Options.defaults());
  }

  /** Asks to cancel a job, and returns its state. The job may continue for a while. */
  public Job cancel(long uid, Options options) throws InterruptedException {
    var request = CancelJobRequest.newBuilder().setUid(uid).build();
    return calls.call(
        stub -> stub.cancelJob(request),
        uid,
        READ_LIMIT,
        UnaryCalls.FEW_ATTEMPTS,
        Client::mayRetry,
        options);
  }

  /** Waits until a job is done, without a stream, over any outage, with the default options. */
  public Job await(long uid) throws InterruptedException {
    return await(uid, Options.defaults());
  }

  /** Waits until a job is done, without a stream, over any outage. */
  public Job await(long uid, Options options) throws InterruptedException {
    var request =
        WaitJobRequest.newBuilder().setUid(uid).setContentFormat(options.contentFormat()).build();
    while (true) {
      var job =
          calls.call(
              stub -> stub.waitJob(request),
              uid,
              WAIT_LIMIT,
              Integer.MAX_VALUE,
              Client::mayRetry,
              options);
      if (job.getDone()) {
        return job;
      }
    }
  }

  /**
   * Waits until a job is done, or {@code timeout} is over: the returned job may not be done.
   *
   * @throws GatewayException also if the last call before the end of the timeout failed
   */
  public Job await(long uid, Duration timeout, Options options) throws InterruptedException {
    var request = WaitJobRequest.newBuilder().setUid(uid).setContentFormat(options.contentFormat());
    long start = System.nanoTime();
    LongSupplier left = () -> Math.max(0, timeout.toNanos() - (System.nanoTime() - start));
    return calls.call(
        stub -> stub.waitJob(request.setTimeout(Durations.fromNanos(left.getAsLong())).build()),
        uid,
        timeout.plus(READ_LIMIT),
        Integer.MAX_VALUE,
        failure -> mayRetry(failure) && left.getAsLong() > 0,
        options);
  }

  /** Sends a job and watches it, with the default options. */
  public Watch run(SendJobRequest request) {
    return run(request, Options.defaults());
  }

  /**
   * Sends a job and watches it in one call, which is resumed like a watch. Before the job is known,
   * the request is sent again under the conditions of {@code send}. The call starts with the first
   * {@code next}.
   */
  public Watch run(SendJobRequest request, Options options) {
    return new Watch(session, options.contentFormat(request.getContentFormat()), request, 0);
  }

  /** Watches a job, with the default options. */
  public Watch watch(long uid) {
    return watch(uid, Options.defaults());
  }

  /** Watches a job until it ends. The watch starts with the first {@code next}. */
  public Watch watch(long uid, Options options) {
    return new Watch(session, options, null, uid);
  }

  /** Watches many jobs, with the default options. */
  public WatchAll watchAll(Collection<Long> uids) {
    return watchAll(uids, Options.defaults());
  }

  /**
   * Watches many jobs on one stream, until each has ended or its watch has failed permanently. The
   * stream starts with the first {@code next}.
   */
  public WatchAll watchAll(Collection<Long> uids, Options options) {
    return new WatchAll(session, uids, options);
  }

  /** Closes the connections. Calls in flight fail with an {@code IllegalStateException}. */
  @Override
  public void close() {
    session.connections().close();
  }

  private static String version() {
    return Objects.requireNonNullElse(Client.class.getPackage().getImplementationVersion(), "dev");
  }

  private static boolean mayRetry(GatewayException failure) {
    return failure.action() == Action.RETRY;
  }
}
