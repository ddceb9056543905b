package jobgateway.client;

import static java.util.concurrent.TimeUnit.NANOSECONDS;

import com.google.gson.Gson;
import com.google.gson.JsonParseException;
import com.google.gson.JsonParser;
import com.google.gson.reflect.TypeToken;
import com.google.protobuf.util.Durations;
import io.grpc.ChannelCredentials;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannelBuilder;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Collection;
import java.util.Map;
import java.util.Objects;
import java.util.function.Consumer;
import java.util.function.Predicate;
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
 * its thread ends a call; a job continues. A call also ends with its {@link Options#timeout}, with
 * the {@code io.grpc.Context} of its thread, and with {@link #close}.
 */
public final class Client implements AutoCloseable {
  // The gateway gives up a read after 10 silent seconds, and a submission after 120.
  private static final Duration READ_LIMIT = Duration.ofSeconds(30);
  private static final Duration SEND_LIMIT = Duration.ofSeconds(150);

  /** The gateway ends a {@code WaitJob} without a timeout after 40 seconds. */
  private static final Duration WAIT_LIMIT = READ_LIMIT.plusSeconds(40);

  private final Session session;
  private final UnaryCalls calls;

  private Client(ChannelSettings channel, Credential credential) {
    session = new Session(new Connections(channel::connect), credential);
    calls = new UnaryCalls(session);
  }

  /** The options of a client. The clients that it builds do not change with it. */
  public static final class Builder {
    private final String target;
    private ChannelCredentials credentials = InsecureChannelCredentials.create();
    private Map<String, ?> serviceConfig = Map.of();
    private Consumer<? super ManagedChannelBuilder<?>> configure = channel -> {};
    private Integer maxMessageSize;
    private Supplier<String> login;
    private String token;

    private Builder(String target) {
      this.target = Objects.requireNonNull(target, "target");
    }

    /** Sets a bearer token that never changes. Null means none. */
    public Builder token(String token) {
      this.token = token;
      return this;
    }

    /**
     * Sets a function that returns a bearer token, instead of {@code token}.
     *
     * <p>The client calls it before the first call, and again whenever the gateway rejects the
     * token, once for all calls that wait for it. It runs on a thread of its own with the values of
     * the {@code io.grpc.Context} of the first of these calls, and returns null if there is no
     * (other) token. Its exception ends that first call; the others call the function once more.
     */
    public Builder login(Supplier<String> login) {
      this.login = login;
      return this;
    }

    /**
     * Sets the credentials of the connections, such as {@link Tls#fromFiles(Path)}, or {@code
     * TlsChannelCredentials.create()} for the CA certificates of Java. Default: plaintext.
     */
    public Builder credentials(ChannelCredentials credentials) {
      this.credentials = Objects.requireNonNull(credentials, "credentials");
      return this;
    }

    /**
     * Sets a gRPC service config (docs/clients/index.md).
     *
     * @throws IllegalArgumentException if it is not a JSON object
     */
    public Builder serviceConfig(String json) {
      try {
        var object = JsonParser.parseString(Objects.requireNonNull(json, "json")).getAsJsonObject();
        serviceConfig = new Gson().fromJson(object, new TypeToken<Map<String, Object>>() {});
        return this;
      } catch (JsonParseException | IllegalStateException invalid) {
        throw new IllegalArgumentException("serviceConfig: must be a JSON object", invalid);
      }
    }

    /**
     * Sets the longest message that the client receives, in bytes. Default: 4 MiB, which results in
     * {@code CONTENT_FORMAT_JSON} may exceed.
     *
     * @throws IllegalArgumentException if it is not positive
     */
    public Builder maxMessageSize(int bytes) {
      if (bytes <= 0) {
        throw new IllegalArgumentException("maxMessageSize: must be positive (got " + bytes + ")");
      }
      maxMessageSize = bytes;
      return this;
    }

    /**
     * Sets a function that changes the settings of each connection of gRPC, after those of this
     * client.
     */
    public Builder configure(Consumer<? super ManagedChannelBuilder<?>> function) {
      configure = Objects.requireNonNull(function, "function");
      return this;
    }

    /**
     * Returns a client, which connects at its first call.
     *
     * @throws IllegalArgumentException if an option is invalid
     */
    public Client build() {
      if (token != null && login != null) {
        throw new IllegalArgumentException("token and login: give one of them");
      }
      var credential = login == null ? Credential.ofToken(token) : Credential.ofLogin(login);
      return new Client(
          new ChannelSettings(target, credentials, serviceConfig, maxMessageSize, configure),
          credential);
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
    return call(
        0,
        stub -> stub.sendJob(request),
        SEND_LIMIT,
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
    return call(uid, stub -> stub.getJob(request), READ_LIMIT, Client::mayRetry, options);
  }

  /** Asks to cancel a job, with the default options. */
  public Job cancel(long uid) throws InterruptedException {
    return cancel(uid, Options.defaults());
  }

  /** Asks to cancel a job, and returns its state. The job may continue for a while. */
  public Job cancel(long uid, Options options) throws InterruptedException {
    var request = CancelJobRequest.newBuilder().setUid(uid).build();
    return call(uid, stub -> stub.cancelJob(request), READ_LIMIT, Client::mayRetry, options);
  }

  private Job call(
      long uid,
      UnaryCalls.Method method,
      Duration limit,
      Predicate<GatewayException> mayRetry,
      Options options)
      throws InterruptedException {
    var scope = session.scope(options.timeout()).start();
    UnaryCalls.Method limited = stub -> method.call(stub.withDeadline(scope.deadline(limit)));
    return calls.call(uid, limited, scope, new Attempts(mayRetry, false), options);
  }

  /** Waits until a job is done, without a stream, over any outage, with the default options. */
  public Job await(long uid) throws InterruptedException {
    return await(uid, Options.defaults());
  }

  /** Waits until a job is done, without a stream, over any outage. */
  public Job await(long uid, Options options) throws InterruptedException {
    var request =
        WaitJobRequest.newBuilder().setUid(uid).setContentFormat(options.contentFormat()).build();
    var scope = session.scope(options.timeout()).start();
    UnaryCalls.Method wait = stub -> stub.withDeadline(scope.deadline(WAIT_LIMIT)).waitJob(request);
    while (true) {
      var job = calls.call(uid, wait, scope, new Attempts(Client::mayRetry, true), options);
      if (job.getDone()) {
        return job;
      }
    }
  }

  /** Waits until a job is done, or {@code timeout} is over, with the default options. */
  public Job await(long uid, Duration timeout) throws InterruptedException {
    return await(uid, timeout, Options.defaults());
  }

  /**
   * Waits until a job is done, or {@code timeout} is over: the returned job may not be done. The
   * response may take up to 30 seconds longer, unless {@code Options.timeout} limits that, too.
   *
   * @throws GatewayException with the code {@code DEADLINE_EXCEEDED} and the last failure as its
   *     cause if the job could not be read, at once if the next attempt would come after the
   *     timeout
   * @throws IllegalArgumentException if the timeout is negative
   */
  public Job await(long uid, Duration timeout, Options options) throws InterruptedException {
    if (timeout.isNegative()) {
      throw new IllegalArgumentException("timeout: must not be negative (got " + timeout + ")");
    }
    var request = WaitJobRequest.newBuilder().setUid(uid).setContentFormat(options.contentFormat());
    var scope = session.scope(options.timeout()).start();
    var lastAttempt = scope.limitAttempts(timeout, READ_LIMIT);
    UnaryCalls.Method wait =
        stub -> {
          long left = Math.max(0, lastAttempt.timeRemaining(NANOSECONDS));
          return stub.waitJob(request.setTimeout(Durations.fromNanos(left)).build());
        };
    return calls.call(uid, wait, scope, new Attempts(Client::mayRetry, true), options);
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
    return Watch.of(session, options, request);
  }

  /** Watches a job, with the default options. */
  public Watch watch(long uid) {
    return watch(uid, Options.defaults());
  }

  /** Watches a job until it ends. The watch starts with the first {@code next}. */
  public Watch watch(long uid, Options options) {
    return Watch.of(session, options, uid);
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

  /**
   * Closes the connections. Calls and watches end with a {@link GatewayException} with the reason
   * {@code CLOSED}. Any thread may do so.
   */
  @Override
  public void close() {
    session.connections().close();
  }

  private static boolean mayRetry(GatewayException failure) {
    return failure.action() == Action.RETRY;
  }
}
