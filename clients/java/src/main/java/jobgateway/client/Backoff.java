package jobgateway.client;

import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.ThreadLocalRandom;

/** Waits between attempts: a random time below a bound that doubles, and at least what is asked. */
final class Backoff {
  static final Duration LONGEST_WAIT = Duration.ofSeconds(5);
  private static final Duration FIRST_BOUND = Duration.ofMillis(200);

  private Duration bound = FIRST_BOUND;

  void await(Optional<Duration> retryAfter) throws InterruptedException {
    long millis = bound.toMillis();
    long jittered = ThreadLocalRandom.current().nextLong(millis / 2, millis);
    bound = Duration.ofMillis(Math.min(2 * millis, LONGEST_WAIT.toMillis()));
    Thread.sleep(Math.max(jittered, retryAfter.map(Duration::toMillis).orElse(0L)));
  }

  void reset() {
    bound = FIRST_BOUND;
  }
}
