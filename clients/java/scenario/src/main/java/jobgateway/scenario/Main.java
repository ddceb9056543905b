package jobgateway.scenario;

import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicBoolean;
import jobgateway.client.Client;
import jobgateway.client.GatewayException;
import jobgateway.client.Options;
import jobgateway.client.Watch;
import jobgateway.v1.ContentFormat;
import jobgateway.v1.Job;

/** Runs the steps of a scenario file and prints its observations (clients/README.md). */
public final class Main {
  private final Client client;
  private final List<Long> sent = new ArrayList<>();

  private Main(Client client) {
    this.client = client;
  }

  /** A call of a step about one job. */
  private interface Call {
    Job make() throws InterruptedException;
  }

  public static void main(String[] args)
      throws IOException, InterruptedException, ExecutionException {
    if (args.length != 3) {
      System.err.println("usage: <target> <scenario-file> <service-config-file>");
      System.exit(2);
    }
    var scenario = Printer.GSON.fromJson(Files.readString(Path.of(args[1])), Scenario.class);
    // The first login returns the token of the start.
    var first = new AtomicBoolean(true);
    try (var client =
        Client.builder(args[0])
            .serviceConfig(Files.readString(Path.of(args[2])))
            .login(
                () ->
                    System.getenv(
                        first.getAndSet(false) ? "JOBGATEWAY_TOKEN" : "JOBGATEWAY_FRESH_TOKEN"))
            .build()) {
      var program = new Main(client);
      for (var step : scenario.steps()) {
        try {
          program.perform(step);
        } catch (GatewayException error) {
          // It has been printed.
        }
      }
    }
  }

  private void perform(Scenario.Step step)
      throws InterruptedException, InvalidProtocolBufferException, ExecutionException {
    long uid = uidOf(step);
    var printer = new Printer(step.action(), null);
    var unary = Options.defaults().onRetry(retry -> printer.error(retry.failure()));
    switch (step.action()) {
      case "send" -> {
        var request = step.request().toMessage();
        for (int left = Objects.requireNonNullElse(step.count(), 1); left > 0; left--) {
          sent.add(report(printer, () -> client.send(request, unary)).getUid());
        }
      }
      case "get" -> report(printer, () -> client.get(uid, unary));
      case "cancel" -> report(printer, () -> client.cancel(uid, unary));
      case "wait" -> {
        var timeout = Duration.ofSeconds(Objects.requireNonNullElse(step.timeoutSeconds(), 60));
        while (!report(printer, () -> client.await(uid, timeout, unary)).getDone()) {
          // The next call waits on.
        }
      }
      case "watch" -> report(client.watch(uid, options(step, printer)), printer);
      case "run" -> report(client.run(step.request().toMessage(), options(step, printer)), printer);
      case "watch_each" -> watchEach(step);
      case "watch_all" -> watchAll(step);
      default -> throw new IllegalArgumentException("unknown step " + step.action());
    }
  }

  private long uidOf(Scenario.Step step) {
    if (step.uid() != null) {
      return Long.parseLong(step.uid());
    }
    return sent.isEmpty() ? 0 : sent.get(sent.size() - 1);
  }

  /** Prints the job or the error of a unary call. */
  private static Job report(Printer printer, Call call) throws InterruptedException {
    try {
      var job = call.make();
      printer.job(job, ByteString.EMPTY);
      return job;
    } catch (GatewayException error) {
      printer.error(error);
      throw error;
    }
  }

  /** Prints the events of a watch. */
  private static void report(Watch watch, Printer printer) throws InterruptedException {
    try (watch) {
      for (var event = watch.next(); event != null; event = watch.next()) {
        printer.event(event, watch.result());
      }
    } catch (GatewayException error) {
      printer.error(error);
      throw error;
    }
  }

  /** Watches each job that was sent, all at the same time. */
  private void watchEach(Scenario.Step step) throws InterruptedException, ExecutionException {
    var threads = Executors.newCachedThreadPool();
    var watches = new ArrayList<Future<?>>();
    for (long uid : sent) {
      var printer = new Printer(step.action(), Long.toString(uid));
      watches.add(
          threads.submit(
              () -> {
                report(client.watch(uid, options(step, printer)), printer);
                return null;
              }));
    }
    threads.shutdown();
    for (var watch : watches) {
      try {
        watch.get();
      } catch (ExecutionException failed) {
        // A `GatewayException` has been printed.
        if (!(failed.getCause() instanceof GatewayException)) {
          throw failed;
        }
      }
    }
  }

  /** Watches the jobs that were sent, and those of the step, on one stream. */
  private void watchAll(Scenario.Step step) throws InterruptedException {
    var uids = new ArrayList<>(sent);
    if (step.uids() != null) {
      step.uids().forEach(uid -> uids.add(Long.parseLong(uid)));
    }
    var printer = new ManyPrinter();
    try (var watch = client.watchAll(uids, options(step).onRetry(printer::retry))) {
      boolean paused = false;
      for (var item = watch.next(); item != null; item = watch.next()) {
        printer.item(item, watch.result(item.uid()));
        if (!paused && step.pauseAfter() != null && printer.lines() >= step.pauseAfter()) {
          paused = true;
          Thread.sleep(Duration.ofSeconds(step.pauseSeconds()).toMillis());
        }
      }
    } catch (GatewayException error) {
      new Printer(step.action(), null).error(error);
      throw error;
    }
    printer.end();
  }

  private static Options options(Scenario.Step step, Printer printer) {
    return options(step).onRetry(printer::resume);
  }

  private static Options options(Scenario.Step step) {
    var format =
        step.chunks()
            ? ContentFormat.CONTENT_FORMAT_JSON_CHUNKS
            : ContentFormat.CONTENT_FORMAT_UNSPECIFIED;
    var options = Options.defaults().contentFormat(format);
    return step.heartbeatSeconds() == null
        ? options
        : options.heartbeat(Duration.ofSeconds(step.heartbeatSeconds()));
  }
}
