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
import java.util.OptionalLong;
import java.util.PriorityQueue;
import java.util.function.LongSupplier;
import jobgateway.v1.JobEvent;
import jobgateway.v1.WatchJobRequest;
import jobgateway.v1.WatchJobsRequest;

/**
 * The watches of many jobs: the requests of the current stream, and the consequence of each event.
 * A job is pending until it has ended or its watch has failed permanently.
 */
final class JobWatches {

  /** The consequence of an event. */
  sealed interface Outcome {}

  record Nothing() implements Outcome {}

  record Deliver(WatchAll.Item item) implements Outcome {}

  /** The job is watched again on the same stream. */
  record Again(Retry retry) implements Outcome {}

  /** A fresh token may help, on another stream. */
  record LogIn(long uid, GatewayException failure) implements Outcome {}

  /** The watch of one job. Times are those of the clock. */
  private final class JobWatch implements Comparable<JobWatch> {
    final long uid;
    final Backoff backoff = new Backoff();
    String resumeToken = "";

    /** The time from which its next request may be sent. */
    long dueAt = clock.getAsLong();

    long sentAt;

    /** The token is fresh, and nothing has shown yet that it may read this job. */
    boolean tokenUnproven;

    JobWatch(long uid) {
      this.uid = uid;
    }

    Duration untilDue() {
      return Duration.ofNanos(dueAt - clock.getAsLong());
    }

    void received(JobEvent event) {
      if (!event.getResumeToken().isEmpty()) {
        resumeToken = event.getResumeToken();
      }
      tokenUnproven &= !ResumePolicy.provesToken(event);
      backoff.received(clock.getAsLong() - sentAt);
    }

    @Override
    public int compareTo(JobWatch other) {
      return Long.signum(dueAt - other.dueAt);
    }
  }

  private final Options options;
  private final LongSupplier clock;
  private final Map<Long, JobWatch> pending = new LinkedHashMap<>();
  private final Map<Long, Content> contents = new LinkedHashMap<>();

  /** The jobs that were not sent on the current stream, by the time at which they are due. */
  private PriorityQueue<JobWatch> unsent = new PriorityQueue<>();

  private long sent;
  private long position;

  /** The login returned no token. */
  private boolean noToken;

  /** The last event of the job that ended with it; otherwise null. */
  private JobEvent ended;

  /**
   * @param clock in nanoseconds, such as {@code System::nanoTime}
   */
  JobWatches(Collection<Long> uids, Options options, LongSupplier clock) {
    this.options = options;
    this.clock = clock;
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

  /** Returns the result of a job as JSON, or the part of it that has arrived in chunks. */
  ByteString result(long uid) {
    var content = contents.getOrDefault(uid, new Content());
    boolean hasEnded = ended != null && ended.getUid() == uid;
    return hasEnded ? content.json(ended.getJob()) : content.chunks();
  }

  /** Drops the result of the job that ended with the last event. */
  void release() {
    if (ended != null) {
      contents.remove(ended.getUid());
      ended = null;
    }
  }

  /** Begins a stream. Open it after {@code untilDue}: without a request, it has no heartbeats. */
  void begin() {
    unsent = new PriorityQueue<>(pending.values());
    sent = 0;
    noToken = false;
  }

  /** Takes a request that is due, if there is one. */
  Optional<WatchJobsRequest> nextRequest() {
    if (untilDue().filter(wait -> wait.toNanos() <= 0).isEmpty()) {
      return Optional.empty();
    }
    var watch = unsent.remove();
    watch.sentAt = clock.getAsLong();
    sent++;
    var request =
        WatchJobRequest.newBuilder()
            .setUid(watch.uid)
            .setContentFormat(options.contentFormat())
            // A stream takes its interval from its first request, and each one may be the first.
            .setHeartbeatInterval(Durations.fromNanos(options.heartbeat().toNanos()))
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

  /** Notes an event. Events of a job that has ended have no consequence. */
  Outcome take(JobEvent event) {
    position += event.hasFailure() || event.getResumeToken().isEmpty() ? 0 : 1;
    if (provesTokenOfAll(event)) {
      var waiting = new HashSet<>(unsent);
      pending.values().forEach(watch -> watch.tokenUnproven &= waiting.contains(watch));
    }
    var watch = pending.get(event.getUid());
    if (watch == null) {
      return event.getUid() == 0 ? new Deliver(new WatchAll.Event(event)) : new Nothing();
    }
    if (event.hasFailure()) {
      return takeFailure(watch, GatewayException.of(event.getFailure()));
    }
    watch.received(event);
    if (event.hasContentChunk()) {
      contents.computeIfAbsent(watch.uid, uid -> new Content()).add(event.getContentChunk());
    } else if (event.hasJob() && event.getJob().getDone()) {
      return takeEnd(watch, event);
    }
    return new Deliver(new WatchAll.Event(event));
  }

  private Outcome takeEnd(JobWatch watch, JobEvent event) {
    pending.remove(watch.uid);
    ended = event;
    try {
      var content = contents.getOrDefault(watch.uid, new Content());
      content.verify(event.getJob(), options.wantsResult());
      return new Deliver(new WatchAll.Event(event));
    } catch (GatewayException damaged) {
      return new Deliver(new WatchAll.Failed(watch.uid, damaged));
    }
  }

  private Outcome takeFailure(JobWatch watch, GatewayException failure) {
    if (failure.reason().equals("ALREADY_WATCHED")) {
      return new Nothing(); // it ends no watch
    }
    if (failure.code() == Status.Code.UNAUTHENTICATED && !watch.tokenUnproven && !noToken) {
      return new LogIn(watch.uid, failure);
    }
    return fail(watch, failure);
  }

  /** Returns the consequence of a rejected token if there is no other one. */
  Outcome withoutLogin(LogIn wanted) {
    noToken = true;
    return fail(pending.get(wanted.uid()), wanted.failure());
  }

  private Outcome fail(JobWatch watch, GatewayException failure) {
    if (!failure.isTransient()) {
      pending.remove(watch.uid);
      contents.remove(watch.uid);
      return new Deliver(new WatchAll.Failed(watch.uid, failure));
    }
    var delay = watch.backoff.next(failure.retryAfter());
    watch.dueAt = clock.getAsLong() + delay.toNanos();
    unsent.add(watch);
    return new Again(new Retry(failure, OptionalLong.of(watch.uid), pending(), delay, false));
  }
}
