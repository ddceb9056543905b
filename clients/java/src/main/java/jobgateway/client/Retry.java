package jobgateway.client;

import java.time.Duration;
import java.util.OptionalLong;

/**
 * A further attempt after a failure.
 *
 * @param failure the reason
 * @param uid the job that {@link WatchAll} watches again on the same stream; empty if the call is
 *     made again, or the stream is resumed
 * @param jobs the number of jobs that have not ended
 * @param delay the time until the attempt
 * @param newConnection whether a new connection replaces that of the failed attempt
 */
public record Retry(
    GatewayException failure, OptionalLong uid, int jobs, Duration delay, boolean newConnection) {

  /** Returns the next call. A new connection does not wait for the backoff of the old one. */
  static Retry of(GatewayException failure, Backoff backoff) {
    var delay = backoff.next(failure.retryAfter());
    return new Retry(failure, OptionalLong.empty(), 1, delay, failure.wantsNewConnection());
  }
}
