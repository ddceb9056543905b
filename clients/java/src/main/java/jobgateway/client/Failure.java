package jobgateway.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.util.Durations;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;
import jobgateway.v1.WatchFailure;

/**
 * The error of a call, with its details.
 *
 * @param reason from {@code ErrorInfo}; empty if the error does not come from the gateway
 * @param fields from {@code BadRequest}: invalid field to description
 * @param retryAfter from {@code RetryInfo}
 */
record Failure(
    Status.Code code, String reason, Map<String, String> fields, Optional<Duration> retryAfter) {

  /** The domain of the gateway's {@code ErrorInfo}. */
  private static final String DOMAIN = "jobgateway";

  /** The reaction of a client to an error. */
  enum Action {
    RETRY,
    FIX,
    LOGIN,
    LOOK,
    GIVE_UP
  }

  static Failure of(StatusException error) {
    String reason = "";
    Map<String, String> fields = new LinkedHashMap<>();
    Optional<Duration> retryAfter = Optional.empty();
    try {
      for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
        if (detail.is(ErrorInfo.class)) {
          var info = detail.unpack(ErrorInfo.class);
          reason = info.getDomain().equals(DOMAIN) ? info.getReason() : reason;
        } else if (detail.is(BadRequest.class)) {
          for (var violation : detail.unpack(BadRequest.class).getFieldViolationsList()) {
            fields.put(violation.getField(), violation.getDescription());
          }
        } else if (detail.is(RetryInfo.class)) {
          var delay = detail.unpack(RetryInfo.class).getRetryDelay();
          retryAfter = Optional.of(Duration.ofNanos(Durations.toNanos(delay)));
        }
      }
    } catch (InvalidProtocolBufferException malformed) {
      reason = ""; // not from the gateway, whose details are valid
    }
    return new Failure(error.getStatus().getCode(), reason, fields, retryAfter);
  }

  /** Returns the end of one watch of a {@code WatchJobs} stream as if it were that of a call. */
  static Failure of(WatchFailure failure) {
    var code = Status.fromCodeValue(failure.getCode()).getCode();
    Optional<Duration> retryAfter =
        failure.hasRetryDelay()
            ? Optional.of(Duration.ofNanos(Durations.toNanos(failure.getRetryDelay())))
            : Optional.empty();
    return new Failure(code, failure.getReason(), Map.of(), retryAfter);
  }

  /** Returns whether the error is a proxy's or a library's, not the gateway's. */
  boolean isForeign() {
    return reason.isEmpty();
  }

  /** Returns whether the gateway is not available, or a limit of load applies: wait, and repeat. */
  boolean isTransient() {
    return code == Status.Code.UNAVAILABLE
        || code == Status.Code.RESOURCE_EXHAUSTED && retryAfter.isPresent();
  }

  /**
   * Returns the reaction to the error: by the reason if the code alone would be misleading,
   * otherwise by the code. Retry a submission only if it has a {@code request_id}. Without one,
   * {@code RETRY} of an error without a reason means {@code LOOK}.
   */
  Action action() {
    // From a proxy, or the gateway died: another call may work.
    if (isForeign() && (code == Status.Code.INTERNAL || code == Status.Code.UNKNOWN)) {
      return Action.RETRY;
    }
    return switch (reason) {
      case "UPSTREAM_NOT_READY", "UPSTREAM_ERROR" -> Action.RETRY;
      case "UPSTREAM_ANSWER_TOO_LARGE" -> Action.GIVE_UP;
      default ->
          switch (code) {
            case UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED -> Action.RETRY;
            // Limits of rate and load have a RetryInfo, limits of size do not.
            case RESOURCE_EXHAUSTED -> retryAfter.isPresent() ? Action.RETRY : Action.FIX;
            case INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, OUT_OF_RANGE -> Action.FIX;
            case UNAUTHENTICATED -> Action.LOGIN;
            case UNKNOWN -> Action.LOOK;
            default -> Action.GIVE_UP;
          };
    };
  }
}
