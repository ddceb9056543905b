package jobgateway.client;

import java.time.Duration;
import java.util.function.LongSupplier;

/** A clock that stands still until it is advanced. */
final class Clock implements LongSupplier {
  private long now;

  void advance(Duration time) {
    now += time.toNanos();
  }

  @Override
  public long getAsLong() {
    return now;
  }
}
