package jobgateway.client;

import static java.util.concurrent.TimeUnit.MILLISECONDS;

import io.grpc.StatusException;
import java.time.Duration;
import java.util.function.Consumer;
import jobgateway.v1.JobServiceGrpc.JobServiceBlockingV2Stub;

/**
 * Makes unary calls, with retries.
 *
 * @param onFailure receives each failure, before the reaction to it
 */
record UnaryCalls(Gateway gateway, Consumer<Failure> onFailure) {
  private static final int MAX_ATTEMPTS = 5;

  interface Call<T> {
    T with(JobServiceBlockingV2Stub stub) throws StatusException;
  }

  /**
   * Makes a call. Retries it after a wait, or once with a fresh token, if the error allows that.
   *
   * @param repeatable whether a second call has no further effect
   * @throws StatusException from the last call
   */
  <T> T call(Duration deadline, boolean repeatable, Call<T> call)
      throws StatusException, InterruptedException {
    var backoff = new Backoff();
    boolean loggedIn = false;
    for (int attempt = 1; ; attempt++) {
      try {
        return call.with(gateway.stub().withDeadlineAfter(deadline.toMillis(), MILLISECONDS));
      } catch (StatusException error) {
        var failure = Failure.of(error);
        onFailure.accept(failure);
        if (failure.action() == Failure.Action.RETRY && repeatable && attempt < MAX_ATTEMPTS) {
          Thread.sleep(backoff.next(failure.retryAfter()).toMillis());
        } else if (failure.action() == Failure.Action.LOGIN && !loggedIn) {
          gateway.logIn();
          loggedIn = true;
        } else {
          throw error;
        }
      }
    }
  }
}
