package jobgateway.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.ByteString;
import io.grpc.Status.Code;
import io.grpc.TlsChannelCredentials;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import jobgateway.v1.Job;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(60)
class BuilderTest {
  private final ScriptedGateway gateway = new ScriptedGateway();

  @AfterEach
  void close() {
    gateway.close();
  }

  private static void assertRejected(String problem, Client.Builder builder) {
    var error = assertThrows(IllegalArgumentException.class, builder::build);
    assertTrue(error.getMessage().contains(problem), error.getMessage());
  }

  @Test
  void aTargetHasAHostAndAPort() {
    for (var target :
        List.of(
            "http://127.0.0.1:1",
            "HTTPS://gateway",
            "",
            "127.0.0.1: 1",
            "localhost",
            "::1",
            "[::1]",
            "127.0.0.1:99999",
            "localhost:99999",
            "localhost:0",
            "grpc://x:1",
            "a/b")) {
      assertRejected("(got \"" + target + "\")", Client.builder(target));
    }
    for (var target : List.of("localhost:1", "[::1]:1", "dns:///gateway:1", "gateway:65535")) {
      Client.builder(target).build().close();
    }
  }

  @Test
  void aServiceConfigIsAJsonObject() {
    var builder = Client.builder("127.0.0.1:1");
    for (var invalid : List.of("", "null", "[]", "{")) {
      assertThrows(IllegalArgumentException.class, () -> builder.serviceConfig(invalid), invalid);
    }
    builder.serviceConfig("{\"methodConfig\": 3}");
    assertRejected("is not List", builder);
    var error = assertThrows(IllegalArgumentException.class, builder::build);
    assertEquals(1, error.getMessage().lines().count());
  }

  @Test
  void aClientHasEitherATokenOrALogin() {
    assertRejected("token and login", Client.builder("127.0.0.1:1").token("a").login(() -> "b"));
    assertRejected("empty", Client.builder("127.0.0.1:1").token(""));
  }

  @Test
  void aClientDoesNotChangeWithItsBuilder() throws Exception {
    gateway.onGet =
        (call, request, response) -> {
          if (call == 1) {
            throw Events.error(Code.UNAVAILABLE, "DRAINING", Map.of());
          }
          response.onNext(Job.newBuilder().setUid(7).build());
          response.onCompleted();
        };
    var builder = Client.builder(gateway.target());
    try (var client = builder.build()) {
      builder.credentials(TlsChannelCredentials.create()).serviceConfig("{\"methodConfig\": 3}");
      builder.configure(
          channel -> {
            throw new AssertionError("called for an earlier client");
          });
      assertEquals(7, client.get(7).getUid());
    }
    assertEquals(2, gateway.gets.size());
  }

  @Test
  void aMessageOverTheLimitIsRejected() throws Exception {
    var result = ByteString.copyFrom(new byte[100]);
    gateway.onGet =
        (call, request, response) -> {
          response.onNext(Job.newBuilder().setContentJson(result).build());
          response.onCompleted();
        };
    try (var client = Client.builder(gateway.target()).maxMessageSize(99).build()) {
      var failure = assertThrows(GatewayException.class, () -> client.get(7));
      assertEquals(Code.RESOURCE_EXHAUSTED, failure.code());
    }
    try (var client = Client.builder(gateway.target()).build()) {
      assertEquals(result, client.get(7).getContentJson());
    }
    var builder = Client.builder(gateway.target());
    assertThrows(IllegalArgumentException.class, () -> builder.maxMessageSize(0));
  }

  @Test
  void theSettingsOfGrpcCanBeChanged() throws Exception {
    var agents = new ArrayList<String>();
    gateway.onGet =
        (call, request, response) -> {
          agents.add(ScriptedGateway.USER_AGENT.get());
          response.onNext(Job.getDefaultInstance());
          response.onCompleted();
        };
    for (var builder :
        List.of(
            Client.builder(gateway.target()),
            Client.builder(gateway.target()).configure(channel -> channel.userAgent("own")))) {
      try (var client = builder.build()) {
        client.get(7);
      }
    }
    assertTrue(
        agents.get(0).matches("jobgateway-java/\\d+\\.\\d+\\.\\d+ grpc-java.*"), agents.get(0));
    assertFalse(agents.get(1).contains("jobgateway"));
  }
}
