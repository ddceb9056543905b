package jobgateway.client;

import static org.junit.jupiter.api.Assertions.assertDoesNotThrow;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assertions.fail;

import com.google.protobuf.util.Durations;
import com.google.rpc.RetryInfo;
import io.grpc.Context;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Status;
import io.grpc.Status.Code;
import io.grpc.StatusException;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import jobgateway.v1.ContentFormat;
import jobgateway.v1.GetJobRequest;
import jobgateway.v1.Job;
import jobgateway.v1.JobEvent;
import jobgateway.v1.SendJobRequest;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.function.Executable;

@Timeout(60)
class ClientTest {
  private final ScriptedGateway gateway = new ScriptedGateway();
  private final Client client = gateway.client();
  private final ExecutorService threads = Executors.newCachedThreadPool();
  private static final Duration LIMIT = Duration.ofMinutes(2);

  private final CountDownLatch waiting = new CountDownLatch(1);

  @AfterEach
  void close() {
    client.close();
    gateway.close();
    threads.shutdownNow();
  }

  private static SendJobRequest request(String id) {
    return SendJobRequest.newBuilder().setRequestId(id).build();
  }

  private static Exception proxyError(Status status) {
    return status.withDescription("from a proxy").asException();
  }

  private static void end(StreamObserver<JobEvent> response, long uid) {
    response.onNext(Events.end(uid));
    response.onCompleted();
  }

  private static void assertClosed(Throwable error) {
    var failure = assertInstanceOf(GatewayException.class, error);
    assertEquals(GatewayException.CLOSED, failure.reason());
    assertEquals(Action.GIVE_UP, failure.action());
  }

  @Test
  void aRunWithoutCallbacksContinuesAsAWatch() throws Exception {
    gateway.onRun =
        (call, request, response) -> {
          response.onNext(Events.state(7, "a"));
          throw proxyError(Status.UNAVAILABLE);
        };
    gateway.onWatch = (call, request, response) -> end(response, request.getUid());
    var options = Options.defaults().onRetry(null).onProgress(null).onReplayed(null);
    var end = client.run(request(""), options).finish();
    assertEquals("[1]", end.result().toStringUtf8());
    assertEquals(1, gateway.runs.size());
    assertEquals("a", gateway.watches.get(0).getResumeToken());
  }

  @Test
  void anErrorThatNamesTheJobIsWatched() throws Exception {
    gateway.onRun =
        (call, request, response) -> {
          throw Events.error(Code.UNAVAILABLE, "NO_STATE_YET", Map.of("uid", "7"));
        };
    gateway.onWatch = (call, request, response) -> end(response, request.getUid());
    assertEquals(7, client.run(request("")).finish().job().getUid());
    assertEquals(1, gateway.runs.size());
  }

  @Test
  void aRunIsSentAgainOnlyIfThatIsSafe() throws Exception {
    gateway.replayed = true;
    gateway.onRun =
        (call, request, response) -> {
          if (call == 1) {
            throw proxyError(Status.INTERNAL);
          }
          end(response, 7);
        };
    var replayed = new AtomicBoolean();
    var options = Options.defaults().onReplayed(() -> replayed.set(true));
    client.run(request("id"), options).finish();
    assertTrue(replayed.get());
    assertEquals(2, gateway.runs.size());
    gateway.runs.clear();
    var watch = client.run(request(""));
    var failure = assertThrows(GatewayException.class, watch::finish);
    assertEquals(1, gateway.runs.size());
    assertSame(failure, assertThrows(GatewayException.class, watch::next));
    watch.close();
    assertSame(failure, assertThrows(GatewayException.class, watch::finish));
    assertEquals(1, gateway.runs.size());
  }

