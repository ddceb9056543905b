package jobgateway.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.protobuf.StatusProto;
import java.io.Serializable;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.OptionalLong;
import jobgateway.v1.WatchFailure;

/** The error of a call or of a watch, with its details. It never contains the token. */
public final class GatewayException extends RuntimeException {
  /** The reason for a stream that was cancelled because no event arrived in time. */
  public static final String SILENT = "SILENT";

  /** The reason for a call that ended because the client or the watch was closed. */
  public static final String CLOSED = "CLOSED";

  /** The longest wait that a client accepts. */
  private static final Duration LONGEST_RETRY = Duration.ofDays(1);

  /** The domain of the gateway's {@code ErrorInfo}. */
  private static final String DOMAIN = "jobgateway";

  private static final long serialVersionUID = 1;

  /**
   * A mistake in the request.
   *
   * @param field its path in the request
   * @param problem what is wrong with it
   */
  public record FieldProblem(String field, String problem) implements Serializable {}

  private final Status.Code code;
  private String reason = "";
  private final Map<String, String> metadata = new LinkedHashMap<>();
  private final List<FieldProblem> fields = new ArrayList<>();
  private Duration retryAfter;

  /** Creates an error without details. */
  GatewayException(Status.Code code, String message) {
    this(code, message, null);
  }

  private GatewayException(Status.Code code, String message, Throwable cause) {
    super(message, cause);
    this.code = code;
  }

  /** Returns an error without details. */
  static GatewayException of(Status status, Throwable cause) {
    var message = status.getDescription();
    boolean isEmpty = message == null || message.isEmpty();
    return new GatewayException(status.getCode(), isEmpty ? "no message" : message, cause);
  }

  /** Returns the error of a call that the client or the watch can no longer make. */
  static GatewayException closed(String message) {
    var failure = new GatewayException(Status.Code.CANCELLED, message);
    failure.reason = CLOSED;
    return failure;
  }

  /** Returns the error of a call. */
  static GatewayException of(StatusException error) {
    var failure = withoutDetails(error);
    try {
      for (var detail : StatusProto.fromThrowable(error).getDetailsList()) {
        failure.take(detail);
      }
      return failure;
    } catch (InvalidProtocolBufferException | IllegalArgumentException malformed) {
      return withoutDetails(error); // not from the gateway, whose details are valid
    }
  }

  /** Returns the error with the causes in its message, such as a refused connection. */
  private static GatewayException withoutDetails(StatusException error) {
    var status = error.getStatus();
    var message = Objects.requireNonNullElse(status.getDescription(), "");
    if (status.getCause() != null) {
      // The second line of gRPC's description is a list of its own objects.
      message = firstLine(message);
    }
    for (var cause = status.getCause(); cause != null; cause = cause.getCause()) {
      var text = cause.getMessage() == null ? cause.toString() : firstLine(cause.getMessage());
      message += message.contains(text) ? "" : ": " + text;
    }
    if (message.contains("Network closed for unknown reason")) {
      message +=
          "; the peer closed the connection: check whether it needs TLS or a client certificate";
    }
    return of(status.withDescription(message), error);
  }

  private static String firstLine(String text) {
    return text.lines().findFirst().orElse("");
  }

  /** Returns the end of one watch of a {@code WatchJobs} stream as if it were that of a call. */
  static GatewayException of(WatchFailure watchFailure) {
    var status = Status.fromCodeValue(watchFailure.getCode());
    var failure = of(status.withDescription(watchFailure.getMessage()), null);
    failure.reason = watchFailure.getReason();
    failure.metadata.putAll(watchFailure.getMetadataMap());
    if (watchFailure.hasRetryDelay()) {
      failure.retryAfter = limited(watchFailure.getRetryDelay());
    }
    return failure;
  }

  /** Returns the failure of a stream from which no event arrived in time. */
  static GatewayException silentStream() {
    var failure = new GatewayException(Status.Code.CANCELLED, "no event arrived in time");
    failure.reason = SILENT;
    return failure;
  }

  /** Returns the failure of a job whose result does not have the bytes that the upstream sent. */
  static GatewayException damagedResult(long uid, String problem) {
    var job = uid == 0 ? "a job without a number" : "job " + uid;
    var failure =
        new GatewayException(
            Status.Code.DATA_LOSS,
            "the result of " + job + " was damaged on its way: " + problem + "; get it again");
    if (uid != 0) {
      failure.metadata.put("uid", Long.toString(uid));
    }
    return failure;
  }

  /** Returns the failure of a stream that ended with OK before its jobs. */
  static GatewayException streamWithoutEnd() {
    return new GatewayException(Status.Code.OK, "the stream ended before the job was done");
  }

