package jobgateway.client;

import static jobgateway.client.Events.failure;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.Status.Code;
import java.time.Duration;
import jobgateway.v1.Heartbeat;
import jobgateway.v1.JobEvent;
import org.junit.jupiter.api.Test;

class ResumePolicyTest {
  private final Clock clock = new Clock();
  private final ResumePolicy policy = new ResumePolicy(clock);

  private void assertFinal(Code code, String reason) {
    assertThrows(GatewayException.class, () -> policy.decide(failure(code, reason), "", false));
  }

  private Retry decide(Code code, String reason) {
    return policy.decide(failure(code, reason), "", false);
  }

  @Test
  void anyBrokenStreamIsResumedOnANewConnection() {
    for (var code : new Code[] {Code.OK, Code.CANCELLED, Code.UNKNOWN, Code.INTERNAL}) {
      assertTrue(decide(code, "").newConnection());
    }
    assertTrue(policy.decide(GatewayException.silentStream(), "", false).newConnection());
    assertTrue(decide(Code.UNAVAILABLE, "DRAINING").newConnection());
    assertFalse(decide(Code.UNAVAILABLE, "UPSTREAM_OUTAGE").newConnection());
  }

  @Test
  void anErrorOfTheGatewayIsFinal() {
    policy.received(true);
    assertFinal(Code.NOT_FOUND, "UPSTREAM_NOT_FOUND");
    assertFinal(Code.RESOURCE_EXHAUSTED, "RESULT_TOO_LARGE");
  }

  @Test
  void aProxyErrorBeforeTheFirstEventIsFinal() {
    assertFinal(Code.UNIMPLEMENTED, "");
    policy.received(false);
    decide(Code.UNIMPLEMENTED, "");
  }

  @Test
  void aMessageOverTheLimitIsTriedOncePerPosition() {
    policy.received(true);
    decide(Code.RESOURCE_EXHAUSTED, "");
    assertFinal(Code.RESOURCE_EXHAUSTED, "");
    policy.decide(failure(Code.RESOURCE_EXHAUSTED, ""), "another position", false);
  }

  @Test
  void aFreshTokenHasToBeProven() {
    var rejected = failure(Code.UNAUTHENTICATED, "UPSTREAM_UNAUTHENTICATED");
    assertTrue(policy.wantsToken(rejected));
    policy.decide(rejected, "", true);
    policy.received(false);
    assertFalse(policy.wantsToken(rejected));
    assertFinal(Code.UNAUTHENTICATED, "UPSTREAM_UNAUTHENTICATED");
    policy.received(true);
    assertTrue(policy.wantsToken(rejected));
  }

  @Test
  void aHeartbeatProvesTheTokenOnlyAfterARead() {
    var heartbeat = Heartbeat.newBuilder();
    assertFalse(ResumePolicy.provesToken(JobEvent.newBuilder().setHeartbeat(heartbeat).build()));
    heartbeat.getObserveTimeBuilder().setSeconds(1);
    assertTrue(ResumePolicy.provesToken(JobEvent.newBuilder().setHeartbeat(heartbeat).build()));
    heartbeat.setLastFailure("HTTP 401");
    assertFalse(ResumePolicy.provesToken(JobEvent.newBuilder().setHeartbeat(heartbeat).build()));
  }

  @Test
  void onlyALateEventResetsTheBackoff() {
    policy.opened();
    for (int attempt = 0; attempt < 6; attempt++) {
      policy.received(true);
      decide(Code.UNAVAILABLE, "");
    }
    assertTrue(decide(Code.UNAVAILABLE, "").delay().toMillis() >= 2500);
    clock.advance(Duration.ofMillis(5001));
    policy.received(true);
    assertTrue(decide(Code.UNAVAILABLE, "").delay().toMillis() < 200);
  }

  @Test
  void theWaitIsThatOfTheGatewayIfItIsLonger() {
    var event = Events.failed(7, Code.RESOURCE_EXHAUSTED, "LIMIT_REACHED").toBuilder();
    event.getFailureBuilder().getRetryDelayBuilder().setSeconds(60);
    var limited = GatewayException.of(event.getFailure());
    assertEquals(Duration.ofMinutes(1), policy.decide(limited, "", false).delay());
  }
}