  @Test
  void aSendIsRepeatedOnlyIfThatIsSafe() throws Exception {
    gateway.replayed = true;
    gateway.onSend =
        (call, request, response) -> {
          if (call == 1) {
            throw proxyError(Status.UNAVAILABLE);
          }
          response.onNext(Job.newBuilder().setUid(7).build());
          response.onCompleted();
        };
    var replayed = new AtomicBoolean();
    var options = Options.defaults().onReplayed(() -> replayed.set(true));
    assertEquals(7, client.send(request("id"), options).getUid());
    assertTrue(replayed.get());
    gateway.sent.clear();
    var failure = assertThrows(GatewayException.class, () -> client.send(request("")));
    assertEquals(Code.UNAVAILABLE, failure.code());
    assertEquals("from a proxy", failure.getMessage());
    assertEquals(1, gateway.sent.size());
  }

  @Test
  void aDamagedResultEndsAWatch() {
    gateway.onWatch =
        (call, request, response) -> {
          response.onNext(Events.end(7, "[1]", "[2]"));
          response.onCompleted();
        };
    var failure = assertThrows(GatewayException.class, client.watch(7)::finish);
    assertEquals(Code.DATA_LOSS, failure.code());
    assertEquals(1, gateway.watches.size());
  }

  @Test
  void aWatchReturnsNullOnlyAfterTheEnd() throws Exception {
    gateway.onWatch = (call, request, response) -> end(response, 7);
    try (var watch = client.watch(7)) {
      assertTrue(watch.next().getJob().getDone());
      assertNull(watch.next());
      assertNull(watch.next());
      assertEquals("[1]", watch.finish().result().toStringUtf8());
    }
    var left = client.watch(7);
    left.close();
    assertClosed(assertThrows(GatewayException.class, left::next));
  }

  @Test
  void aNewConnectionDoesNotDisturbOtherWatches() throws Exception {
    long broken = 1;
    long steady = 2;
    var begun = new CountDownLatch(1);
    var waiting = new ArrayList<StreamObserver<JobEvent>>();
    var steadyCalls = new AtomicInteger();
    var brokenCalls = new AtomicInteger();
    gateway.onWatch =
        (call, request, response) -> {
          if (request.getUid() == steady) {
            steadyCalls.incrementAndGet();
            waiting.add(response);
            begun.countDown();
          } else if (brokenCalls.incrementAndGet() == 1) {
            begun.await();
            throw proxyError(Status.UNAVAILABLE);
          } else {
            end(waiting.get(0), steady);
            end(response, broken);
          }
        };
    var retries = new ArrayList<Retry>();
    var steadyWatch = threads.submit(() -> client.watch(steady).finish());
    client.watch(broken, Options.defaults().onRetry(retries::add)).finish();
    assertEquals(steady, steadyWatch.get().job().getUid());
    assertEquals(1, steadyCalls.get());
    assertTrue(retries.get(0).newConnection());
  }

  @Test
  void anOldConnectionClosesAfterItsLastCall() {
    var channels = new ArrayList<io.grpc.ManagedChannel>();
    var credentials = io.grpc.InsecureChannelCredentials.create();
    try (var connections =
        new Connections(
            () -> {
              channels.add(io.grpc.Grpc.newChannelBuilder(gateway.target(), credentials).build());
              return channels.get(channels.size() - 1);
            })) {
      var one = connections.acquire();
      var two = connections.acquire();
      connections.replace(one);
      connections.replace(two);
      assertEquals(2, channels.size());
      connections.release(one);
      assertFalse(channels.get(0).isShutdown());
      connections.release(two);
      assertTrue(channels.get(0).isShutdown());
      assertFalse(channels.get(1).isShutdown());
    }
    assertTrue(channels.get(1).isShutdown());
  }

