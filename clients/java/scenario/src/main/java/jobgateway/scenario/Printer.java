package jobgateway.scenario;

import com.google.gson.FieldNamingPolicy;
import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonObject;
import com.google.protobuf.ByteString;
import jobgateway.client.GatewayException;
import jobgateway.client.Retry;
import jobgateway.v1.Job;
import jobgateway.v1.JobEvent;

/** Prints the observations of one step about one job, as one JSON line each. */
final class Printer {
  static final Gson GSON =
      new GsonBuilder()
          .setFieldNamingPolicy(FieldNamingPolicy.LOWER_CASE_WITH_UNDERSCORES)
          .create();

  private final String step;

  /** The job of a {@code watch_each}; otherwise null. */
  private final String uid;

  /** The number of bytes in chunks that have arrived. */
  private int held;

  Printer(String step, String uid) {
    this.step = step;
    this.uid = uid;
  }

  /** Prints an event. {@code result} is the part of the result that has arrived. */
  void event(JobEvent event, ByteString result) {
    switch (event.getPayloadCase()) {
      case JOB -> job(event.getJob(), result);
      case CONTENT_CHUNK -> {
        line("chunk", Views.ChunkView.of(uid, event.getContentChunk(), held));
        held = result.size();
      }
      case HEARTBEAT -> line("heartbeat", Views.HeartbeatView.of(uid, event.getHeartbeat()));
      default -> {} // a payload of a later version
    }
  }

  void job(Job job, ByteString result) {
    line("job", Views.JobView.of(job, result));
  }

  void resume(Retry retry) {
    line("resume", Views.ResumeView.of(uid, retry, null));
  }

  void error(GatewayException failure) {
    line("error", Views.ErrorView.of(uid, failure));
  }

  void line(String kind, Object view) {
    var line = new JsonObject();
    line.addProperty("do", step);
    line.add(kind, GSON.toJsonTree(view));
    System.out.println(line);
  }
}
