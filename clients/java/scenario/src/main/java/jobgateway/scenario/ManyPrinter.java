package jobgateway.scenario;

import com.google.protobuf.ByteString;
import java.util.HashMap;
import java.util.Map;
import jobgateway.client.Retry;
import jobgateway.client.WatchAll;
import jobgateway.v1.Job;
import jobgateway.v1.JobEvent;
import jobgateway.v1.JobStatus;

/** Prints the observations of a {@code watch_all}. */
final class ManyPrinter {
  private final Printer printer = new Printer("watch_all", null);

  /** The number of bytes in chunks that have arrived, by job. */
  private final Map<Long, Integer> held = new HashMap<>();

  private int lines;
  private int succeeded;
  private int failed;
  private int errors;

  /** Returns the number of lines so far. */
  int lines() {
    return lines;
  }

  /** Prints an item. {@code result} is the part of the result of its job that has arrived. */
  void item(WatchAll.Item item, ByteString result) {
    if (item instanceof WatchAll.Event event) {
      event(event.event(), result);
    } else if (item instanceof WatchAll.Failed failure) {
      errors++;
      line("error", Views.ErrorView.of(Long.toString(failure.uid()), failure.failure()));
    }
  }

  private void event(JobEvent event, ByteString result) {
    String uid = event.getUid() == 0 ? null : Long.toString(event.getUid());
    switch (event.getPayloadCase()) {
      case JOB -> {
        count(event.getJob());
        line("job", Views.JobView.of(event.getJob(), result));
      }
      case CONTENT_CHUNK -> {
        int before = held.getOrDefault(event.getUid(), 0);
        line("chunk", Views.ChunkView.of(uid, event.getContentChunk(), before));
        held.put(event.getUid(), result.size());
      }
      case HEARTBEAT -> line("heartbeat", Views.HeartbeatView.of(uid, event.getHeartbeat()));
      case SYNCED -> line("synced", true);
      default -> {} // a payload of a later version
    }
  }

  private void count(Job job) {
    if (job.getStatus() == JobStatus.JOB_STATUS_SUCCESS) {
      succeeded++;
    } else if (job.getDone()) {
      failed++;
    }
  }

  void retry(Retry retry) {
    if (retry.uid().isEmpty()) {
      line("resume", Views.ResumeView.of(null, retry, retry.jobs()));
      return;
    }
    var failure = retry.failure();
    var uid = Long.toString(retry.uid().getAsLong());
    line("again", new Views.AgainView(uid, failure.code().name(), failure.reason()));
  }

  void end() {
    line("ended", new Views.EndedView(succeeded, failed, errors));
  }

  private void line(String kind, Object view) {
    printer.line(kind, view);
    lines++;
  }
}