  @Test
  void watchesShareOneLogin() throws Exception {
    int watches = 20;
    var rejected = new CyclicBarrier(watches);
    gateway.onWatch =
        (call, request, response) -> {
          if (ScriptedGateway.TOKEN.get().equals("Bearer 1")) {
            rejected.await();
            throw Events.error(Code.UNAUTHENTICATED, "UPSTREAM_UNAUTHENTICATED", Map.of());
          }
          end(response, request.getUid());
        };
    var logins = new AtomicInteger();
    try (var client =
        Client.builder(gateway.target())
            .login(() -> Integer.toString(logins.incrementAndGet()))
            .build()) {
      var ends = new ArrayList<Future<Finished>>();
      for (int uid = 1; uid <= watches; uid++) {
        var watch = client.watch(uid);
        ends.add(threads.submit(watch::finish));
      }
      for (var end : ends) {
        end.get();
      }
    }
    assertEquals(2, logins.get());
  }

  @Test
  void aTokenThatNeverChangesIsNotTriedAgain() {
    gateway.onWatch =
        (call, request, response) -> {
          throw Events.error(Code.UNAUTHENTICATED, "UPSTREAM_UNAUTHENTICATED", Map.of());
        };
    var failure = assertThrows(GatewayException.class, client.watch(7)::finish);
    assertEquals(Action.LOGIN, failure.action());
    assertEquals(1, gateway.watches.size());
  }

  @Test
  void closingTheClientEndsAWatch() throws Exception {
    var begun = new CountDownLatch(1);
    gateway.onWatch = (call, request, response) -> begun.countDown();
    var watch = client.watch(7, Options.defaults().onRetry(retry -> fail("resumed")));
    var end = threads.submit(watch::finish);
    begun.await();
    client.close();
    var failed = assertThrows(ExecutionException.class, end::get);
    assertClosed(failed.getCause());
  }

  @Test
  void closingTheClientEndsTheWaitForAnotherAttempt() throws Exception {
    var end = waitsForMinutes(client.watch(7, Options.defaults().onRetry(retry -> begun())));
    client.close();
    var failed = assertThrows(ExecutionException.class, end::get);
    assertClosed(failed.getCause());
  }

  @Test
  void theEndOfTheContextEndsTheWaitForAnotherAttempt() throws Exception {
    try (var context = Context.current().withCancellation()) {
      var watch = client.watch(7, Options.defaults().onRetry(retry -> begun()));
      var end = context.call(() -> waitsForMinutes(watch));
      context.cancel(null);
      var failed = assertThrows(ExecutionException.class, end::get);
      var failure = assertInstanceOf(GatewayException.class, failed.getCause());
      var last = assertInstanceOf(GatewayException.class, failure.getCause());
      assertEquals("DRAINING", last.reason());
    }
  }

  /** Watches until the watch waits for its second attempt. */
  private Future<Finished> waitsForMinutes(Watch watch) throws InterruptedException {
    gateway.onWatch =
        (call, request, response) -> {
          throw draining();
        };
    var end = threads.submit(Context.current().wrap(watch::finish));
    waiting.await();
    return end;
  }

  /** Returns an error after which the client waits for minutes. */
  private static StatusException draining() {
    var minutes = RetryInfo.newBuilder().setRetryDelay(Durations.fromMinutes(5)).build();
    return Events.error(Code.UNAVAILABLE, "DRAINING", Map.of(), minutes);
  }

  private void begun() {
    waiting.countDown();
  }

  @Test
  void aShortHeartbeatIsNotSilence() {
    var options = Options.defaults();
    assertEquals(Duration.ofSeconds(3), options.heartbeat(Duration.ofNanos(1)).silence());
    assertEquals(Duration.ofSeconds(6), options.heartbeat(Duration.ofSeconds(2)).silence());
    var endless = Duration.ofSeconds(Long.MAX_VALUE);
    assertThrows(IllegalArgumentException.class, () -> options.heartbeat(endless));
  }

