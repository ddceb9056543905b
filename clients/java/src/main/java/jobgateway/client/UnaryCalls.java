package jobgateway.client;

import static java.util.concurrent.TimeUnit.MILLISECONDS;

import io.grpc.StatusException;
import java.time.Duration;
import java.util.function.Consumer;
import jobgateway.v1.JobServiceGrpc.JobServiceBlockingV2Stub;

/**
 * Makes unary calls, and makes them again where the failure asks for that.
 *
 * @param onFailure told of each failure, before what is done about it
 */
record UnaryCalls(Gateway gateway, Consumer<Failure> onFailure) {
  private static final int MAX_CALLS = 5;

  interface Call<T> {
    T with(JobServiceBlockingV2Stub stub) throws StatusException;
  }

  /**
   * Calls, and calls again after a wait, or once with a fresh token.
   *
   * @param repeatable whether a second call does no more than the first one
   * @throws StatusException of the last call
   */
  <T> T call(Duration deadline, boolean repeatable, Call<T> call)
      throws StatusException, InterruptedException {
    var backoff = new Backoff();
    boolean tokenIsFresh = false;
    for (int calls = 1; ; calls++) {
      try {
        return call.with(gateway.stub().withDeadlineAfter(deadline.toMillis(), MILLISECONDS));
      } catch (StatusException error) {
        var failure = Failure.of(error);
        onFailure.accept(failure);
        if (failure.action() == Failure.Action.RETRY && repeatable && calls < MAX_CALLS) {
          backoff.await(failure.retryAfter());
        } else if (failure.action() == Failure.Action.LOGIN && !tokenIsFresh) {
          gateway.logIn();
          tokenIsFresh = true;
        } else {
          throw error;
        }
      }
    }
  }
}
