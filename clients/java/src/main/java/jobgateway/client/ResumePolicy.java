package jobgateway.client;

import io.grpc.ManagedChannel;
import io.grpc.Status;
import java.time.Duration;
import java.util.Optional;
import jobgateway.v1.JobEvent;

/**
 * Decides whether, when and how a watch resumes after each failed stream (docs/clients/index.md).
 */
class ResumePolicy {

  /** The reason why a watch resumes with another stream, and how. */
  record Resumption(
      Status.Code code, String reason, Duration delay, boolean newConnection, boolean freshToken) {

    /**
     * Waits at least for {@code atLeast}, then gets what the next stream needs.
     *
     * @param used the channel of the failed stream
     */
    void prepare(Gateway gateway, ManagedChannel used, Duration atLeast)
        throws InterruptedException {
      Thread.sleep(Math.max(delay.toMillis(), atLeast.toMillis()));
      if (newConnection) {
        gateway.reconnect(used);
      }
      if (freshToken) {
        gateway.logIn();
      }
    }
  }

  private final Backoff backoff = new Backoff();
  private long openedAt;
  private boolean received;
  private boolean tokenUnproven;
  private Optional<Object> repeatableAt = Optional.empty();

  /** Notes that a stream begins. */
  void opened() {
    openedAt = System.nanoTime();
  }

  /** Notes an event. */
  void received(boolean provesToken) {
    received = true;
    tokenUnproven &= !provesToken;
    // One event does not prove that the stream works: it may break after its first event each time.
    if (System.nanoTime() - openedAt > Backoff.MAX.toNanos()) {
      backoff.reset();
    }
  }

  /**
   * Returns whether an event proves that the upstream accepts the token. Some heartbeats do not:
   * those before the first read has ended, and those between a refusal and the read that confirms
   * it.
   */
  static boolean provesToken(JobEvent event) {
    return switch (event.getPayloadCase()) {
      case JOB, CONTENT_CHUNK -> true;
      case HEARTBEAT ->
          event.getHeartbeat().hasObserveTime() && event.getHeartbeat().getLastFailure().isEmpty();
      default -> false;
    };
  }

  /** Resumes after a stream that was cancelled because it was silent. */
  Resumption afterSilence() {
    var delay = backoff.next(Optional.empty());
    return new Resumption(Status.Code.CANCELLED, "SILENT", delay, true, false);
  }

  /**
   * Decides how to resume after a failed stream; empty if the failure is final.
   *
   * @param position changes with each event after which a watch can continue
   */
  Optional<Resumption> decide(Failure failure, Object position) {
    boolean mayLogIn = failure.code() == Status.Code.UNAUTHENTICATED && !tokenUnproven;
    return mayLogIn || mayResume(failure, position)
        ? Optional.of(resume(failure))
        : Optional.empty();
  }

  /**
   * Resumes after a failure: if the token was rejected, with a fresh one, which the next events
   * have to prove.
   */
  Resumption resume(Failure failure) {
    boolean freshToken = failure.code() == Status.Code.UNAUTHENTICATED;
    tokenUnproven |= freshToken;
    return new Resumption(
        failure.code(),
        failure.reason(),
        backoff.next(failure.retryAfter()),
        // A new connection is made immediately. The old one would wait up to two minutes.
        failure.isForeign() || failure.reason().equals("DRAINING"),
        freshToken);
  }

  /** Returns whether another stream with the same token may help. */
  boolean mayResume(Failure failure, Object position) {
    return failure.isTransient() || failure.isForeign() && isBroken(failure.code(), position);
  }

  /** Returns whether a failure that another stream may repeat is the first one at a position. */
  final boolean isFirstAt(Object position) {
    boolean first = !repeatableAt.equals(Optional.of(position));
    repeatableAt = Optional.of(position);
    return first;
  }

  /**
   * Returns whether a status without the gateway's {@code ErrorInfo} means a broken stream, rather
   * than a wrong address or a size limit.
   */
  private boolean isBroken(Status.Code code, Object position) {
    return switch (code) {
      case OK, CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE -> true;
      // A message over this client's own receive limit causes this status, and would cause it
      // again.
      case RESOURCE_EXHAUSTED, OUT_OF_RANGE -> isFirstAt(position) && received;
      default -> received;
    };
  }
}
