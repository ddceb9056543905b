package jobgateway.client;

import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.ThreadLocalRandom;

/** Waits between attempts: a random time below a bound that doubles, or longer if asked to. */
final class Backoff {
  static final Duration MAX = Duration.ofSeconds(5);
  private static final Duration INITIAL = Duration.ofMillis(200);

  private Duration bound = INITIAL;

  void await(Optional<Duration> retryAfter) throws InterruptedException {
    long millis = bound.toMillis();
    long jittered = ThreadLocalRandom.current().nextLong(millis / 2, millis);
    bound = Duration.ofMillis(Math.min(2 * millis, MAX.toMillis()));
    Thread.sleep(Math.max(jittered, retryAfter.map(Duration::toMillis).orElse(0L)));
  }

  void reset() {
    bound = INITIAL;
  }
}