  @Test
  void aRunWhoseErrorNamesTheJobIsNeverSentAgain() throws Exception {
    gateway.onRun =
        (call, request, response) -> {
          throw Events.error(Code.UNAUTHENTICATED, "UPSTREAM_UNAUTHENTICATED", Map.of("uid", "7"));
        };
    gateway.onWatch = (call, request, response) -> end(response, request.getUid());
    try (var client = Client.builder(gateway.target()).login(() -> "token").build()) {
      assertEquals(7, client.run(request("")).finish().job().getUid());
    }
    assertEquals(1, gateway.runs.size());
    assertEquals(7, gateway.watches.get(0).getUid());
  }

  @Test
  void aSendWhoseErrorNamesTheJobIsNotRepeated() {
    gateway.onSend =
        (call, request, response) -> {
          throw Events.error(Code.UNAUTHENTICATED, "UPSTREAM_UNAUTHENTICATED", Map.of("uid", "7"));
        };
    try (var client = Client.builder(gateway.target()).login(() -> "token").build()) {
      var failure = assertThrows(GatewayException.class, () -> client.send(request("")));
      assertEquals(7, failure.uid().orElseThrow());
    }
    assertEquals(1, gateway.sent.size());
  }

  @Test
  void aResultOfWhichNothingArrivesIsDamaged() {
    for (var format : ContentFormat.values()) {
      if (format == ContentFormat.UNRECOGNIZED) {
        continue;
      }
      gateway.onWatch =
          (call, request, response) -> {
            var end = Events.end(7).toBuilder();
            end.getJobBuilder().clearContentJson().setContentOmitted(true);
            response.onNext(end.build());
            response.onCompleted();
          };
      var watch = client.watch(7, Options.defaults().contentFormat(format));
      if (format == ContentFormat.CONTENT_FORMAT_NONE) {
        assertDoesNotThrow(watch::finish);
      } else {
        var failure = assertThrows(GatewayException.class, watch::finish, format.name());
        assertEquals(Code.DATA_LOSS, failure.code());
      }
    }
  }

  @Test
  void aReplayIsReportedBeforeTheLastEvent() throws Exception {
    gateway.replayed = true;
    gateway.onRun = (call, request, response) -> end(response, 7);
    var replayed = new AtomicBoolean();
    try (var watch =
        client.run(request("id"), Options.defaults().onReplayed(() -> replayed.set(true)))) {
      assertTrue(watch.next().getJob().getDone());
      assertTrue(replayed.get());
    }
  }

  @Test
  void anErrorOfACallbackIsNoEnd() {
    gateway.onWatch = (call, request, response) -> end(response, 7);
    var watch = client.watch(7, Options.defaults().onProgress(job -> fail("in the callback")));
    assertThrows(AssertionError.class, watch::next);
    assertClosed(assertThrows(GatewayException.class, watch::next));
    assertClosed(assertThrows(GatewayException.class, watch::finish));
  }

  @Test
  void aWatchClosedByItsCallbackOpensNoOtherStream() throws Exception {
    gateway.onWatch =
        (call, request, response) -> {
          throw proxyError(Status.UNAVAILABLE);
        };
    var watches = new ArrayList<AutoCloseable>();
    var options =
        Options.defaults().onRetry(retry -> assertDoesNotThrow(() -> watches.remove(0).close()));
    var watch = client.watch(7, options);
    watches.add(watch);
    assertClosed(assertThrows(GatewayException.class, watch::next));
    assertEquals(1, gateway.watches.size());
    gateway.onWatches = gateway.onWatch;
    var all = client.watchAll(List.of(7L), options);
    watches.add(all);
    assertClosed(assertThrows(GatewayException.class, all::next));
    assertEquals(2, gateway.watches.size());
  }

  @Test
  void aRefusedConnectionIsNamed() {
    var target = gateway.target();
    gateway.close();
    try (var client = Client.create(target, null)) {
      var failure = assertThrows(GatewayException.class, () -> client.send(request("")));
      assertTrue(failure.getMessage().contains("Connection refused"), failure.getMessage());
    }
  }

