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

/**
 * What an error of a call says.
 *
 * @param reason that of {@code ErrorInfo}; empty if the error is not the gateway's
 * @param fields what is wrong with which field of the request
 */
record Failure(
    Status.Code code, String reason, Map<String, String> fields, Optional<Duration> retryAfter) {

  /** That of the gateway's own {@code ErrorInfo}. */
  private static final String DOMAIN = "jobgateway";

  enum Action {
    RETRY,
    MEND,
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
      reason = ""; // the gateway's can be read
    }
    return new Failure(error.getStatus().getCode(), reason, fields, retryAfter);
  }

  /**
   * What to do about it: by the reason if that says more than the code. {@code RETRY} of a
   * submission is safe only with a {@code request_id}: without one, {@code RETRY} of an error
   * without a reason means {@code LOOK}.
   */
  Action action() {
    // A proxy said it, or the gateway died: another call may work.
    if (reason.isEmpty() && (code == Status.Code.INTERNAL || code == Status.Code.UNKNOWN)) {
      return Action.RETRY;
    }
    return switch (reason) {
      case "UPSTREAM_NOT_READY", "UPSTREAM_ERROR" -> Action.RETRY;
      case "UPSTREAM_ANSWER_TOO_LARGE" -> Action.GIVE_UP;
      default ->
          switch (code) {
            case UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED -> Action.RETRY;
            // A limit of rate or load says when to come back; a limit of size does not.
            case RESOURCE_EXHAUSTED -> retryAfter.isPresent() ? Action.RETRY : Action.MEND;
            case INVALID_ARGUMENT, NOT_FOUND, OUT_OF_RANGE -> Action.MEND;
            case UNAUTHENTICATED -> Action.LOGIN;
            case UNKNOWN -> Action.LOOK;
            default -> Action.GIVE_UP;
          };
    };
  }
}
