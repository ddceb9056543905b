package jobgateway.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNotSame;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.Context;
import io.grpc.Status.Code;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.IntFunction;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(60)
class CredentialTest {
  private final ExecutorService threads = Executors.newCachedThreadPool();
  private final CompletableFuture<Void> clientClosed = new CompletableFuture<>();
  private final Scope scope = new Scope(clientClosed, null);
  private final AtomicInteger logins = new AtomicInteger();

  /** Ends a login that waits for it. */
  private final CompletableFuture<String> signedIn = new CompletableFuture<>();

  private final CountDownLatch begun = new CountDownLatch(1);

  @AfterEach
  void stop() {
    signedIn.cancel(true);
    threads.shutdownNow();
  }

  /** Returns a credential whose first login returns "1", and whose second one waits. */
  private Credential credential() {
    return credential(call -> signedIn.join());
  }

  private Credential credential(IntFunction<String> later) {
    return Credential.ofLogin(
        () -> {
          int call = logins.incrementAndGet();
          if (call == 1) {
            return "1";
          }
          begun.countDown();
          return later.apply(call);
        });
  }

  /** Makes calls that all wait for the same login. */
  private <T> List<Future<T>> waiting(int count, Callable<T> call) throws InterruptedException {
    var calls = new ArrayList<Future<T>>();
    for (int each = 0; each < count; each++) {
      calls.add(threads.submit(call));
    }
    begun.await();
    while (clientClosed.getNumberOfDependents() < count) {
      if (Thread.interrupted()) {
        throw new InterruptedException("the test took too long");
      }
      Thread.onSpinWait();
    }
    return calls;
  }

  @Test
  void aLoginWithTheSameTokenCountsForAllCalls() throws Exception {
    var credential = credential();
    var first = credential.current(scope);
    var renewals = waiting(20, () -> credential.renew(first, scope));
    signedIn.complete("1");
    for (var renewal : renewals) {
      assertTrue(renewal.get());
    }
    assertTrue(credential.renew(first, scope));
    assertEquals(2, logins.get());
    assertNotSame(first, credential.current(scope));
    assertEquals("1", credential.current(scope).token());
  }

  @Test
  void aLoginThatFailsIsRepeatedForTheOtherCalls() throws Exception {
    var credential = credential();
    var first = credential.current(scope);
    var renewals = waiting(2, () -> credential.renew(first, scope));
    signedIn.completeExceptionally(new IllegalStateException("no network"));
    for (var renewal : renewals) {
      var failed = assertThrows(ExecutionException.class, renewal::get).getCause();
      assertEquals("no network", failed.getMessage());
    }
    assertEquals(3, logins.get());
  }

  @Test
  void aLoginThatFailsOnceEndsOneCall() throws Exception {
    var credential = credential(call -> call == 2 ? signedIn.join() : "3");
    var first = credential.current(scope);
    var renewals = waiting(20, () -> credential.renew(first, scope));
    signedIn.completeExceptionally(new IllegalStateException("no network"));
    int failed = 0;
    for (var renewal : renewals) {
      try {
        assertTrue(renewal.get());
      } catch (ExecutionException error) {
        failed++;
      }
    }
    assertEquals(1, failed);
    assertEquals(3, logins.get());
  }

  @Test
  void theTokenIsKnownDuringALogin() throws Exception {
    var credential = credential();
    var first = credential.current(scope);
    waiting(20, () -> credential.renew(first, scope));
    assertSame(first, credential.current(scope));
  }

  @Test
  void withoutAnotherTokenTheFirstOneStays() throws Exception {
    var credential = credential();
    var first = credential.current(scope);
    signedIn.complete(null);
    assertFalse(credential.renew(first, scope));
    assertSame(first, credential.current(scope));
  }

  @Test
  void closingTheClientEndsTheWaitForALogin() throws Exception {
    var credential = credential();
    var first = credential.current(scope);
    var renewals = waiting(20, () -> credential.renew(first, scope));
    clientClosed.complete(null);
    for (var renewal : renewals) {
      var failed = assertThrows(ExecutionException.class, renewal::get).getCause();
      assertEquals(
          GatewayException.CLOSED, assertInstanceOf(GatewayException.class, failed).reason());
    }
  }

  @Test
  void theEndOfOneCallDoesNotEndTheLogin() throws Exception {
    var credential = credential();
    var first = credential.current(scope);
    try (var context = Context.current().withCancellation()) {
      var own = threads.submit(context.wrap(() -> credential.renew(first, scope)));
      begun.await();
      context.cancel(null);
      var failed = assertThrows(ExecutionException.class, own::get).getCause();
      assertEquals(Code.CANCELLED, assertInstanceOf(GatewayException.class, failed).code());
    }
    var other = threads.submit(() -> credential.renew(first, scope));
    signedIn.complete("2");
    assertTrue(other.get());
    assertEquals(2, logins.get());
  }

  @Test
  void aTokenThatNoHeaderCanCarryIsRejectedWithoutBeingShown() {
    for (var token : List.of("secret\n", "sécret", "")) {
      var error = assertThrows(IllegalArgumentException.class, () -> Credential.ofToken(token));
      assertFalse(error.getMessage().contains("cret"));
      assertThrows(
          IllegalArgumentException.class, () -> Credential.ofLogin(() -> token).current(scope));
    }
  }
}
