package jobgateway.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.rpc.BadRequest;
import com.google.rpc.BadRequest.FieldViolation;
import com.google.rpc.RetryInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.Status.Code;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.ObjectInputStream;
import java.io.ObjectOutputStream;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import jobgateway.client.GatewayException.FieldProblem;
import org.junit.jupiter.api.Test;

class GatewayExceptionTest {

  @Test
  void eachProblemOfAFieldIsNamed() {
    var fields = GatewayException.of(error(problem("a", "1"), problem("a", "2"))).fields();
    assertEquals(List.of("1", "2"), fields.stream().map(FieldProblem::problem).toList());
  }

  private static BadRequest problem(String field, String description) {
    var violation = FieldViolation.newBuilder().setField(field).setDescription(description);
    return BadRequest.newBuilder().addFieldViolations(violation).build();
  }

  private static io.grpc.StatusException error(com.google.protobuf.Message... details) {
    return Events.error(Code.INVALID_ARGUMENT, "REQUEST_INVALID", Map.of("uid", "7"), details);
  }

  @Test
  void anyRetryInfoIsAWaitOfAtMostADay() {
    assertEquals(Duration.ofDays(1), retryAfter(Long.MAX_VALUE, Integer.MAX_VALUE));
    assertEquals(Duration.ZERO, retryAfter(Long.MIN_VALUE, Integer.MIN_VALUE));
    assertEquals(Duration.ZERO, retryAfter(0, -1));
    assertEquals(Duration.ofMillis(1500), retryAfter(1, 500_000_000));
  }

  private static Duration retryAfter(long seconds, int nanos) {
    var info = RetryInfo.newBuilder();
    info.getRetryDelayBuilder().setSeconds(seconds).setNanos(nanos);
    var event = Events.failed(7, Code.UNAVAILABLE, "").toBuilder();
    event.getFailureBuilder().setRetryDelay(info.getRetryDelay());
    var ofJob = GatewayException.of(event.getFailure()).retryAfter().orElseThrow();
    assertEquals(ofJob, GatewayException.of(error(info.build())).retryAfter().orElseThrow());
    return ofJob;
  }

  @Test
  void anErrorCanBeSerialized() throws Exception {
    var last = GatewayException.of(error(problem("a", "1")));
    var error = GatewayException.of(Status.DEADLINE_EXCEEDED, last);
    var copy = deserialized(serialized(error));
    assertEquals(error.toString(), copy.toString());
    var cause = (GatewayException) copy.getCause();
    assertEquals(last.toString(), cause.toString());
    assertEquals(last.fields(), cause.fields());
    assertEquals(last.metadata(), cause.metadata());
    assertTrue(cause.getCause().getMessage().contains("StatusException: INVALID_ARGUMENT"));
  }

  private static byte[] serialized(Object object) throws IOException {
    var bytes = new ByteArrayOutputStream();
    try (var out = new ObjectOutputStream(bytes)) {
      out.writeObject(object);
    }
    return bytes.toByteArray();
  }

  private static Throwable deserialized(byte[] bytes) throws IOException, ClassNotFoundException {
    try (var in = new ObjectInputStream(new ByteArrayInputStream(bytes))) {
      return (Throwable) in.readObject();
    }
  }

  @Test
  void malformedDetailsAreIgnored() {
    var trailers = new Metadata();
    trailers.put(
        Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER),
        new byte[] {(byte) 0xff, 1});
    var failure = GatewayException.of(Status.UNAVAILABLE.asException(trailers));
    assertEquals(Code.UNAVAILABLE, failure.code());
    assertEquals("", failure.reason());
  }

  @Test
  void theMessageNamesTheCauses() {
    var cause = new IOException("handshake", new IOException("no path\nto the authority"));
    var status = Status.UNAVAILABLE.withDescription("io exception\nChannel Pipeline: []");
    var failure = GatewayException.of(status.withCause(cause).asException());
    assertEquals("io exception: handshake: no path", failure.getMessage());
  }

  @Test
  void aPeerThatClosesMayNeedTls() {
    var closed = Status.UNAVAILABLE.withDescription("Network closed for unknown reason");
    var message = GatewayException.of(closed.asException()).getMessage();
    assertTrue(message.contains("check whether it needs TLS"), message);
  }

  @Test
  void aDamagedResultMayBelongToAJobWithoutANumber() {
    var failure = GatewayException.damagedResult(0, "nothing");
    assertTrue(failure.uid().isEmpty());
    assertTrue(failure.getMessage().contains("a job without a number"));
  }

  @Test
  void anErrorAlwaysHasAMessage() {
    assertEquals("no message", GatewayException.of(Status.UNKNOWN.asException()).getMessage());
    var failure = Events.failed(7, Code.NOT_FOUND, "").getFailure();
    assertEquals("no message", GatewayException.of(failure).getMessage());
  }
}
