package jobgateway.client;

import com.google.protobuf.ByteString;
import io.grpc.ManagedChannel;
import io.grpc.StatusException;
import java.time.Duration;
import java.util.Collection;
import java.util.Optional;
import java.util.concurrent.TimeoutException;
import jobgateway.client.ResumePolicy.Resumption;
import jobgateway.v1.ContentChunk;
import jobgateway.v1.ContentFormat;
import jobgateway.v1.Heartbeat;
import jobgateway.v1.Job;

/**
 * Watches jobs until each has ended or its watch has failed for good, on one stream that is resumed
 * as often as needed (docs/clients/index.md).
 */
final class WatchAll {

  /** Receives all events, on the thread that waits. The stream waits for a slow listener. */
  interface Listener {
    /** Receives a state. {@code content} is the result of a done job if it arrived in chunks. */
    default void onJob(Job job, ByteString content) {}

    /** Receives a heartbeat of a job, or of the stream if {@code uid} is 0. */
    default void onHeartbeat(long uid, Heartbeat heartbeat) {}

    /** Receives a chunk of a result. {@code held} is the number of bytes before it. */
    default void onChunk(long uid, ContentChunk chunk, int held) {}

    /** Every watch that was requested so far has caught up: what follows is news. */
    default void onSynced() {}

    /** The watch of a job failed for good. The job itself may continue. */
    default void onFailed(long uid, Failure failure, String message) {}

    /** The watch of a job failed, and the job is watched again after a wait. */
    default void onAgain(long uid, Failure failure) {}

    /** The stream failed, and the {@code pending} watches resume with another one after a wait. */
    default void onResume(Resumption resumption, int pending) {}
  }

  /** The time in which a stream has to end after the last job. */
  private static final Duration END = Duration.ofSeconds(5);

  private final Gateway gateway;
  private final Duration heartbeat;
  private final Listener listener;
  private final JobWatches watches;
  private final ResumePolicy policy = new StreamPolicy();

  /**
   * @param heartbeat the longest time between two events, which the gateway ensures; the watch
   *     cancels a stream after three of them without an event
   */
  WatchAll(
      Gateway gateway,
      Collection<Long> uids,
      Duration heartbeat,
      ContentFormat format,
      Listener listener) {
    this.gateway = gateway;
    this.heartbeat = heartbeat;
    this.listener = listener;
    this.watches = new JobWatches(uids, heartbeat, format, listener);
  }

  /**
   * Waits for all ends. To cancel the watches, interrupt the thread; the jobs continue.
   *
   * @throws StatusException with a status that is final for the stream, and with it for all watches
   */
  void await() throws StatusException, InterruptedException {
    watches.begin();
    while (watches.pending() > 0) {
      var channel = gateway.channel();
      var resumption = followOneStream(channel);
      if (resumption.isPresent()) {
        resume(resumption.get(), channel);
      }
    }
  }

  /** Follows a stream to its end. Returns the way to resume, or nothing if no job is pending. */
  private Optional<Resumption> followOneStream(ManagedChannel channel)
      throws StatusException, InterruptedException {
    policy.opened();
    try (var stream = new JobsStream(gateway.asyncStub(channel), watches)) {
      while (true) {
        var event = stream.next(watches.pending() > 0 ? heartbeat.multipliedBy(3) : END);
        policy.received(ResumePolicy.provesToken(event) || watches.provesTokenOfAll(event));
        var rejection = watches.take(event);
        if (rejection.isPresent()) {
          return rejection.map(policy::resume);
        }
      }
    } catch (TimeoutException silence) {
      return watches.pending() > 0 ? Optional.of(policy.afterSilence()) : Optional.empty();
    } catch (StatusException error) {
      if (watches.pending() == 0) {
        return Optional.empty(); // how the stream ends after the last job does not matter
      }
      return Optional.of(
          policy.decide(Failure.of(error), watches.position()).orElseThrow(() -> error));
    }
  }

  private void resume(Resumption resumption, ManagedChannel channel) throws InterruptedException {
    if (resumption.freshToken()) {
      watches.tokenRenewed();
    }
    listener.onResume(resumption, watches.pending());
    watches.begin();
    resumption.prepare(gateway, channel, watches.untilDue().orElse(Duration.ZERO));
  }

  /** Resumes after a defect of the gateway too, which may be in one event that would come again. */
  private static final class StreamPolicy extends ResumePolicy {
    @Override
    boolean mayResume(Failure failure, Object position) {
      return failure.reason().equals("GATEWAY_DEFECT")
          ? isFirstAt(position)
          : super.mayResume(failure, position);
    }
  }
}
