package jobgateway.client;

import static java.util.concurrent.TimeUnit.MILLISECONDS;

import com.google.protobuf.ByteString;
import com.google.protobuf.util.Durations;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusException;
import java.time.Duration;
import java.util.concurrent.TimeoutException;
import jobgateway.client.ResumePolicy.Resumption;
import jobgateway.v1.ContentChunk;
import jobgateway.v1.ContentFormat;
import jobgateway.v1.Heartbeat;
import jobgateway.v1.Job;
import jobgateway.v1.JobEvent;
import jobgateway.v1.WatchJobRequest;

/** Watches one job to its end, over as many streams as needed (docs/clients/index.md). */
final class ResumingWatch {

  /** Receives all events before the end, on the thread that waits. */
  interface Listener {
    /** Receives a state of the job, which is not done. */
    default void onJob(Job job) {}

    default void onHeartbeat(Heartbeat heartbeat) {}

    /** Receives a chunk of the result. {@code held} is the number of bytes before it. */
    default void onChunk(ContentChunk chunk, int held) {}

    /** Receives the reason for a resume, before the wait. */
    default void onResume(Resumption resumption) {}
  }

  /** A job that is done, and its result if that arrived in chunks ({@code contentOmitted}). */
  record Finished(Job job, ByteString content) {}

  private final Gateway gateway;
  private final long uid;
  private final Duration heartbeat;
  private final ContentFormat format;
  private final Listener listener;

  private final ResumePolicy policy = new ResumePolicy();
  private final ChunkedContent content = new ChunkedContent();
  private String resumeToken = "";

  /**
   * @param heartbeat the longest time between two events, which the gateway ensures; the watch
   *     cancels a stream after three of them without an event
   */
  ResumingWatch(
      Gateway gateway, long uid, Duration heartbeat, ContentFormat format, Listener listener) {
    this.gateway = gateway;
    this.uid = uid;
    this.heartbeat = heartbeat;
    this.format = format;
    this.listener = listener;
  }

  /**
   * Waits for the end. To cancel the watch, interrupt the thread; the job continues.
   *
   * @throws StatusException with a status that is final
   */
  Finished await() throws StatusException, InterruptedException {
    while (true) {
      var channel = gateway.channel();
      policy.opened();
      Resumption resumption;
      try {
        return new Finished(followOneStream(channel), content.bytes());
      } catch (TimeoutException silence) {
        resumption = policy.afterSilence();
      } catch (StatusException error) {
        resumption = policy.decide(Failure.of(error), resumeToken).orElseThrow(() -> error);
      }
      listener.onResume(resumption);
      resumption.prepare(gateway, channel, Duration.ZERO);
    }
  }

  private Job followOneStream(ManagedChannel channel)
      throws StatusException, InterruptedException, TimeoutException {
    var request =
        WatchJobRequest.newBuilder()
            .setUid(uid)
            .setContentFormat(format)
            .setHeartbeatInterval(Durations.fromMillis(heartbeat.toMillis()))
            .setResumeToken(resumeToken)
            .build();
    var call = Gateway.aboutJob(gateway.stub(channel), uid).watchJob(request);
    try {
      JobEvent event;
      while ((event = call.read(3 * heartbeat.toMillis(), MILLISECONDS)) != null) {
        policy.received(ResumePolicy.provesToken(event));
        if (!event.getResumeToken().isEmpty()) {
          resumeToken = event.getResumeToken();
        }
        switch (event.getPayloadCase()) {
          case JOB -> {
            if (event.getJob().getDone()) {
              return event.getJob();
            }
            listener.onJob(event.getJob());
          }
          case CONTENT_CHUNK -> {
            int held = content.add(event.getContentChunk());
            listener.onChunk(event.getContentChunk(), held);
          }
          case HEARTBEAT -> listener.onHeartbeat(event.getHeartbeat());
          default -> {} // a payload of a later version
        }
      }
      // A proxy ended the stream.
      throw Status.OK.withDescription("the stream ended before the job was done").asException();
    } finally {
      call.cancel("the watch no longer needs this stream", null);
    }
  }
}
