package jobgateway.client;

import static java.util.concurrent.TimeUnit.NANOSECONDS;

import com.google.protobuf.ByteString;
import com.google.protobuf.util.Durations;
import io.grpc.StatusException;
import io.grpc.stub.BlockingClientCall;
import java.util.concurrent.TimeoutException;
import jobgateway.v1.Job;
import jobgateway.v1.JobEvent;
import jobgateway.v1.RunJobRequest;
import jobgateway.v1.SendJobRequest;
import jobgateway.v1.WatchJobRequest;

/**
 * The events of one job up to its end, over as many streams as needed. It is for one thread at a
 * time, except {@code close}. Closing it cancels the stream; the job continues.
 */
public final class Watch implements AutoCloseable {
  private final Session session;
  private final Options options;

  /** The submission of a run; null if the job was sent before. */
  private final SendJobRequest submission;

  private final Scope scope;
  private final ResumePolicy policy = new ResumePolicy(System::nanoTime);
  private final Content content = new Content();
  private long uid;
  private String resumeToken;
  private Session.Access access;

  /** The current stream; null before the first one and between two. */
  private BlockingClientCall<?, JobEvent> stream;

  private Job end;
  private RuntimeException failed;

  private Watch(Session session, Options options, SendJobRequest submission, long uid) {
    this.session = session;
    this.options = options;
    this.submission = submission;
    this.uid = uid;
    scope = session.scope(options.timeout());
    resumeToken = submission == null ? options.resumeToken() : "";
  }

  static Watch of(Session session, Options options, long uid) {
    return new Watch(session, options, null, uid);
  }

  static Watch of(Session session, Options options, SendJobRequest submission) {
    return new Watch(session, options.contentFormat(submission.getContentFormat()), submission, 0);
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
   * @throws GatewayException if the watch failed permanently, or the result is damaged; with the
   *     reason {@code CLOSED} if this watch or the client was closed
   */
  public JobEvent next() throws InterruptedException {
    if (failed != null) {
      throw failed;
    }
    if (end != null) {
      return null;
    }
    boolean succeeded = false;
    try {
      var event = nextEvent();
      succeeded = true;
      return event;
    } catch (RuntimeException error) {
      failed = error;
      throw error;
    } finally {
      // A run whose outcome is not known must not be sent again, and an event whose callback failed
      // must not look like an end.
      if (!succeeded) {
        end = null;
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

  /** Cancels the stream. Any thread may do so: {@code next} then ends. */
  @Override
  public void close() {
    scope.close();
  }

  private JobEvent nextEvent() throws InterruptedException {
    scope.start();
    while (true) {
      scope.checkOpen();
      GatewayException failure;
      try {
        if (stream == null) {
          open();
        }
        var event = stream.read(options.silence().toNanos(), NANOSECONDS);
        if (event != null) {
          scope.checkOpen();
          take(event);
          return event;
        }
        failure = GatewayException.streamWithoutEnd();
      } catch (TimeoutException silence) {
        failure = GatewayException.silentStream();
      } catch (StatusException error) {
        failure = scope.failure(error);
      }
      resume(failure);
    }
  }

  private void open() throws InterruptedException {
    access = session.access(uid, scope);
    policy.opened();
    var interval = Durations.fromNanos(options.heartbeat().toNanos());
    if (isUnknown()) {
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
    var opened = stream;
    access.cancelWith(() -> opened.cancel("the watch no longer needs this stream", null));
  }

  /** Returns whether this is a run that does not know its job yet. */
  private boolean isUnknown() {
    return uid == 0 && submission != null;
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
        content.verify(job, options.wantsResult());
        end = job;
      }
      options.progressed(job);
      if (job.getDone()) {
        readEnd();
      }
    }
  }

  private void resume(GatewayException failure) throws InterruptedException {
    closeStream();
    scope.failed(failure);
    if (isUnknown()) {
      // An error may name the job before an event does: it exists, and is never sent again.
      uid = failure.uid().orElse(0);
    }
    boolean renewed = policy.wantsToken(failure) && access.renewToken();
    access.waitFor(decide(failure, renewed), options);
  }

  private Retry decide(GatewayException failure, boolean renewed) {
    if (isUnknown() && !renewed) {
      if (failure.maySendAgain(!submission.getRequestId().isEmpty())) {
        return policy.retry(failure);
      }
      throw failure;
    }
    return policy.decide(failure, resumeToken, renewed);
  }

  /** Reads the status of the stream: without it, the call would be cancelled. */
  private void readEnd() {
    try {
      if (stream.read(ResumePolicy.END.toNanos(), NANOSECONDS) == null && access.isReplayed()) {
        options.replayed();
      }
    } catch (InterruptedException later) {
      // The event has arrived. The next call that waits is interrupted.
      Thread.currentThread().interrupt();
    } catch (TimeoutException | StatusException ignored) {
      // How the stream ends after the job does not matter.
    }
    closeStream();
  }

  private void closeStream() {
    stream = null;
    access.close();
  }
}
