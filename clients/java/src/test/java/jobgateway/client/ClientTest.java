package jobgateway.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assertions.fail;

import com.google.protobuf.util.Durations;
import com.google.rpc.BadRequest;
import com.google.rpc.BadRequest.FieldViolation;
import com.google.rpc.RetryInfo;
import io.grpc.Context;
import io.grpc.Status;
import io.grpc.Status.Code;
import io.grpc.stub.ServerCallStreamObserver;
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
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import jobgateway.client.GatewayException.FieldProblem;
import jobgateway.v1.Job;
import jobgateway.v1.JobEvent;
import jobgateway.v1.SendJobRequest;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(60)
class ClientTest {
  private final ScriptedGateway gateway = new ScriptedGateway();
  private final Client client = gateway.client();
  private final ExecutorService threads = Executors.newCachedThreadPool();
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

  /** Waits until the client cancels the call. */
  private static void hang(StreamObserver<JobEvent> response, CountDownLatch begun) {
    ((ServerCallStreamObserver<JobEvent>) response).setOnCancelHandler(() -> {});
    begun.countDown();
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
    assertThrows(IllegalStateException.class, left::next);
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
  void aTokenThatIsNoHeaderValueIsRejectedWithoutBeingShown() {
    var error =
        assertThrows(
            IllegalArgumentException.class, () -> Client.create(gateway.target(), "secret\n"));
    assertFalse(error.getMessage().contains("secret"));
  }

  @Test
  void closingTheClientEndsAWatch() throws Exception {
    var begun = new CountDownLatch(1);
    gateway.onWatch = (call, request, response) -> hang(response, begun);
    var watch = client.watch(7, Options.defaults().onRetry(retry -> fail("resumed")));
    var end = threads.submit(watch::finish);
    begun.await();
    client.close();
    var failed = assertThrows(ExecutionException.class, end::get);
    assertInstanceOf(IllegalStateException.class, failed.getCause());
  }

  @Test
  void closingTheClientEndsTheWaitForAnotherAttempt() throws Exception {
    var end = waitsForMinutes(client.watch(7, Options.defaults().onRetry(retry -> begun())));
    client.close();
    var failed = assertThrows(ExecutionException.class, end::get);
    assertInstanceOf(IllegalStateException.class, failed.getCause());
  }

  @Test
  void theEndOfTheContextEndsTheWaitForAnotherAttempt() throws Exception {
    try (var context = Context.current().withCancellation()) {
      var watch = client.watch(7, Options.defaults().onRetry(retry -> begun()));
      var end = context.call(() -> waitsForMinutes(watch));
      context.cancel(null);
      var failed = assertThrows(ExecutionException.class, end::get);
      var failure = assertInstanceOf(GatewayException.class, failed.getCause());
      var last = assertInstanceOf(GatewayException.class, failure.getSuppressed()[0]);
      assertEquals("DRAINING", last.reason());
    }
  }

  /** Watches until the watch waits for its second attempt. */
  private Future<Finished> waitsForMinutes(Watch watch) throws InterruptedException {
    var minutes = RetryInfo.newBuilder().setRetryDelay(Durations.fromMinutes(5)).build();
    gateway.onWatch =
        (call, request, response) -> {
          throw Events.error(Code.UNAVAILABLE, "DRAINING", Map.of(), minutes);
        };
    var end = threads.submit(Context.current().wrap(watch::finish));
    waiting.await();
    return end;
  }

  private void begun() {
    waiting.countDown();
  }

  @Test
  void anErrorNamesEachProblemOfAField() {
    var problems =
        BadRequest.newBuilder()
            .addFieldViolations(FieldViolation.newBuilder().setField("a").setDescription("1"))
            .addFieldViolations(FieldViolation.newBuilder().setField("a").setDescription("2"))
            .build();
    var error = Events.error(Code.INVALID_ARGUMENT, "REQUEST_INVALID", Map.of(), problems);
    var fields = GatewayException.of(error).fields();
    assertEquals(List.of("1", "2"), fields.stream().map(FieldProblem::problem).toList());
  }

  @Test
  void aTargetIsNoUrl() {
    for (var target : List.of("http://127.0.0.1:1", "HTTPS://gateway", "", "127.0.0.1: 1")) {
      assertThrows(IllegalArgumentException.class, () -> Client.create(target, null));
    }
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
  void anInterruptEndsAWatch() throws Exception {
    var begun = new CountDownLatch(1);
    gateway.onWatch = (call, request, response) -> hang(response, begun);
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
    gateway.onWatch = (call, request, response) -> hang(response, begun);
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
