package jobgateway.client;

import com.google.protobuf.ByteString;
import io.grpc.StatusException;
import java.time.Duration;
import java.util.Collection;
import java.util.concurrent.TimeoutException;
import jobgateway.client.JobWatches.Again;
import jobgateway.client.JobWatches.Deliver;
import jobgateway.client.JobWatches.LogIn;
import jobgateway.v1.JobEvent;

/**
 * The events of many jobs, until each has ended or its watch has failed permanently, on one stream
 * that is resumed as often as needed. It is for one thread at a time, except {@code close}, and the
 * stream waits for a slow one. Closing it cancels the stream; the jobs continue.
 */
public final class WatchAll implements AutoCloseable {

  /** An event, or the end of the watch of one job by a failure. */
  public sealed interface Item permits Event, Failed {
    /** Returns the job; 0 for an event about the stream. */
    long uid();
  }

  /**
   * An event. A {@code synced} means that every watch has caught up.
   *
   * @param event the message
   */
  public record Event(JobEvent event) implements Item {
    @Override
    public long uid() {
      return event.getUid();
    }
  }

  /**
   * The watch of one job has failed permanently; the others continue. The job itself may continue.
   *
   * @param failure the reason; {@code DATA_LOSS} if the result of the job is damaged
   */
  public record Failed(long uid, GatewayException failure) implements Item {}

  private final Session session;
  private final Options options;
  private final JobWatches watches;
  private final ResumePolicy policy = new StreamPolicy();
  private final Scope scope;
  private Session.Access access;

  /** The current stream; null before the first one and between two. */
  private JobsStream stream;

  private RuntimeException failed;

  WatchAll(Session session, Collection<Long> uids, Options options) {
    this.session = session;
    this.options = options;
    scope = session.scope(options.timeout());
    watches = new JobWatches(uids, options, System::nanoTime);
    watches.begin();
  }

  /** Returns the number of jobs that have not ended. */
  public int pending() {
    return watches.pending();
  }

  /**
   * Returns the result of a job as JSON, or the part of it that has arrived in chunks. It is
   * complete with the end of the job, and dropped by the next call of {@code next}.
   */
  public ByteString result(long uid) {
    return watches.result(uid);
  }

  /**
   * Waits for the next item.
   *
   * @return the item, or null if every job has ended or its watch has failed
   * @throws GatewayException if the stream, and with it all watches, failed permanently; with the
   *     reason {@code CLOSED} if this watch or the client was closed
   */
  public Item next() throws InterruptedException {
    if (failed != null) {
      throw failed;
    }
    watches.release();
    boolean succeeded = false;
    try {
      var item = nextItem();
      if (item == null && stream != null) {
        stream.readEnd(ResumePolicy.END);
        closeStream();
      }
      succeeded = true;
      return item;
    } catch (RuntimeException error) {
      failed = error;
      throw error;
    } finally {
      if (!succeeded) {
        close();
      }
    }
  }

  /** Cancels the stream. Any thread may do so: {@code next} then ends. */
  @Override
  public void close() {
    scope.close();
  }

  private Item nextItem() throws InterruptedException {
    scope.start();
    while (pending() > 0) {
      scope.checkOpen();
      try {
        if (stream == null) {
          open();
        }
        var event = stream.next(options.silence());
        scope.checkOpen();
        policy.received(ResumePolicy.provesToken(event) || watches.provesTokenOfAll(event));
        var outcome = watches.take(event);
        if (outcome instanceof LogIn wanted) {
          scope.failed(wanted.failure());
          if (access.renewToken()) {
            watches.tokenRenewed();
            resume(policy.decide(wanted.failure(), watches.position(), true));
            continue;
          }
          outcome = watches.withoutLogin(wanted);
        }
        if (outcome instanceof Deliver delivery) {
          return delivery.item();
        } else if (outcome instanceof Again again) {
          options.retrying(again.retry());
        }
      } catch (TimeoutException silence) {
        resume(GatewayException.silentStream());
      } catch (StatusException error) {
        resume(scope.failure(error));
      }
    }
    return null;
  }

  private void open() throws InterruptedException {
    access = session.access(0, scope);
    policy.opened();
    stream = new JobsStream(access.asyncStub(), watches);
    access.cancelWith(stream::cancel);
  }

  private void resume(GatewayException failure) throws InterruptedException {
    closeStream();
    scope.failed(failure);
    boolean renewed = policy.wantsToken(failure) && access.renewToken();
    if (renewed) {
      watches.tokenRenewed();
    }
    resume(policy.decide(failure, watches.position(), renewed));
  }

  private void resume(Retry retry) throws InterruptedException {
    closeStream();
    watches.begin();
    // Without a request, the stream would have no heartbeats.
    var untilDue = watches.untilDue().orElse(Duration.ZERO);
    var delay = untilDue.compareTo(retry.delay()) > 0 ? untilDue : retry.delay();
    var next = new Retry(retry.failure(), retry.uid(), pending(), delay, retry.newConnection());
    access.waitFor(next, options);
  }

  private void closeStream() {
    stream = null;
    access.close();
  }

  /** Resumes after a defect of the gateway too, which may be in one event that would come again. */
  private static final class StreamPolicy extends ResumePolicy {
    StreamPolicy() {
      super(System::nanoTime);
    }

    @Override
    boolean mayResume(GatewayException failure, Object position) {
      return failure.reason().equals("GATEWAY_DEFECT")
          ? isFirstAt(position)
          : super.mayResume(failure, position);
    }
  }
}
