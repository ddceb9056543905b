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
import java.util.Map;
import java.util.Objects;
import jobgateway.v1.CancelJobRequest;
import jobgateway.v1.ContentChunk;
import jobgateway.v1.ContentFormat;
import jobgateway.v1.GetJobRequest;
import jobgateway.v1.Heartbeat;
import jobgateway.v1.Job;
import jobgateway.v1.WaitJobRequest;

/** Runs the steps of a scenario file and prints its observations (clients/README.md). */
public final class Main {
  private static final Gson GSON =
      new GsonBuilder()
          .setFieldNamingPolicy(FieldNamingPolicy.LOWER_CASE_WITH_UNDERSCORES)
          .create();
  private static final Duration DEADLINE = Duration.ofSeconds(30);

  private final Gateway gateway;
  private long uid;

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
    if (step.uid() != null) {
      uid = Long.parseLong(step.uid());
    }
    var calls =
        new UnaryCalls(gateway, failure -> print(step, "error", Views.ErrorView.of(failure)));
    switch (step.action()) {
      case "send" -> {
        var request = step.request().toMessage();
        boolean repeatable = !request.getRequestId().isEmpty();
        var job = calls.call(DEADLINE, repeatable, stub -> stub.sendJob(request));
        printJob(step, job, ByteString.EMPTY);
        uid = job.getUid();
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
      case "watch" -> watch(step);
      default -> throw new IllegalArgumentException("unknown step " + step.action());
    }
  }

  private void watch(Scenario.Step step) throws StatusException, InterruptedException {
    var heartbeat = Duration.ofSeconds(Objects.requireNonNullElse(step.heartbeatSeconds(), 15));
    var format =
        step.chunks()
            ? ContentFormat.CONTENT_FORMAT_JSON_CHUNKS
            : ContentFormat.CONTENT_FORMAT_UNSPECIFIED;
    var watch = new ResumingWatch(gateway, uid, heartbeat, format, new Printer(step));
    try {
      var finished = watch.await();
      printJob(step, finished.job(), finished.content());
    } catch (StatusException error) {
      print(step, "error", Views.ErrorView.of(Failure.of(error)));
      throw error;
    }
  }

  private record Printer(Scenario.Step step) implements ResumingWatch.Listener {
    @Override
    public void onJob(Job job) {
      printJob(step, job, ByteString.EMPTY);
    }

    @Override
    public void onHeartbeat(Heartbeat heartbeat) {
      var view =
          new Views.HeartbeatView(heartbeat.getConsecutiveFailures(), heartbeat.getLastFailure());
      print(step, "heartbeat", view);
    }

    @Override
    public void onChunk(ContentChunk chunk, int held) {
      print(step, "chunk", new Views.ChunkView(chunk.getOffset(), chunk.getData().size(), held));
    }

    @Override
    public void onResume(ResumingWatch.Resumption resumption) {
      var view =
          new Views.ResumeView(
              resumption.code().name(), resumption.reason(), resumption.newConnection());
      print(step, "resume", view);
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
