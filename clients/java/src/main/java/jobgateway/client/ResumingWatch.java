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

/** Watches one job to its end, over as many streams as that takes. */
final class ResumingWatch {

  /** Told of everything before the end, on the thread that waits. */
  interface Listener {
    /** The job goes on. */
    default void onJob(Job job) {}

    default void onHeartbeat(Heartbeat heartbeat) {}

    /** A chunk of the result came; {@code held} bytes were there before it. */
    default void onChunk(ContentChunk chunk, int held) {}

    /** A stream failed, and another one follows after a wait. */
    default void onResume(Resumption resumption) {}
  }

  /** How the watch goes on after a stream that failed. */
  record Resumption(
      Status.Code code,
      String reason,
      Optional<Duration> retryAfter,
      boolean newConnection,
      boolean freshToken) {}

  /** A job that is done, and its result where that came in chunks ({@code contentOmitted}). */
  record Finished(Job job, ByteString content) {}

  private final Gateway gateway;
  private final long uid;
  private final Duration heartbeat;
  private final ContentFormat format;
  private final Listener listener;

  private String resumeToken = "";
  private ByteString content = ByteString.EMPTY;
  private boolean heard;
  private boolean tokenIsUnproven;
  private Optional<String> overLimitAt = Optional.empty();
  private long lastEvent;

  /**
   * @param heartbeat the longest silence between two events, which the gateway keeps; three of them
   *     end a stream
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
   * Waits for the end. To leave earlier, interrupt the thread; the job runs on.
   *
   * @throws StatusException with which no stream goes on
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
        resumption = judge(error).orElseThrow(() -> error);
      }
      listener.onResume(resumption);
      // A stream may break after its first event each time: only one that worked for long counts.
      if (lastEvent - started >= Backoff.LONGEST_WAIT.toNanos()) {
        backoff.reset();
      }
      backoff.await(resumption.retryAfter());
      if (resumption.newConnection()) {
        gateway.reconnect(channel);
      }
      if (resumption.freshToken()) {
        gateway.logIn();
        tokenIsUnproven = true;
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
    var call = gateway.stub(channel).watchJob(request);
    try {
      JobEvent event;
      while ((event = call.read(3 * heartbeat.toMillis(), MILLISECONDS)) != null) {
        lastEvent = System.nanoTime();
        heard = true;
        tokenIsUnproven &= !provesToken(event);
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
          default -> {} // A later gateway may say more.
        }
      }
      // A proxy ended it.
      throw Status.OK.withDescription("the stream ended before the job was done").asException();
    } finally {
      call.cancel("the watch left this stream", null);
    }
  }

  /**
   * Whether an event shows that the upstream accepts the token. A heartbeat also comes before the
   * first read has ended, and between a refusal and the read that confirms it.
   */
  private static boolean provesToken(JobEvent event) {
    return switch (event.getPayloadCase()) {
      case JOB, CONTENT_CHUNK -> true;
      case HEARTBEAT ->
          event.getHeartbeat().hasObserveTime() && event.getHeartbeat().getLastFailure().isEmpty();
      default -> false;
    };
  }

  /** How to go on after {@code error}; empty if nothing helps. */
  private Optional<Resumption> judge(StatusException error) {
    var failure = Failure.of(error);
    boolean isForeign = failure.reason().isEmpty();
    boolean resumable =
        switch (failure.code()) {
          case UNAVAILABLE -> true;
          case RESOURCE_EXHAUSTED -> failure.retryAfter().isPresent();
          case UNAUTHENTICATED -> !tokenIsUnproven;
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
            // A new one also forgets the old one's own backoff, which grows up to two minutes.
            isForeign || failure.reason().equals("DRAINING"),
            failure.code() == Status.Code.UNAUTHENTICATED));
  }

  /**
   * Whether a status that is not the gateway's means a broken stream, and not a wrong address or a
   * limit.
   */
  private boolean isBroken(Status.Code code) {
    return switch (code) {
      case OK, CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE -> true;
      case RESOURCE_EXHAUSTED, OUT_OF_RANGE -> {
        // A message over this client's own receive limit ends like this, and would do so again.
        boolean again = overLimitAt.equals(Optional.of(resumeToken));
        overLimitAt = Optional.of(resumeToken);
        yield heard && !again;
      }
      default -> heard;
    };
  }
}
