package jobgateway.client;

import com.google.gson.FieldNamingPolicy;
import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonObject;
import com.google.gson.reflect.TypeToken;
import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.util.Durations;
import io.grpc.StatusException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import jobgateway.client.ResumePolicy.Resumption;
import jobgateway.v1.CancelJobRequest;
import jobgateway.v1.ContentChunk;
import jobgateway.v1.ContentFormat;
import jobgateway.v1.GetJobRequest;
import jobgateway.v1.Heartbeat;
import jobgateway.v1.Job;
import jobgateway.v1.JobStatus;
import jobgateway.v1.WaitJobRequest;

/** Runs the steps of a scenario file and prints its observations (clients/README.md). */
public final class Main {
  private static final Gson GSON =
      new GsonBuilder()
          .setFieldNamingPolicy(FieldNamingPolicy.LOWER_CASE_WITH_UNDERSCORES)
          .create();
  private static final Duration DEADLINE = Duration.ofSeconds(30);

  private final Gateway gateway;
  private final List<Long> sent = new ArrayList<>();

  private Main(Gateway gateway) {
    this.gateway = gateway;
  }

  public static void main(String[] args) throws IOException, InterruptedException {
    if (args.length != 3) {
      System.err.println("usage: <target> <scenario-file> <service-config-file>");
      System.exit(2);
    }
    var scenario = GSON.fromJson(Files.readString(Path.of(args[1])), Scenario.class);
    Map<String, Object> serviceConfig =
        GSON.fromJson(Files.readString(Path.of(args[2])), new TypeToken<>() {});
    var environment = System.getenv();
    try (var gateway =
        new Gateway(
            args[0],
            serviceConfig,
            environment.get("JOBGATEWAY_TOKEN"),
            () -> environment.get("JOBGATEWAY_FRESH_TOKEN"))) {
      var program = new Main(gateway);
      for (var step : scenario.steps()) {
        try {
          program.perform(step);
        } catch (StatusException error) {
          // It has been printed.
        }
      }
    }
  }

  private void perform(Scenario.Step step)
      throws StatusException, InterruptedException, InvalidProtocolBufferException {
    long uid = uidOf(step);
    var calls =
        new UnaryCalls(gateway, failure -> print(step, "error", Views.ErrorView.of(null, failure)));
    switch (step.action()) {
      case "send" -> {
        var request = step.request().toMessage();
        boolean repeatable = !request.getRequestId().isEmpty();
        for (int left = Objects.requireNonNullElse(step.count(), 1); left > 0; left--) {
          var job = calls.call(DEADLINE, repeatable, stub -> stub.sendJob(request));
          printJob(step, job, ByteString.EMPTY);
          sent.add(job.getUid());
        }
      }
      case "get" -> {
        var request = GetJobRequest.newBuilder().setUid(uid).build();
        printJob(
            step,
            calls.call(DEADLINE, true, stub -> Gateway.aboutJob(stub, uid).getJob(request)),
            ByteString.EMPTY);
      }
      case "cancel" -> {
        var request = CancelJobRequest.newBuilder().setUid(uid).build();
        printJob(
            step,
            calls.call(DEADLINE, true, stub -> Gateway.aboutJob(stub, uid).cancelJob(request)),
            ByteString.EMPTY);
      }
      case "wait" -> {
        int seconds = Objects.requireNonNullElse(step.timeoutSeconds(), 60);
        var timeout = Durations.fromSeconds(seconds);
        var request = WaitJobRequest.newBuilder().setUid(uid).setTimeout(timeout).build();
        Job job;
        do {
          job =
              calls.call(
                  DEADLINE.plusSeconds(seconds),
                  true,
                  stub -> Gateway.aboutJob(stub, uid).waitJob(request));
          printJob(step, job, ByteString.EMPTY);
        } while (!job.getDone());
      }
      case "watch", "watch_all" -> {
        try {
          if (step.action().equals("watch")) {
            watch(step, uid);
          } else {
            watchAll(step);
          }
        } catch (StatusException error) {
          print(step, "error", Views.ErrorView.of(null, Failure.of(error)));
          throw error;
        }
      }
      default -> throw new IllegalArgumentException("unknown step " + step.action());
    }
  }

  private long uidOf(Scenario.Step step) {
    if (step.uid() != null) {
      return Long.parseLong(step.uid());
    }
    return sent.isEmpty() ? 0 : sent.get(sent.size() - 1);
  }

