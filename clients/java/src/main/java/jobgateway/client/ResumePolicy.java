package jobgateway.client;

import io.grpc.Status;
import java.time.Duration;
import java.util.Objects;
import java.util.function.LongSupplier;
import jobgateway.v1.JobEvent;

/**
 * Decides whether, when and how a watch resumes after each failed stream (docs/clients/index.md).
 */
class ResumePolicy {
  /** The time in which a stream has to end after its last job. */
  static final Duration END = Duration.ofSeconds(5);

  private final LongSupplier clock;
  private final Backoff backoff = new Backoff();
  private long openedAt;
  private boolean received;
  private boolean tokenUnproven;

  /** The position of the last failure that another stream may repeat; null before the first. */
  private Object repeatableAt;

  /**
   * @param clock in nanoseconds, such as {@code System::nanoTime}
   */
  ResumePolicy(LongSupplier clock) {
    this.clock = clock;
  }

  /** Notes that a stream begins. */
  void opened() {
    openedAt = clock.getAsLong();
  }

  /** Notes an event. */
  void received(boolean provesToken) {
    received = true;
    tokenUnproven &= !provesToken;
    backoff.received(clock.getAsLong() - openedAt);
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

  /** Returns whether a fresh token may help. Get one before {@code decide}. */
  final boolean wantsToken(GatewayException failure) {
    return failure.code() == Status.Code.UNAUTHENTICATED && !tokenUnproven;
  }

  /**
   * Decides how to resume after a failed stream.
   *
   * @param position changes with each event after which a watch can continue
   * @param renewed whether a fresh token was wanted, and there is one
   * @throws GatewayException the failure, if it is final
   */
  final Retry decide(GatewayException failure, Object position, boolean renewed) {
    tokenUnproven |= renewed;
    if (!renewed && !mayResume(failure, position)) {
      throw failure;
    }
    return retry(failure);
  }

  /** Returns the next stream. */
  final Retry retry(GatewayException failure) {
    return Retry.of(failure, backoff);
  }

  /** Returns whether another stream with the same token may help. */
  boolean mayResume(GatewayException failure, Object position) {
    return failure.isTransient()
        || failure.reason().equals(GatewayException.SILENT)
        || failure.reason().isEmpty() && isBroken(failure.code(), position);
  }

  /** Returns whether a failure that another stream may repeat is the first one at a position. */
  final boolean isFirstAt(Object position) {
    boolean first = !Objects.equals(repeatableAt, position);
    repeatableAt = position;
    return first;
  }

  /**
   * Returns whether a status without the gateway's {@code ErrorInfo} means a broken stream, rather
   * than a wrong address or a size limit.
   */
  private boolean isBroken(Status.Code code, Object position) {
    return switch (code) {
      case OK, CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, INTERNAL -> true;
      // A message over this client's own receive limit causes this status, and would cause it
      // again.
      case RESOURCE_EXHAUSTED, OUT_OF_RANGE -> isFirstAt(position) && received;
      default -> received;
    };
  }
}
