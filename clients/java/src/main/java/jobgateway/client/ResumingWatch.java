package jobgateway.client;

import static java.util.concurrent.TimeUnit.MILLISECONDS;

import com.google.protobuf.ByteString;
import com.google.protobuf.util.Durations;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusException;
import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.TimeoutException;
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

  /** The reason why a watch resumes with another stream, and how. */
  record Resumption(
      Status.Code code,
      String reason,
      Optional<Duration> retryAfter,
      boolean newConnection,
      boolean freshToken) {}

  /** A job that is done, and its result if that arrived in chunks ({@code contentOmitted}). */
  record Finished(Job job, ByteString content) {}

  private final Gateway gateway;
  private final long uid;
  private final Duration heartbeat;
  private final ContentFormat format;
  private final Listener listener;

  private String resumeToken = "";
  private ByteString content = ByteString.EMPTY;
  private boolean received;
  private boolean tokenUnproven;
  private Optional<String> overLimitAt = Optional.empty();
  private long lastEvent;

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
    var backoff = new Backoff();
    while (true) {
      long started = lastEvent = System.nanoTime();
      var channel = gateway.channel();
      Resumption resumption;
      try {
        return new Finished(followOneStream(channel), content);
      } catch (TimeoutException silence) {
        resumption = new Resumption(Status.Code.CANCELLED, "SILENT", Optional.empty(), true, false);
      } catch (StatusException error) {
        resumption = decide(error).orElseThrow(() -> error);
      }
      listener.onResume(resumption);
      // One event does not prove that the stream works: it may break after its first event each
      // time.
      if (lastEvent - started >= Backoff.MAX.toNanos()) {
        backoff.reset();
      }
      backoff.await(resumption.retryAfter());
      if (resumption.newConnection()) {
        gateway.reconnect(channel);
      }
      if (resumption.freshToken()) {
        gateway.logIn();
        tokenUnproven = true;
      }
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
        lastEvent = System.nanoTime();
        received = true;
        tokenUnproven &= !provesToken(event);
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
            var chunk = event.getContentChunk();
            int held = content.size();
            content = content.substring(0, (int) chunk.getOffset()).concat(chunk.getData());
            listener.onChunk(chunk, held);
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

  /**
   * Returns whether an event proves that the upstream accepts the token. Some heartbeats do not:
   * those before the first read has ended, and those between a refusal and the read that confirms
   * it.
   */
  private static boolean provesToken(JobEvent event) {
    return switch (event.getPayloadCase()) {
      case JOB, CONTENT_CHUNK -> true;
      case HEARTBEAT ->
          event.getHeartbeat().hasObserveTime() && event.getHeartbeat().getLastFailure().isEmpty();
      default -> false;
    };
  }

  /** Decides how to resume after {@code error}; empty if the status is final. */
  private Optional<Resumption> decide(StatusException error) {
    var failure = Failure.of(error);
    boolean isForeign = failure.reason().isEmpty();
    boolean resumable =
        switch (failure.code()) {
          case UNAVAILABLE -> true;
          case RESOURCE_EXHAUSTED -> failure.retryAfter().isPresent();
          case UNAUTHENTICATED -> !tokenUnproven;
          default -> false;
        };
    if (!resumable && !(isForeign && isBroken(failure.code()))) {
      return Optional.empty();
    }
    return Optional.of(
        new Resumption(
            failure.code(),
            failure.reason(),
            failure.retryAfter(),
            // A new connection is made immediately. The old one would wait up to two minutes.
            isForeign || failure.reason().equals("DRAINING"),
            failure.code() == Status.Code.UNAUTHENTICATED));
  }

  /**
   * Returns whether a status without the gateway's {@code ErrorInfo} means a broken stream, rather
   * than a wrong address or a size limit.
   */
  private boolean isBroken(Status.Code code) {
    return switch (code) {
      case OK, CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE -> true;
      case RESOURCE_EXHAUSTED, OUT_OF_RANGE -> {
        // A message over this client's own receive limit causes this status, and would cause it
        // again.
        boolean again = overLimitAt.equals(Optional.of(resumeToken));
        overLimitAt = Optional.of(resumeToken);
        yield received && !again;
      }
      default -> received;
    };
  }
}
