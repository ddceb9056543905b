package jobgateway.client;

import static java.util.concurrent.TimeUnit.MILLISECONDS;

import io.grpc.Status;
import io.grpc.StatusException;
import java.time.Duration;
import java.util.function.Predicate;
import jobgateway.v1.Job;
import jobgateway.v1.JobServiceGrpc.JobServiceBlockingV2Stub;

/** Makes unary calls, with retries. */
record UnaryCalls(Session session) {
  static final int FEW_ATTEMPTS = 5;

  interface Method {
    Job call(JobServiceBlockingV2Stub stub) throws StatusException;
  }

  /**
   * Makes a call. Retries it after a wait, or once with a fresh token, if the failure allows that.
   *
   * @param maxAttempts the number of attempts
   * @param uid the job that the call is about, or 0
   * @param limit the time after which the connection counts as dead
   * @throws GatewayException the last failure, or a damaged result
   */
  Job call(
      Method method,
      long uid,
      Duration limit,
      int maxAttempts,
      Predicate<GatewayException> mayRetry,
      Options options)
      throws InterruptedException {
    var backoff = new Backoff();
    boolean loggedIn = false;
    GatewayException last = null;
    for (int attempt = 1; ; attempt++) {
      try (var access = session.access(uid)) {
        var stub = access.stub().withDeadlineAfter(limit.toMillis(), MILLISECONDS);
        GatewayException failure;
        try {
          var job = method.call(stub);
          if (access.isReplayed()) {
            options.replayed();
          }
          new Content().verify(job, false);
          return job;
        } catch (StatusException error) {
          failure = session.failure(error, last);
        }
        boolean again = mayRetry.test(failure);
        if (failure.code() == Status.Code.UNAUTHENTICATED && !loggedIn) {
          loggedIn = true;
          again = access.renewToken();
        }
        if (!again || attempt == maxAttempts) {
          throw failure;
        }
        var retry = Retry.of(failure, backoff);
        options.retrying(retry);
        last = failure;
        access.prepare(retry);
      }
    }
  }
}