  private void watch(Scenario.Step step, long uid) throws StatusException, InterruptedException {
    var watch =
        new ResumingWatch(gateway, uid, heartbeat(step), format(step), new WatchPrinter(step));
    var finished = watch.await();
    printJob(step, finished.job(), finished.content());
  }

  /** Watches the jobs that were sent, and those of the step. */
  private void watchAll(Scenario.Step step) throws StatusException, InterruptedException {
    var uids = new ArrayList<>(sent);
    if (step.uids() != null) {
      step.uids().forEach(uid -> uids.add(Long.parseLong(uid)));
    }
    var printer = new WatchAllPrinter(step);
    new WatchAll(gateway, uids, heartbeat(step), format(step), printer).await();
    print(step, "ended", printer.ended());
  }

  private static Duration heartbeat(Scenario.Step step) {
    return Duration.ofSeconds(Objects.requireNonNullElse(step.heartbeatSeconds(), 15));
  }

  private static ContentFormat format(Scenario.Step step) {
    return step.chunks()
        ? ContentFormat.CONTENT_FORMAT_JSON_CHUNKS
        : ContentFormat.CONTENT_FORMAT_UNSPECIFIED;
  }

  private record WatchPrinter(Scenario.Step step) implements ResumingWatch.Listener {
    @Override
    public void onJob(Job job) {
      printJob(step, job, ByteString.EMPTY);
    }

    @Override
    public void onHeartbeat(Heartbeat heartbeat) {
      print(step, "heartbeat", Views.HeartbeatView.of(null, heartbeat));
    }

    @Override
    public void onChunk(ContentChunk chunk, int held) {
      print(step, "chunk", Views.ChunkView.of(null, chunk, held));
    }

    @Override
    public void onResume(Resumption resumption) {
      print(step, "resume", Views.ResumeView.of(resumption, null));
    }
  }

  private static final class WatchAllPrinter implements WatchAll.Listener {
    private final Scenario.Step step;
    private int lines;
    private int succeeded;
    private int failed;
    private int errors;

    WatchAllPrinter(Scenario.Step step) {
      this.step = step;
    }

    Views.EndedView ended() {
      return new Views.EndedView(succeeded, failed, errors);
    }

    @Override
    public void onJob(Job job, ByteString content) {
      if (job.getDone() && job.getStatus() == JobStatus.JOB_STATUS_SUCCESS) {
        succeeded++;
      } else if (job.getDone()) {
        failed++;
      }
      line("job", Views.JobView.of(job, content));
    }

    @Override
    public void onHeartbeat(long uid, Heartbeat heartbeat) {
      line("heartbeat", Views.HeartbeatView.of(uid == 0 ? null : Long.toString(uid), heartbeat));
    }

    @Override
    public void onChunk(long uid, ContentChunk chunk, int held) {
      line("chunk", Views.ChunkView.of(Long.toString(uid), chunk, held));
    }

    @Override
    public void onSynced() {
      line("synced", true);
    }

    @Override
    public void onFailed(long uid, Failure failure, String message) {
      errors++;
      line("error", Views.ErrorView.of(Long.toString(uid), failure));
    }

    @Override
    public void onAgain(long uid, Failure failure) {
      line(
          "again",
          new Views.AgainView(Long.toString(uid), failure.code().name(), failure.reason()));
    }

    @Override
    public void onResume(Resumption resumption, int pending) {
      line("resume", Views.ResumeView.of(resumption, pending));
    }

    private void pause() {
      try {
        Thread.sleep(Duration.ofSeconds(step.pauseSeconds()).toMillis());
      } catch (InterruptedException stopped) {
        Thread.currentThread().interrupt();
      }
    }

    private void line(String kind, Object view) {
      print(step, kind, view);
      lines++;
      if (Objects.equals(lines, step.pauseAfter())) {
        pause();
      }
    }
  }

  private static void printJob(Scenario.Step step, Job job, ByteString chunks) {
    print(step, "job", Views.JobView.of(job, chunks));
  }

  private static void print(Scenario.Step step, String kind, Object view) {
    var line = new JsonObject();
    line.addProperty("do", step.action());
    line.add(kind, GSON.toJsonTree(view));
    System.out.println(line);
    System.out.flush();
  }
}
