package jobgateway.client;

import java.time.Duration;
import java.util.Objects;
import java.util.function.Consumer;
import jobgateway.v1.ContentFormat;
import jobgateway.v1.Job;

/**
 * The options of a call. An instance never changes: each method returns a copy. All callbacks may
 * be null. They run on the thread that made the call, and an exception of theirs ends it.
 */
public final class Options {
  private static final Options DEFAULTS =
      new Options(
          Duration.ofSeconds(15),
          null,
          ContentFormat.CONTENT_FORMAT_UNSPECIFIED,
          "",
          null,
          null,
          null);

  private static final Duration LONGEST_HEARTBEAT = Duration.ofDays(365);
  private static final Duration SHORTEST_SILENCE = Duration.ofSeconds(3);

  private final Duration heartbeat;
  private final Duration timeout;
  private final ContentFormat contentFormat;
  private final String resumeToken;
  private final Consumer<? super Retry> onRetry;
  private final Consumer<? super Job> onProgress;
  private final Runnable onReplayed;

  private Options(
      Duration heartbeat,
      Duration timeout,
      ContentFormat contentFormat,
      String resumeToken,
      Consumer<? super Retry> onRetry,
      Consumer<? super Job> onProgress,
      Runnable onReplayed) {
    this.heartbeat = heartbeat;
    this.timeout = timeout;
    this.contentFormat = contentFormat;
    this.resumeToken = resumeToken;
    this.onRetry = onRetry;
    this.onProgress = onProgress;
    this.onReplayed = onReplayed;
  }

  /** Returns options without callbacks and timeout, with a heartbeat interval of 15 seconds. */
  public static Options defaults() {
    return DEFAULTS;
  }

  /**
   * Sets the longest time between two events of a watch, which the gateway ensures. The watch
   * replaces a stream from which nothing arrived for three of these intervals, and at least for 3
   * seconds.
   *
   * @throws IllegalArgumentException if the interval is not positive, or longer than a year
   */
  public Options heartbeat(Duration interval) {
    boolean isPositive = !interval.isNegative() && !interval.isZero();
    if (!isPositive || interval.compareTo(LONGEST_HEARTBEAT) > 0) {
      throw new IllegalArgumentException(
          "heartbeat: must be positive, and at most 365 days (got " + interval + ")");
    }
    return new Options(
        interval, timeout, contentFormat, resumeToken, onRetry, onProgress, onReplayed);
  }

  /**
   * Sets the time limit of a call with all its attempts and logins, or of a whole watch from its
   * first {@code next} on. After it, or at once if the next attempt would come after it, the call
   * fails with the code {@code DEADLINE_EXCEEDED}, and the failure of the last attempt is the cause
   * of the exception. Default: no limit.
   *
   * @throws IllegalArgumentException if the timeout is not positive
   */
  public Options timeout(Duration timeout) {
    if (timeout.isNegative() || timeout.isZero()) {
      throw new IllegalArgumentException("timeout: must be positive (got " + timeout + ")");
    }
    return new Options(
        heartbeat, timeout, contentFormat, resumeToken, onRetry, onProgress, onReplayed);
  }

  /**
   * Sets the {@code resume_token} of an event of an earlier watch of the job, after which {@code
   * watch} continues. Take it from a state of the job: after a chunk of the result, the chunks
   * before it would be missing.
   */
  public Options resumeToken(String token) {
    Objects.requireNonNull(token, "token");
    return new Options(heartbeat, timeout, contentFormat, token, onRetry, onProgress, onReplayed);
  }

  /** Sets the format of the result. {@code send} and {@code run} use that of their request. */
  public Options contentFormat(ContentFormat format) {
    Objects.requireNonNull(format, "format");
    return new Options(heartbeat, timeout, format, resumeToken, onRetry, onProgress, onReplayed);
  }

  /**
   * Sets a function that receives each further attempt before its wait: of a unary call, of the
   * stream of a watch, and in {@code watchAll} also of the watch of one job.
   */
  public Options onRetry(Consumer<? super Retry> function) {
    return new Options(
        heartbeat, timeout, contentFormat, resumeToken, function, onProgress, onReplayed);
  }

  /** Sets a function that receives each state of the job in {@code run} and {@code watch}. */
  public Options onProgress(Consumer<? super Job> function) {
    return new Options(
        heartbeat, timeout, contentFormat, resumeToken, onRetry, function, onReplayed);
  }

  /**
   * Sets a function that is called if {@code send} or {@code run} returned the job of an earlier
   * submission with the same {@code request_id}.
   */
  public Options onReplayed(Runnable function) {
    return new Options(
        heartbeat, timeout, contentFormat, resumeToken, onRetry, onProgress, function);
  }

  Duration heartbeat() {
    return heartbeat;
  }

  /** Returns the time after which a stream without events counts as dead. */
  Duration silence() {
    var intervals = heartbeat.multipliedBy(3);
    return intervals.compareTo(SHORTEST_SILENCE) > 0 ? intervals : SHORTEST_SILENCE;
  }

  /** Returns the time limit; null if there is none. */
  Duration timeout() {
    return timeout;
  }

  ContentFormat contentFormat() {
    return contentFormat;
  }

  /** Returns whether a stream delivers the result, in whichever form. */
  boolean wantsResult() {
    return contentFormat != ContentFormat.CONTENT_FORMAT_NONE;
  }

  String resumeToken() {
    return resumeToken;
  }

  void retrying(Retry retry) {
    if (onRetry != null) {
      onRetry.accept(retry);
    }
  }

  void progressed(Job job) {
    if (onProgress != null) {
      onProgress.accept(job);
    }
  }

  void replayed() {
    if (onReplayed != null) {
      onReplayed.run();
    }
  }
}
