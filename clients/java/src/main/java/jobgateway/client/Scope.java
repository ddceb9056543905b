package jobgateway.client;

import static java.util.concurrent.TimeUnit.NANOSECONDS;

import io.grpc.Context;
import io.grpc.Contexts;
import io.grpc.Deadline;
import io.grpc.Status;
import io.grpc.StatusException;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeoutException;

/**
 * The time in which a call or a watch continues. It ends with its timeout, with the {@code Context}
 * of the thread, with the client, or when any thread closes it.
 */
final class Scope implements AutoCloseable {
  private final CompletableFuture<Void> clientClosed;
  private final CompletableFuture<Void> closed = new CompletableFuture<>();
  private final Duration timeout;

  /** The end of the timeout; null before {@code start}, and without a timeout. */
  private Deadline deadline;

  /** The time after which no attempt begins; null if there is none. */
  private Deadline lastAttempt;

  private GatewayException last;
  private Runnable onClose = () -> {};

  /**
   * @param timeout null if there is none
   */
  Scope(CompletableFuture<Void> clientClosed, Duration timeout) {
    this.clientClosed = clientClosed;
    this.timeout = timeout;
  }

  static Deadline deadlineAfter(Duration timeout) {
    return Deadline.after(NANOSECONDS.convert(timeout), NANOSECONDS);
  }

  /** Starts the timeout, unless it runs already. */
  Scope start() {
    if (timeout != null && deadline == null) {
      deadline = deadlineAfter(timeout);
    }
    return this;
  }

  /**
   * Lets no attempt begin after {@code timeout}, and ends this {@code response} later.
   *
   * @return the end of {@code timeout}
   */
  Deadline limitAttempts(Duration timeout, Duration response) {
    lastAttempt = deadlineAfter(timeout);
    var end = lastAttempt.offset(NANOSECONDS.convert(response), NANOSECONDS);
    deadline = deadline == null ? end : deadline.minimum(end);
    return lastAttempt;
  }

  /** Returns the end of the timeout; null if there is none. */
  Deadline deadline() {
    return deadline;
  }

  /** Returns the end of {@code limit}, or that of the timeout if it is earlier. */
  Deadline deadline(Duration limit) {
    var end = deadlineAfter(limit);
    return deadline == null ? end : end.minimum(deadline);
  }

  /** Sets the function that runs when this is closed; immediately if it is closed already. */
  void onClose(Runnable function) {
    synchronized (this) {
      onClose = function;
    }
    if (closed.isDone()) {
      function.run();
    }
  }

  @Override
  public void close() {
    closed.complete(null);
    Runnable function;
    synchronized (this) {
      function = onClose;
    }
    function.run();
  }

  /**
   * Checks that a wait ends before this does: otherwise it would be in vain.
   *
   * @throws GatewayException with the code {@code DEADLINE_EXCEEDED}
   */
  void checkTime(Duration delay) {
    var end = deadlineAfter(delay);
    for (var each : new Deadline[] {deadline, lastAttempt, Context.current().getDeadline()}) {
      if (each != null && each.isBefore(end)) {
        throw passed();
      }
    }
  }

  /** Waits until the next attempt, unless this ends meanwhile: see {@link #check}. */
  void sleep(Duration delay) throws InterruptedException {
    waitFor(new CompletableFuture<>(), NANOSECONDS.convert(delay));
    check();
    if (hasPassed(lastAttempt)) {
      throw passed();
    }
  }

  /**
   * Waits for a result, unless this ends meanwhile: see {@link #check}. Throws the unchecked
   * exception of the future.
   */
  <T> T await(CompletableFuture<T> future) throws InterruptedException {
    while (!future.isDone()) {
      waitFor(future, Long.MAX_VALUE);
      if (!future.isDone()) {
        check();
      }
    }
    try {
      return future.get();
    } catch (ExecutionException failed) {
      if (failed.getCause() instanceof RuntimeException error) {
        throw error;
      }
      if (failed.getCause() instanceof Error error) {
        throw error;
      }
      throw new IllegalStateException(failed.getCause());
    }
  }

  private void waitFor(CompletableFuture<?> future, long nanos) throws InterruptedException {
    var context = Context.current();
    var over = new CompletableFuture<Void>();
    Context.CancellationListener listener = ended -> over.complete(null);
    context.addListener(listener, Runnable::run);
    try {
      long left = deadline == null ? nanos : Math.min(nanos, deadline.timeRemaining(NANOSECONDS));
      CompletableFuture.anyOf(future, over, closed, clientClosed).get(left, NANOSECONDS);
    } catch (TimeoutException | ExecutionException ended) {
      // The caller finds out why.
    } finally {
      context.removeListener(listener);
      // Removes this wait from the futures, which may live as long as the client.
      over.complete(null);
    }
  }

  /**
   * Returns the failure of a call.
   *
   * @throws GatewayException if this has ended: see {@link #check}
   */
  GatewayException failure(StatusException error) throws InterruptedException {
    if (Thread.interrupted()) {
      throw new InterruptedException();
    }
    var failure = GatewayException.of(error);
    // The status of a call that ended with this scope says less than the failure before it.
    boolean isEcho =
        failure.reason().isEmpty()
            && (failure.code() == Status.Code.CANCELLED
                || failure.code() == Status.Code.DEADLINE_EXCEEDED);
    if (last == null || !isEcho) {
      last = failure;
    }
    check();
    return failure;
  }

  /** Notes the failure that becomes the cause if this ends before the next attempt. */
  void failed(GatewayException failure) {
    last = failure;
  }

  /** Throws an exception if this was closed. */
  void checkOpen() {
    if (clientClosed.isDone()) {
      throw GatewayException.closed("the client is closed");
    }
    if (closed.isDone()) {
      throw GatewayException.closed("the watch is closed");
    }
  }

  /**
   * Throws an exception if this has ended.
   *
   * @throws GatewayException with the reason {@code CLOSED}; or with the code {@code
   *     DEADLINE_EXCEEDED} or {@code CANCELLED}, and the last failure as its cause, or that of the
   *     cancellation if no attempt has failed
   */
  private void check() {
    checkOpen();
    var context = Context.current();
    if (context.isCancelled()) {
      var cause = last == null ? context.cancellationCause() : last;
      throw GatewayException.of(Contexts.statusFromCancelled(context), cause);
    }
    if (hasPassed(deadline) || hasPassed(context.getDeadline())) {
      throw passed();
    }
  }

  private GatewayException passed() {
    var message =
        last == null
            ? "the time is over"
            : last.getMessage() + ", and no time is left for another attempt";
    return GatewayException.of(Status.DEADLINE_EXCEEDED.withDescription(message), last);
  }

  private static boolean hasPassed(Deadline deadline) {
    return deadline != null && deadline.isExpired();
  }
}
