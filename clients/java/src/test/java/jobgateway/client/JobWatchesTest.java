package jobgateway.client;

import static jobgateway.client.Events.end;
import static jobgateway.client.Events.failed;
import static jobgateway.client.Events.state;
import static jobgateway.client.Events.synced;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.Status.Code;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import jobgateway.client.JobWatches.Again;
import jobgateway.client.JobWatches.Deliver;
import jobgateway.client.JobWatches.LogIn;
import jobgateway.client.JobWatches.Nothing;
import jobgateway.client.JobWatches.Outcome;
import jobgateway.v1.JobEvent;
import jobgateway.v1.WatchJobRequest;
import org.junit.jupiter.api.Test;

class JobWatchesTest {
  private final Clock clock = new Clock();

  /** Returns watches whose requests have been sent. */
  private JobWatches open(Long... uids) {
    var options = Options.defaults().heartbeat(Duration.ofSeconds(1));
    var watches = new JobWatches(List.of(uids), options, clock);
    reopen(watches);
    return watches;
  }

  /** Opens a stream and returns the requests that are sent on it immediately. */
  private static List<WatchJobRequest> reopen(JobWatches watches) {
    watches.begin();
    var sent = new ArrayList<WatchJobRequest>();
    for (var next = watches.nextRequest(); next.isPresent(); next = watches.nextRequest()) {
      sent.add(next.get().getWatch());
    }
    return sent;
  }

  private static GatewayException failure(Outcome outcome) {
    var item = assertInstanceOf(Deliver.class, outcome).item();
    return assertInstanceOf(WatchAll.Failed.class, item).failure();
  }

  private static JobEvent rejected(long uid) {
    return failed(uid, Code.UNAUTHENTICATED, "UPSTREAM_UNAUTHENTICATED");
  }

  @Test
  void aStreamResumesTheJobsThatHaveNotEnded() {
    var watches = open(1L, 2L, 3L, 1L);
    assertEquals(3, watches.pending());
    watches.take(state(1, "a"));
    watches.take(end(2));
    watches.take(state(1, "b"));
    var sent = reopen(watches);
    assertEquals(List.of(1L, 3L), sent.stream().map(WatchJobRequest::getUid).sorted().toList());
    for (var request : sent) {
      assertEquals(request.getUid() == 1 ? "b" : "", request.getResumeToken());
      assertEquals(1, request.getHeartbeatInterval().getSeconds());
    }
    assertInstanceOf(Nothing.class, watches.take(state(2, "c")));
  }

  @Test
  void aRetryKeepsItsTimeOverANewStream() {
    var watches = open(1L, 2L);
    var overload = failed(1, Code.RESOURCE_EXHAUSTED, "LIMIT_REACHED").toBuilder();
    overload.getFailureBuilder().getRetryDelayBuilder().setSeconds(60);
    var retry = assertInstanceOf(Again.class, watches.take(overload.build())).retry();
    assertEquals(1, retry.uid().orElseThrow());
    assertEquals(Duration.ofMinutes(1), retry.delay());
    assertEquals(2, reopen(watches).get(0).getUid());
    clock.advance(Duration.ofSeconds(10));
    assertEquals(Optional.of(Duration.ofSeconds(50)), watches.untilDue());
    clock.advance(Duration.ofSeconds(50));
    assertEquals(1, watches.nextRequest().orElseThrow().getWatch().getUid());
  }

  @Test
  void anUnknownOrRepeatedWatchIsIgnored() {
    var watches = open(1L);
    var repeated = failed(1, Code.ALREADY_EXISTS, "ALREADY_WATCHED");
    assertInstanceOf(Nothing.class, watches.take(repeated));
    assertInstanceOf(Nothing.class, watches.take(failed(7, Code.NOT_FOUND, "")));
    assertEquals(1, watches.pending());
  }

  @Test
  void aFreshTokenIsProvenForEachJob() {
    var watches = open(1L, 2L, 3L);
    assertInstanceOf(LogIn.class, watches.take(rejected(1)));
    watches.tokenRenewed();
    reopen(watches);
    watches.take(state(1, "a"));
    watches.take(synced(2));
    assertEquals(Code.UNAUTHENTICATED, failure(watches.take(rejected(2))).code());
    assertInstanceOf(LogIn.class, watches.take(rejected(1)));
    watches.take(synced(3));
    assertInstanceOf(LogIn.class, watches.take(rejected(3)));
  }

  @Test
  void withoutAnotherTokenNoLoginIsTriedAgain() {
    var watches = open(1L, 2L);
    var wanted = assertInstanceOf(LogIn.class, watches.take(rejected(1)));
    assertEquals(Code.UNAUTHENTICATED, failure(watches.withoutLogin(wanted)).code());
    assertEquals(Code.UNAUTHENTICATED, failure(watches.take(rejected(2))).code());
    assertEquals(0, watches.pending());
  }

  @Test
  void onlyEventsWithATokenAreProgress() {
    var watches = open(1L);
    watches.take(synced(1));
    watches.take(failed(1, Code.UNAVAILABLE, "").toBuilder().setResumeToken("a").build());
    assertEquals(0, watches.position());
    watches.take(state(1, "a"));
    assertEquals(1, watches.position());
  }

  @Test
  void aDamagedResultFailsItsJobOnly() {
    var watches = open(1L, 2L);
    assertEquals(Code.DATA_LOSS, failure(watches.take(end(1, "[1]", "[2]"))).code());
    assertEquals(1, watches.pending());
    assertInstanceOf(Deliver.class, watches.take(end(2)));
    assertEquals("[1]", watches.result(2).toStringUtf8());
    watches.release();
    assertTrue(watches.result(2).isEmpty());
  }

  @Test
  void eventsOfTheStreamHaveNoJob() {
    var item = assertInstanceOf(Deliver.class, open(1L).take(synced(1))).item();
    assertEquals(0, item.uid());
    assertFalse(item instanceof WatchAll.Failed);
  }
}
