package jobgateway.client;

import static java.util.concurrent.TimeUnit.NANOSECONDS;

import com.google.protobuf.ByteString;
import com.google.protobuf.util.Durations;
import io.grpc.StatusException;
import io.grpc.stub.BlockingClientCall;
import java.util.concurrent.TimeoutException;
import jobgateway.v1.ContentFormat;
import jobgateway.v1.Job;
import jobgateway.v1.JobEvent;
import jobgateway.v1.RunJobRequest;
import jobgateway.v1.SendJobRequest;
import jobgateway.v1.WatchJobRequest;

/**
 * The events of one job up to its end, over as many streams as needed. It is for one thread at a
 * time. Closing it cancels the stream; the job continues.
 */
public final class Watch implements AutoCloseable {
  private final Session session;
  private final Options options;

  /** The submission of a run; null if the job was sent before. */
  private final SendJobRequest submission;

  private final ResumePolicy policy = new ResumePolicy(System::nanoTime);
  private final Content content = new Content();
  private long uid;
  private String resumeToken = "";
  private Session.Access access;
  private BlockingClientCall<?, JobEvent> stream;
  private GatewayException last;
  private Job end;
  private RuntimeException failed;

  Watch(Session session, Options options, SendJobRequest submission, long uid) {
    this.session = session;
    this.options = options;
    this.submission = submission;
    this.uid = uid;
  }

  /** Returns the job; 0 if a run does not know it yet. */
  public long uid() {
    return uid;
  }

  /**
   * Returns the result as JSON; before the end of the job the part of it that has arrived in
   * chunks.
   */
  public ByteString result() {
    return end == null ? content.chunks() : content.json(end);
  }

  /**
   * Waits for the next event.
   *
   * @return the event, or null after the one whose {@code job.done} is true
   * @throws GatewayException if the watch failed permanently, or the result is damaged
   * @throws IllegalStateException if this watch or the client was closed
   */
  public JobEvent next() throws InterruptedException {
    if (failed != null) {
      throw failed;
    }
    boolean works = false;
    try {
      var event = end == null ? nextEvent() : null;
      if (event == null && stream != null) {
        readEnd();
        closeStream();
      }
      works = true;
      return event;
    } catch (RuntimeException error) {
      failed = error;
      throw error;
    } finally {
      // A run whose outcome is not known must not be sent again.
      if (!works) {
        close();
      }
    }
  }

  /** Reads the remaining events, and returns the job and its result. Closes the watch. */
  public Finished finish() throws InterruptedException {
    while (next() != null) {
      // The callbacks receive the events.
    }
    return new Finished(end, content.json(end));
  }

  @Override
  public void close() {
    if (failed == null && end == null) {
      failed = new IllegalStateException("the watch is closed");
    }
    closeStream();
  }

  private JobEvent nextEvent() throws InterruptedException {
    while (true) {
      GatewayException failure;
      try {
        if (stream == null) {
          open();
        }
        var event = stream.read(options.silence().toNanos(), NANOSECONDS);
        if (event != null) {
          take(event);
          return event;
        }
        failure = GatewayException.streamWithoutEnd();
      } catch (TimeoutException silence) {
        failure = GatewayException.silentStream();
      } catch (StatusException error) {
        failure = session.failure(error, last);
      }
      resume(failure);
    }
  }

  private void open() throws InterruptedException {
    access = session.access(uid);
    policy.opened();
    var interval = Durations.fromNanos(options.heartbeat().toNanos());
    if (uid == 0 && submission != null) {
      stream =
          access
              .stub()
              .runJob(
                  RunJobRequest.newBuilder()
                      .setRequest(submission)
                      .setHeartbeatInterval(interval)
                      .build());
    } else {
      stream =
          access
              .stub()
              .watchJob(
                  WatchJobRequest.newBuilder()
                      .setUid(uid)
                      .setContentFormat(options.contentFormat())
                      .setHeartbeatInterval(interval)
                      .setResumeToken(resumeToken)
                      .build());
    }
  }

  private void take(JobEvent event) {
    policy.received(ResumePolicy.provesToken(event));
    if (event.getUid() != 0) {
      uid = event.getUid();
    }
    if (!event.getResumeToken().isEmpty()) {
      resumeToken = event.getResumeToken();
    }
    if (event.hasContentChunk()) {
      content.add(event.getContentChunk());
    } else if (event.hasJob()) {
      var job = event.getJob();
      if (job.getDone()) {
        content.verify(job, deliversResult(options.contentFormat()));
        end = job;
      }
      options.progressed(job);
    }
  }

  /**
   * Returns whether a watch delivers a result of any size, rather than leave it to another call.
   */
  private static boolean deliversResult(ContentFormat format) {
    return format == ContentFormat.CONTENT_FORMAT_UNSPECIFIED
        || format == ContentFormat.CONTENT_FORMAT_JSON_CHUNKS;
  }

  private void resume(GatewayException failure) throws InterruptedException {
    var used = access;
    closeStream();
    boolean renewed = policy.wantsToken(failure) && used.renewToken();
    var retry = decide(failure, renewed);
    options.retrying(retry);
    last = failure;
    used.prepare(retry);
  }

  private Retry decide(GatewayException failure, boolean renewed) {
    if (uid == 0 && submission != null && !renewed) {
      // An error may name the job before an event does.
      uid = failure.uid().orElse(0);
      if (uid == 0) {
        if (failure.maySendAgain(!submission.getRequestId().isEmpty())) {
          return policy.retry(failure);
        }
        throw failure;
      }
    }
    return policy.decide(failure, resumeToken, renewed);
  }

  /** Reads the status of the stream: without it, the call would be cancelled. */
  private void readEnd() throws InterruptedException {
    try {
      if (stream.read(ResumePolicy.END.toNanos(), NANOSECONDS) == null && access.isReplayed()) {
        options.replayed();
      }
    } catch (TimeoutException | StatusException ignored) {
      // How the stream ends after the job does not matter.
    }
  }

  private void closeStream() {
    if (stream != null) {
      stream.cancel("the watch no longer needs this stream", null);
      stream = null;
    }
    if (access != null) {
      access.close();
      access = null;
    }
  }
}
