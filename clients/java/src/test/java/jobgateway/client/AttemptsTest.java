package jobgateway.client;

import static jobgateway.client.Events.failure;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.Status.Code;
import org.junit.jupiter.api.Test;

class AttemptsTest {
  private final GatewayException defect = failure(Code.INTERNAL, "UPSTREAM_ERROR");
  private final GatewayException outage = failure(Code.UNAVAILABLE, "UPSTREAM_OUTAGE");
  private final GatewayException unreachable = failure(Code.UNKNOWN, "");

  /** Returns the number of attempts that end with a failure, up to 100. */
  private static int count(Attempts attempts, GatewayException failure) {
    int count = 1;
    while (count < 100 && attempts.mayRepeat(failure)) {
      count++;
    }
    return count;
  }

  @Test
  void aCallIsAttemptedFiveTimes() {
    assertEquals(5, count(new Attempts(failure -> true, false), outage));
    assertEquals(1, count(new Attempts(failure -> false, false), outage));
  }

  @Test
  void aWaitContinuesOverAnOutageOnly() {
    assertEquals(100, count(new Attempts(failure -> true, true), outage));
    assertEquals(100, count(new Attempts(failure -> true, true), unreachable));
    assertEquals(5, count(new Attempts(failure -> true, true), defect));
  }

  @Test
  void anOutageDoesNotCountInAWait() {
    var attempts = new Attempts(failure -> true, true);
    assertEquals(100, count(attempts, outage));
    for (int attempt = 1; attempt < 5; attempt++) {
      assertTrue(attempts.mayRepeat(defect));
    }
    assertFalse(attempts.mayRepeat(defect));
  }
}
