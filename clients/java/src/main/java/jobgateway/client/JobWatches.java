package jobgateway.client;

import com.google.protobuf.ByteString;
import com.google.protobuf.util.Durations;
import io.grpc.Status;
import java.time.Duration;
import java.util.Collection;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;
import java.util.PriorityQueue;
import jobgateway.v1.ContentFormat;
import jobgateway.v1.JobEvent;
import jobgateway.v1.WatchFailure;
import jobgateway.v1.WatchJobRequest;
import jobgateway.v1.WatchJobsRequest;

/**
 * The watches of many jobs: the requests of the current stream, and the reaction to each event. A
 * job is pending until it has ended or its watch has failed for good.
 */
final class JobWatches {

  /** The watch of one job. Times are those of {@code System.nanoTime()}. */
  private static final class JobWatch implements Comparable<JobWatch> {
    final long uid;
    final ChunkedContent content = new ChunkedContent();
    final Backoff backoff = new Backoff();
    String resumeToken = "";

    /** The time from which its next request may be sent. */
    long dueAt = System.nanoTime();

    long sentAt;

    /** The token is fresh, and nothing has shown yet that it may read this job. */
    boolean tokenUnproven;

    JobWatch(long uid) {
      this.uid = uid;
    }

    Duration untilDue() {
      return Duration.ofNanos(dueAt - System.nanoTime());
    }

    void received(JobEvent event) {
      if (!event.getResumeToken().isEmpty()) {
        resumeToken = event.getResumeToken();
      }
      tokenUnproven &= !ResumePolicy.provesToken(event);
      if (System.nanoTime() - sentAt > Backoff.MAX.toNanos()) {
        backoff.reset();
      }
    }

    @Override
    public int compareTo(JobWatch other) {
      return Long.signum(dueAt - other.dueAt);
    }
  }

  private final Duration heartbeat;
  private final ContentFormat format;
  private final WatchAll.Listener listener;
  private final Map<Long, JobWatch> pending = new LinkedHashMap<>();

  /** The jobs that were not sent on the current stream, by the time at which they are due. */
  private PriorityQueue<JobWatch> unsent = new PriorityQueue<>();

  private long sent;
  private long position;

  JobWatches(
      Collection<Long> uids, Duration heartbeat, ContentFormat format, WatchAll.Listener listener) {
    this.heartbeat = heartbeat;
    this.format = format;
    this.listener = listener;
    uids.forEach(uid -> pending.computeIfAbsent(uid, JobWatch::new));
  }

  /** Returns the number of jobs that are pending. */
  int pending() {
    return pending.size();
  }

  /** Returns the number of events after which a watch can continue. */
  long position() {
    return position;
  }

  /** Returns the time until the next request of this stream may be sent; empty if there is none. */
  Optional<Duration> untilDue() {
    return Optional.ofNullable(unsent.peek()).map(JobWatch::untilDue);
  }

  /** Begins a stream. Open it after {@code untilDue}: without a request, it has no heartbeats. */
  void begin() {
    unsent = new PriorityQueue<>(pending.values());
    sent = 0;
  }

  /** Takes a request that is due, if there is one. */
  Optional<WatchJobsRequest> nextRequest() {
    if (untilDue().filter(wait -> wait.toNanos() <= 0).isEmpty()) {
      return Optional.empty();
    }
    var watch = unsent.remove();
    watch.sentAt = System.nanoTime();
    sent++;
    var request =
        WatchJobRequest.newBuilder()
            .setUid(watch.uid)
            .setContentFormat(format)
            // A stream takes its interval from its first request, and each one may be the first.
            .setHeartbeatInterval(Durations.fromMillis(heartbeat.toMillis()))
            .setResumeToken(watch.resumeToken);
    return Optional.of(WatchJobsRequest.newBuilder().setWatch(request).build());
  }

  /** Returns whether an event proves the token for every job that was requested on this stream. */
  boolean provesTokenOfAll(JobEvent event) {
    return event.hasSynced() && event.getSynced().getWatchRequests() >= sent;
  }

  /** Notes that the next stream has a fresh token. */
  void tokenRenewed() {
    pending.values().forEach(watch -> watch.tokenUnproven = true);
  }

  /**
   * Notes an event, and tells the listener.
   *
   * @return the rejection of a token, if all jobs need a stream with a fresh one
   */
  Optional<Failure> take(JobEvent event) {
    position += event.getResumeToken().isEmpty() ? 0 : 1;
    if (event.hasSynced()) {
      takeSynced(event);
      return Optional.empty();
    }
    var watch = pending.get(event.getUid());
    if (watch == null) {
      if (event.getUid() == 0 && event.hasHeartbeat()) {
        listener.onHeartbeat(0, event.getHeartbeat());
      }
      return Optional.empty();
    }
    if (event.hasFailure()) {
      return takeFailure(watch, event.getFailure());
    }
    watch.received(event);
    switch (event.getPayloadCase()) {
      case JOB -> takeState(watch, event);
      case CONTENT_CHUNK -> {
        int held = watch.content.add(event.getContentChunk());
        listener.onChunk(watch.uid, event.getContentChunk(), held);
      }
      case HEARTBEAT -> listener.onHeartbeat(watch.uid, event.getHeartbeat());
      default -> {} // a payload of a later version
    }
    return Optional.empty();
  }

  private void takeState(JobWatch watch, JobEvent event) {
    var job = event.getJob();
    if (!job.getDone()) {
      listener.onJob(job, ByteString.EMPTY);
      return;
    }
    pending.remove(watch.uid);
    if (format != ContentFormat.CONTENT_FORMAT_NONE && watch.content.isDamaged(job)) {
      var damaged = new Failure(Status.Code.DATA_LOSS, "", Map.of(), Optional.empty());
      listener.onFailed(watch.uid, damaged, "the SHA-256 of the result is wrong");
    } else {
      listener.onJob(job, watch.content.bytes());
    }
  }

  private Optional<Failure> takeFailure(JobWatch watch, WatchFailure watchFailure) {
    var failure = Failure.of(watchFailure);
    if (failure.reason().equals("ALREADY_WATCHED")) {
      return Optional.empty(); // it ends no watch
    }
    if (failure.code() == Status.Code.UNAUTHENTICATED && !watch.tokenUnproven) {
      return Optional.of(failure);
    }
    if (failure.isTransient()) {
      watch.dueAt = System.nanoTime() + watch.backoff.next(failure.retryAfter()).toNanos();
      unsent.add(watch);
      listener.onAgain(watch.uid, failure);
    } else {
      pending.remove(watch.uid);
      listener.onFailed(watch.uid, failure, watchFailure.getMessage());
    }
    return Optional.empty();
  }

  private void takeSynced(JobEvent event) {
    if (provesTokenOfAll(event)) {
      var waiting = new HashSet<>(unsent);
      pending.values().forEach(watch -> watch.tokenUnproven &= waiting.contains(watch));
    }
    listener.onSynced();
  }
}