  @Test
  void anyThreadMayCloseAWatch() throws Exception {
    var cancelled = new CountDownLatch(2);
    var begun = new CountDownLatch(2);
    gateway.onCancel = cancelled::countDown;
    gateway.onWatch = (call, request, response) -> begun.countDown();
    gateway.onWatches = gateway.onWatch;
    var options = Options.defaults().onRetry(retry -> fail("resumed"));
    var watch = client.watch(7, options);
    var all = client.watchAll(List.of(7L), options);
    var ends = List.of(threads.submit(watch::next), threads.submit(all::next));
    begun.await();
    watch.close();
    all.close();
    for (var end : ends) {
      assertClosed(assertThrows(ExecutionException.class, end::get).getCause());
    }
    cancelled.await();
  }

  @Test
  void theTimeoutEndsAWatchThatHangs() {
    gateway.onWatch = (call, request, response) -> {};
    gateway.onWatches = gateway.onWatch;
    var options = Options.defaults().timeout(Duration.ofMillis(100));
    assertTimeout(null, client.watch(7, options)::finish);
    assertTimeout(null, client.watchAll(List.of(7L), options)::next);
  }

  @Test
  void noAttemptIsWaitedForAfterTheTimeout() {
    // Shorter than the wait that the gateway asks for.
    gateway.onWatch =
        (call, request, response) -> {
          throw draining();
        };
    gateway.onWatches = gateway.onWatch;
    gateway.onWait = (call, request, response) -> gateway.onWatch.play(call, null, null);
    gateway.onSend = (call, request, response) -> gateway.onWatch.play(call, null, null);
    var options = Options.defaults().timeout(LIMIT).onRetry(retry -> fail("no time is left"));
    assertTimeout("DRAINING", client.watch(7, options)::finish);
    assertTimeout("DRAINING", client.watchAll(List.of(7L), options)::next);
    assertTimeout("DRAINING", () -> client.await(7, options));
    assertTimeout("DRAINING", () -> client.await(7, LIMIT));
    assertTimeout("DRAINING", () -> client.send(request("id"), options));
  }

  @Test
  void theTimeoutEndsALoginThatHangs() {
    var options = Options.defaults().timeout(Duration.ofMillis(100));
    var never = new CountDownLatch(1);
    try (var client =
        Client.builder(gateway.target())
            .login(
                () -> {
                  assertDoesNotThrow(() -> never.await());
                  return null;
                })
            .build()) {
      assertTimeout(null, () -> client.get(7, options));
      assertTimeout(null, client.watch(7, options)::next);
    }
    never.countDown();
  }

  private static void assertTimeout(String cause, Executable call) {
    var failure = assertThrows(GatewayException.class, call);
    assertEquals(Code.DEADLINE_EXCEEDED, failure.code());
    if (cause != null) {
      assertEquals(cause, assertInstanceOf(GatewayException.class, failure.getCause()).reason());
    }
  }

  @Test
  void eachAttemptOfAWaitSendsTheRestOfItsTimeout() throws Exception {
    gateway.onWait =
        (call, request, response) -> {
          if (call == 1) {
            throw Events.error(Code.UNAVAILABLE, "DRAINING", Map.of());
          }
          response.onNext(Job.getDefaultInstance());
          response.onCompleted();
        };
    assertFalse(client.await(7, Duration.ofMinutes(1)).getDone());
    var first = Durations.toNanos(gateway.waits.get(0).getTimeout());
    var second = Durations.toNanos(gateway.waits.get(1).getTimeout());
    assertTrue(first <= Duration.ofMinutes(1).toNanos());
    assertTrue(second <= first - Duration.ofMillis(100).toNanos());
    client.await(7, Duration.ofSeconds(Long.MAX_VALUE));
    client.await(7, Duration.ZERO);
    assertEquals(0, Durations.toNanos(gateway.waits.get(3).getTimeout()));
    assertThrows(IllegalArgumentException.class, () -> client.await(7, Duration.ofSeconds(-1)));
  }

