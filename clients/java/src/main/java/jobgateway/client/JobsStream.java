package jobgateway.client;

import static java.util.concurrent.TimeUnit.NANOSECONDS;

import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.time.Duration;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeoutException;
import jobgateway.v1.JobEvent;
import jobgateway.v1.JobServiceGrpc.JobServiceStub;
import jobgateway.v1.WatchJobsRequest;

/**
 * A stream of {@code WatchJobs} for one thread. While the thread waits for an event, it also sends
 * the requests that are due, so that neither direction waits for the other.
 */
final class JobsStream {
  private sealed interface Signal {}

  private record Arrived(JobEvent event) implements Signal {}

  private record Ended(StatusException status) implements Signal {}

  /** The stream can take further requests. */
  private record Ready() implements Signal {}

  private final JobWatches watches;
  private final BlockingQueue<Signal> signals = new LinkedBlockingQueue<>();
  private ClientCallStreamObserver<WatchJobsRequest> call;
  private boolean halfClosed;

  JobsStream(JobServiceStub stub, JobWatches watches) {
    this.watches = watches;
    stub.watchJobs(new Receiver());
  }

  /**
   * Requests an event and waits for it. No more than this event is requested, so that a slow
   * consumer slows the stream down.
   *
   * @throws TimeoutException if nothing arrived for {@code silence}
   * @throws StatusException with the status of the stream, also if it is OK
   */
  JobEvent next(Duration silence) throws StatusException, InterruptedException, TimeoutException {
    call.request(1);
    long start = System.nanoTime();
    while (true) {
      send();
      long left = silence.toNanos() - (System.nanoTime() - start);
      if (left <= 0) {
        throw new TimeoutException("the stream is silent");
      }
      // A request that is due already waits for `Ready`.
      long untilDue =
          watches.untilDue().map(Duration::toNanos).filter(each -> each > 0).orElse(left);
      var signal = signals.poll(Math.min(left, untilDue), NANOSECONDS);
      if (signal instanceof Arrived arrived) {
        return arrived.event();
      }
      if (signal instanceof Ended ended) {
        throw ended.status();
      }
    }
  }

  /** Half-closes the stream and reads to its end: without it, the call would be cancelled. */
  void readEnd(Duration limit) throws InterruptedException {
    var deadline = Scope.deadlineAfter(limit);
    try {
      while (true) {
        next(Duration.ofNanos(deadline.timeRemaining(NANOSECONDS)));
      }
    } catch (TimeoutException | StatusException ignored) {
      // How the stream ends after its last job does not matter.
    }
  }

  private void send() {
    if (halfClosed) {
      return;
    }
    if (watches.pending() == 0) {
      call.onCompleted();
      halfClosed = true;
      return;
    }
    while (call.isReady()) {
      var request = watches.nextRequest();
      if (request.isEmpty()) {
        return;
      }
      call.onNext(request.get());
    }
  }

  /** Cancels the stream. Any thread may do so. */
  void cancel() {
    call.cancel("the watches no longer need this stream", null);
  }

  private final class Receiver implements ClientResponseObserver<WatchJobsRequest, JobEvent> {
    @Override
    public void beforeStart(ClientCallStreamObserver<WatchJobsRequest> stream) {
      call = stream;
      stream.disableAutoRequestWithInitial(0);
      stream.setOnReadyHandler(() -> signals.add(new Ready()));
    }

    @Override
    public void onNext(JobEvent event) {
      signals.add(new Arrived(event));
    }

    @Override
    public void onError(Throwable error) {
      var trailers = Status.trailersFromThrowable(error);
      signals.add(new Ended(Status.fromThrowable(error).asException(trailers)));
    }

    @Override
    public void onCompleted() {
      var early = Status.OK.withDescription("the stream ended before all jobs were done");
      signals.add(new Ended(early.asException()));
    }
  }
}