  private void take(Any detail) throws InvalidProtocolBufferException {
    if (detail.is(ErrorInfo.class)) {
      var info = detail.unpack(ErrorInfo.class);
      // A proxy may add an `ErrorInfo` of another domain.
      if (info.getDomain().equals(DOMAIN)) {
        reason = info.getReason();
        metadata.putAll(info.getMetadataMap());
      }
    } else if (detail.is(BadRequest.class)) {
      for (var violation : detail.unpack(BadRequest.class).getFieldViolationsList()) {
        fields.add(new FieldProblem(violation.getField(), violation.getDescription()));
      }
    } else if (detail.is(RetryInfo.class)) {
      retryAfter = limited(detail.unpack(RetryInfo.class).getRetryDelay());
    }
  }

  /** Returns a delay between nothing and a day. A status may have any numbers. */
  private static Duration limited(com.google.protobuf.Duration delay) {
    if (delay.getSeconds() < 0) {
      return Duration.ZERO;
    }
    if (delay.getSeconds() >= LONGEST_RETRY.toSeconds()) {
      return LONGEST_RETRY;
    }
    return Duration.ofSeconds(delay.getSeconds(), Math.max(0, delay.getNanos()));
  }

  /** Returns the code of gRPC: {@code DATA_LOSS} for a damaged result. */
  public Status.Code code() {
    return code;
  }

  /**
   * Returns the reason of {@code ErrorInfo}, {@link #SILENT} or {@link #CLOSED}; empty if the error
   * is not the gateway's.
   */
  public String reason() {
    return reason;
  }

  /** Returns the metadata of {@code ErrorInfo}. */
  public Map<String, String> metadata() {
    return Map.copyOf(metadata);
  }

  /** Returns the violations of {@code BadRequest}. A field may have several. */
  public List<FieldProblem> fields() {
    return List.copyOf(fields);
  }

  /** Returns the delay of {@code RetryInfo}, at most a day. */
  public Optional<Duration> retryAfter() {
    return Optional.ofNullable(retryAfter);
  }

  /** Returns the job that an error of the gateway is about. */
  public OptionalLong uid() {
    try {
      var uid = metadata.get("uid");
      return uid == null ? OptionalLong.empty() : OptionalLong.of(Long.parseLong(uid));
    } catch (NumberFormatException invalid) {
      return OptionalLong.empty();
    }
  }

  /**
   * Returns the reaction to the error: by the reason if the code alone would be misleading,
   * otherwise by the code. Retry a submission only if it has a {@code request_id}. Without one,
   * {@code RETRY} of an error without a reason means {@code LOOK}.
   */
  public Action action() {
    return switch (reason) {
      case "UPSTREAM_NOT_READY", "UPSTREAM_ERROR" -> Action.RETRY;
      case "UPSTREAM_ANSWER_TOO_LARGE", CLOSED -> Action.GIVE_UP;
      default ->
          switch (code) {
            case UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED -> Action.RETRY;
            // Without a reason from a proxy, or the gateway died: another call may work.
            case OK, INTERNAL -> reason.isEmpty() ? Action.RETRY : Action.GIVE_UP;
            case UNKNOWN -> reason.isEmpty() ? Action.RETRY : Action.LOOK;
            case RESOURCE_EXHAUSTED -> isLimitOfLoad() ? Action.RETRY : Action.FIX;
            case INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, OUT_OF_RANGE -> Action.FIX;
            case UNAUTHENTICATED -> Action.LOGIN;
            default -> Action.GIVE_UP;
          };
    };
  }

  /** Returns whether the gateway is not available, or a limit of load applies: wait, and repeat. */
  boolean isTransient() {
    return code == Status.Code.UNAVAILABLE || isLimitOfLoad();
  }

  /** Limits of rate and load have a {@code RetryInfo}, limits of size do not. */
  private boolean isLimitOfLoad() {
    return code == Status.Code.RESOURCE_EXHAUSTED && retryAfter != null;
  }

  /** Returns whether the connection may be dead, or lead to an instance that shuts down. */
  boolean wantsNewConnection() {
    return reason.isEmpty() || reason.equals(SILENT) || reason.equals("DRAINING");
  }

  /**
   * Returns whether a failed submission may be sent again: the gateway guarantees that no job was
   * created, or its {@code request_id} prevents a second one.
   */
  boolean maySendAgain(boolean hasId) {
    boolean nothingSent =
        !reason.isEmpty()
            && (code == Status.Code.UNAVAILABLE || code == Status.Code.RESOURCE_EXHAUSTED);
    return action() == Action.RETRY && uid().isEmpty() && (nothingSent || hasId);
  }

  /** Returns a copy for serialization, because the cause may not be serializable. */
  private Object writeReplace() {
    var cause = getCause();
    if (cause != null && !(cause instanceof GatewayException)) {
      var text = new Exception(cause.toString());
      text.setStackTrace(cause.getStackTrace());
      cause = text;
    }
    var copy = new GatewayException(code, getMessage(), cause);
    copy.setStackTrace(getStackTrace());
    copy.reason = reason;
    copy.metadata.putAll(metadata);
    copy.fields.addAll(fields);
    copy.retryAfter = retryAfter;
    return copy;
  }

  @Override
  public String toString() {
    return super.toString() + " [" + code + (reason.isEmpty() ? "]" : ", " + reason + "]");
  }
}
