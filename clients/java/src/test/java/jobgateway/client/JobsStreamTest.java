package jobgateway.client;

import static org.junit.jupiter.api.Assertions.assertEquals;

import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import jobgateway.v1.JobServiceGrpc;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(60)
class JobsStreamTest {

  @Test
  void aStreamThatDoesNotEndIsLeftAfterTheLimit() throws Exception {
    var cancelled = new CountDownLatch(1);
    var beats = Executors.newSingleThreadScheduledExecutor();
    try (var gateway = new ScriptedGateway()) {
      gateway.onCancel = cancelled::countDown;
      gateway.onWatches =
          (call, request, response) ->
              beats.scheduleAtFixedRate(
                  () -> response.onNext(Events.synced(0)), 0, 1, TimeUnit.MILLISECONDS);
      var channel =
          Grpc.newChannelBuilder(gateway.target(), InsecureChannelCredentials.create()).build();
      var watches = new JobWatches(List.of(7L), Options.defaults(), System::nanoTime);
      watches.begin();
      var stream = new JobsStream(JobServiceGrpc.newStub(channel), watches);
      assertEquals(0, stream.next(Duration.ofMinutes(1)).getUid());
      stream.readEnd(Duration.ofMillis(500));
      stream.cancel();
      cancelled.await();
      channel.shutdownNow();
    } finally {
      beats.shutdownNow();
    }
  }
}
