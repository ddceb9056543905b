package jobgateway.client;

import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.ThreadLocalRandom;

/** The waits between attempts: a random time below a bound that doubles, or longer if asked to. */
final class Backoff {
  static final Duration MAX = Duration.ofSeconds(5);
  private static final Duration INITIAL = Duration.ofMillis(200);

  private Duration bound = INITIAL;

  Duration next(Optional<Duration> retryAfter) {
    long millis = bound.toMillis();
    var jittered = Duration.ofMillis(ThreadLocalRandom.current().nextLong(millis / 2, millis));
    bound = Duration.ofMillis(Math.min(2 * millis, MAX.toMillis()));
    return retryAfter.filter(wait -> wait.compareTo(jittered) > 0).orElse(jittered);
  }

  /**
   * Resets the bound if an event arrives long enough after the start. An earlier one does not prove
   * that the watch works: it may break after its first event each time.
   *
   * @param elapsed nanoseconds since the start
   */
  void received(long elapsed) {
    if (elapsed > MAX.toNanos()) {
      bound = INITIAL;
    }
  }
}
