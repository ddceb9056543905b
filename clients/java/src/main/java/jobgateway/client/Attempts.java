package jobgateway.client;

import java.util.function.Predicate;

/** Limits the attempts of a unary call. */
final class Attempts {
  private static final int MAX = 5;

  private final Predicate<GatewayException> mayRetry;
  private final boolean waits;
  private int failures;

  /**
   * @param waits whether the call waits for a job over any outage: failures that end with the
   *     outage do not count
   */
  Attempts(Predicate<GatewayException> mayRetry, boolean waits) {
    this.mayRetry = mayRetry;
    this.waits = waits;
  }

  /** Counts a failed attempt, and returns whether the same call may work later. */
  boolean mayRepeat(GatewayException failure) {
    boolean isOutage = failure.isTransient() || failure.reason().isEmpty();
    if (!waits || !isOutage) {
      failures++;
    }
    return failures < MAX && mayRetry.test(failure);
  }
}
