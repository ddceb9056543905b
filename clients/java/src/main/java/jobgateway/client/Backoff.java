package jobgateway.client;

import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.ThreadLocalRandom;

/**
 * Waits between attempts: as long as the gateway asks for, else a random time below a bound that
 * doubles.
 */
final class Backoff {
  static final Duration LONGEST_WAIT = Duration.ofSeconds(10);
  private static final Duration FIRST_BOUND = Duration.ofMillis(200);

  private Duration bound = FIRST_BOUND;

  void await(Optional<Duration> retryAfter) throws InterruptedException {
    Duration wait =
        retryAfter.orElseGet(
            () -> Duration.ofNanos(ThreadLocalRandom.current().nextLong(bound.toNanos())));
    Duration doubled = bound.multipliedBy(2);
    bound = doubled.compareTo(LONGEST_WAIT) < 0 ? doubled : LONGEST_WAIT;
    Thread.sleep(wait.toMillis());
  }

  void reset() {
    bound = FIRST_BOUND;
  }
}
