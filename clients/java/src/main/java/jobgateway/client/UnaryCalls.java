package jobgateway.client;

import io.grpc.Status;
import io.grpc.StatusException;
import jobgateway.v1.Job;
import jobgateway.v1.JobServiceGrpc.JobServiceBlockingV2Stub;

/** Makes unary calls, with retries. */
record UnaryCalls(Session session) {

  interface Method {
    Job call(JobServiceBlockingV2Stub stub) throws StatusException;
  }

  /**
   * Makes a call. Retries it after a wait, or once with a fresh token, if the failure allows that.
   *
   * @param uid the job that the call is about; 0 for a submission
   * @throws GatewayException the last failure, a damaged result, or the end of the scope
   */
  Job call(long uid, Method method, Scope scope, Attempts attempts, Options options)
      throws InterruptedException {
    var backoff = new Backoff();
    boolean loggedIn = false;
    while (true) {
      var access = session.access(uid, scope);
      GatewayException failure;
      try (access) {
        var job = method.call(access.stub());
        if (access.isReplayed()) {
          options.replayed();
        }
        new Content().verify(job, false);
        return job;
      } catch (StatusException error) {
        failure = scope.failure(error);
      }
      boolean again = attempts.mayRepeat(failure);
      boolean created = uid == 0 && failure.uid().isPresent();
      if (failure.code() == Status.Code.UNAUTHENTICATED && !loggedIn && !created) {
        loggedIn = true;
        again = access.renewToken();
      }
      if (!again) {
        throw failure;
      }
      access.waitFor(Retry.of(failure, backoff), options);
    }
  }
}
