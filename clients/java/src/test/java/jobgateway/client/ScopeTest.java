package jobgateway.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;

import io.grpc.Context;
import io.grpc.Status;
import io.grpc.Status.Code;
import io.grpc.StatusException;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(60)
class ScopeTest {
  private static final Duration LONG = Duration.ofDays(200_000);

  private final CompletableFuture<Void> clientClosed = new CompletableFuture<>();

  private Scope scope(Duration timeout) {
    return new Scope(clientClosed, timeout).start();
  }

  @Test
  void aWaitLeavesNothingBehind() throws Exception {
    var scope = scope(null);
    for (int wait = 0; wait < 100; wait++) {
      scope.sleep(Duration.ZERO);
    }
    assertEquals(0, clientClosed.getNumberOfDependents());
  }

  @Test
  void aWaitEndsWithItsScope() {
    assertEnd(Code.DEADLINE_EXCEEDED, "", scope(Duration.ofNanos(1)));
    var left = scope(null);
    left.close();
    assertEnd(Code.CANCELLED, GatewayException.CLOSED, left);
    clientClosed.complete(null);
    assertEnd(Code.CANCELLED, GatewayException.CLOSED, scope(LONG));
  }

  @Test
  void aLoginThatHangsEndsWithItsScope() {
    var hanging = new CompletableFuture<Void>();
    var over = scope(Duration.ofNanos(1));
    var failure = assertThrows(GatewayException.class, () -> over.await(hanging));
    assertEquals(Code.DEADLINE_EXCEEDED, failure.code());
  }

  private static void assertEnd(Code code, String reason, Scope scope) {
    var cause = Events.failure(Code.UNAVAILABLE, "DRAINING");
    scope.failed(cause);
    var failure = assertThrows(GatewayException.class, () -> scope.sleep(LONG));
    assertEquals(code, failure.code());
    assertEquals(reason, failure.reason());
    assertSame(reason.isEmpty() ? cause : null, failure.getCause());
  }

  @Test
  void theCauseIsTheFailureBeforeTheEnd() throws Exception {
    var scope = scope(null);
    var cause = scope.failure(Events.error(Code.UNAVAILABLE, "DRAINING", java.util.Map.of()));
    try (var context = Context.current().withCancellation()) {
      context.cancel(null);
      var echo = new StatusException(Status.CANCELLED);
      var failure =
          assertThrows(GatewayException.class, () -> context.call(() -> scope.failure(echo)));
      assertEquals(Code.CANCELLED, failure.code());
      assertSame(cause, failure.getCause());
    }
  }

  @Test
  void theCauseOfACancelledContextIsKept() throws Exception {
    try (var context = Context.current().withCancellation()) {
      var cause = new IllegalStateException("no longer needed");
      context.cancel(cause);
      var failure =
          assertThrows(
              GatewayException.class,
              () ->
                  context.call(
                      () -> {
                        scope(null).sleep(LONG);
                        return null;
                      }));
      assertSame(cause, failure.getCause());
    }
  }

  @Test
  void noAttemptBeginsAfterTheLastOne() {
    var scope = scope(null);
    scope.checkTime(LONG);
    scope.limitAttempts(Duration.ofMinutes(1), LONG);
    scope.checkTime(Duration.ofSeconds(30));
    var cause = Events.failure(Code.UNAVAILABLE, "DRAINING");
    scope.failed(cause);
    var failure = assertThrows(GatewayException.class, () -> scope.checkTime(LONG));
    assertEquals(Code.DEADLINE_EXCEEDED, failure.code());
    assertSame(cause, failure.getCause());
    scope.limitAttempts(Duration.ZERO, LONG);
    assertThrows(GatewayException.class, () -> scope.sleep(Duration.ZERO));
  }

  @Test
  void noWaitBeginsThatWouldEndAfterItsScope() throws Exception {
    var scope = scope(Duration.ofMinutes(1));
    scope.checkTime(Duration.ofSeconds(30));
    assertThrows(GatewayException.class, () -> scope.checkTime(LONG));
    var endless = scope(null);
    var timer = Executors.newSingleThreadScheduledExecutor();
    try (var context = Context.current().withDeadlineAfter(1, TimeUnit.MINUTES, timer)) {
      context.run(() -> assertThrows(GatewayException.class, () -> endless.checkTime(LONG)));
    } finally {
      timer.shutdownNow();
    }
  }

  @Test
  void anyThreadMayCloseIt() throws Exception {
    var scope = scope(null);
    var cancelled = new CountDownLatch(1);
    scope.onClose(cancelled::countDown);
    var threads = Executors.newSingleThreadExecutor();
    try {
      threads.submit(scope::close);
      cancelled.await();
      var late = new CountDownLatch(1);
      scope.onClose(late::countDown);
      late.await();
    } finally {
      threads.shutdown();
    }
  }
}