  @Test
  void eachCallHasTheTimeOfTheGatewayAndAReserve() throws Exception {
    var limits = new ArrayList<Long>();
    gateway.onSend =
        (call, request, response) -> {
          limits.add(Context.current().getDeadline().timeRemaining(TimeUnit.SECONDS));
          response.onNext(Job.newBuilder().setDone(true).build());
          response.onCompleted();
        };
    gateway.onGet = (call, request, response) -> gateway.onSend.play(call, null, response);
    gateway.onWait = (call, request, response) -> gateway.onSend.play(call, null, response);
    client.send(request(""));
    client.get(7);
    client.await(7);
    client.await(7, Duration.ofSeconds(100));
    client.get(7, Options.defaults().timeout(Duration.ofSeconds(10)));
    var expected = List.of(150, 30, 70, 130, 10);
    for (int call = 0; call < expected.size(); call++) {
      long limit = limits.get(call);
      assertTrue(limit <= expected.get(call) && limit > expected.get(call) - 10, "" + limits);
    }
  }

  @Test
  void aWaitForAnotherAttemptHoldsNoConnection() throws Exception {
    var channels = new ArrayList<ManagedChannel>();
    var settings = settings(gateway.target(), channel -> {});
    var connections =
        new Connections(
            () -> {
              channels.add(settings.connect());
              return channels.get(channels.size() - 1);
            });
    gateway.onGet =
        (call, request, response) -> {
          throw draining();
        };
    var session = new Session(connections, Credential.ofToken(null));
    var released = new AtomicBoolean();
    var options =
        Options.defaults()
            .onRetry(
                retry -> {
                  var current = connections.acquire();
                  connections.replace(current);
                  connections.release(current);
                  released.set(channels.get(0).isShutdown());
                  connections.close();
                });
    UnaryCalls.Method get = stub -> stub.getJob(GetJobRequest.getDefaultInstance());
    var attempts = new Attempts(failure -> true, false);
    var scope = session.scope(null);
    assertClosed(
        assertThrows(
            GatewayException.class,
            () -> new UnaryCalls(session).call(7, get, scope, attempts, options)));
    assertTrue(released.get());
  }

  private static ChannelSettings settings(
      String target, Consumer<ManagedChannelBuilder<?>> configure) {
    var plaintext = InsecureChannelCredentials.create();
    return new ChannelSettings(target, plaintext, Map.of(), null, configure);
  }

  @Test
  void aWatchContinuesAfterAToken() throws Exception {
    gateway.onWatch = (call, request, response) -> end(response, 7);
    client.watch(7, Options.defaults().resumeToken("a")).finish();
    assertEquals("a", gateway.watches.get(0).getResumeToken());
  }

  @Test
  void anInterruptEndsAWatch() throws Exception {
    var begun = new CountDownLatch(1);
    gateway.onWatch = (call, request, response) -> begun.countDown();
    var interrupted = new CountDownLatch(1);
    threads.submit(
        () -> {
          try {
            client.watch(7).finish();
          } catch (InterruptedException expected) {
            interrupted.countDown();
          }
        });
    begun.await();
    threads.shutdownNow();
    interrupted.await();
  }

  @Test
  void theEndOfTheContextEndsAWatch() throws Exception {
    var begun = new CountDownLatch(1);
    gateway.onWatch = (call, request, response) -> begun.countDown();
    try (var context = Context.current().withCancellation()) {
      var end = threads.submit(context.wrap(() -> client.watch(7).finish()));
      begun.await();
      context.cancel(null);
      var failed = assertThrows(ExecutionException.class, end::get);
      var failure = assertInstanceOf(GatewayException.class, failed.getCause());
      assertEquals(Code.CANCELLED, failure.code());
    }
    assertEquals(1, gateway.watches.size());
  }
}
