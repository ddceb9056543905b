package jobgateway.scenario;

import com.google.protobuf.ByteString;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Duration;
import java.util.HexFormat;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;
import jobgateway.client.GatewayException;
import jobgateway.client.GatewayException.FieldProblem;
import jobgateway.client.Retry;
import jobgateway.v1.ContentChunk;
import jobgateway.v1.Heartbeat;
import jobgateway.v1.Job;

/** The observations that this program prints (clients/README.md). */
final class Views {
  private Views() {}

  record JobView(
      String uid,
      String status,
      boolean done,
      String message,
      Double percentage,
      String errorMessage,
      ResultView result) {

    /**
     * @param chunks the result of a done job if it arrived in chunks, otherwise empty
     */
    static JobView of(Job job, ByteString chunks) {
      var progress = job.getProgress();
      return new JobView(
          Long.toString(job.getUid()),
          job.getStatus().name(),
          job.getDone(),
          job.hasProgress() ? progress.getMessage() : null,
          progress.hasPercentage() ? progress.getPercentage() : null,
          job.hasError() ? job.getError().getMessage() : null,
          job.getDone() ? ResultView.of(job, chunks) : null);
    }
  }

  record ResultView(
      String as, Double sum, Integer size, String sha256, long contentSize, String contentSha256) {

    static ResultView of(Job job, ByteString chunks) {
      long contentSize = job.getContentSize();
      String contentSha256 = job.getContentSha256();
      if (job.hasContent()) {
        return new ResultView("struct", sum(job), null, null, contentSize, contentSha256);
      }
      if (job.hasContentJson()) {
        var json = job.getContentJson();
        return new ResultView("json", null, json.size(), sha256(json), contentSize, contentSha256);
      }
      if (job.getContentOmitted()) {
        return new ResultView(
            "chunks", null, chunks.size(), sha256(chunks), contentSize, contentSha256);
      }
      return new ResultView("none", null, null, null, contentSize, contentSha256);
    }

    private static String sha256(ByteString bytes) {
      try {
        var digest = MessageDigest.getInstance("SHA-256");
        return HexFormat.of().formatHex(digest.digest(bytes.toByteArray()));
      } catch (NoSuchAlgorithmException impossible) {
        throw new AssertionError("every Java has SHA-256", impossible);
      }
    }

    private static Double sum(Job job) {
      var data = job.getContent().getFieldsMap().get("data");
      var sum = data == null ? null : data.getStructValue().getFieldsMap().get("sum");
      return sum == null ? null : sum.getNumberValue();
    }
  }

  /**
   * @param uid the job; null in a watch of one job
   */
  record HeartbeatView(String uid, int consecutiveFailures, String lastFailure) {
    static HeartbeatView of(String uid, Heartbeat heartbeat) {
      return new HeartbeatView(uid, heartbeat.getConsecutiveFailures(), heartbeat.getLastFailure());
    }
  }

  /**
   * @param uid the job; null in a watch of one job
   */
  record ChunkView(String uid, long offset, int size, int held) {
    static ChunkView of(String uid, ContentChunk chunk, int held) {
      return new ChunkView(uid, chunk.getOffset(), chunk.getData().size(), held);
    }
  }

  /**
   * @param uid the job; null if the line is about a stream of many jobs, or one job
   * @param jobs the number of jobs that have not ended; null in a watch of one job
   */
  record ResumeView(String uid, String code, String reason, boolean newConnection, Integer jobs) {
    static ResumeView of(String uid, Retry retry, Integer jobs) {
      var failure = retry.failure();
      return new ResumeView(
          uid, failure.code().name(), failure.reason(), retry.newConnection(), jobs);
    }
  }

  record AgainView(String uid, String code, String reason) {}

  record EndedView(int succeeded, int failed, int errors) {}

  /**
   * @param uid the job whose watch failed; null in a watch of one job
   */
  record ErrorView(
      String uid,
      String code,
      String reason,
      String action,
      Map<String, String> fields,
      Double retryAfterSeconds) {

    static ErrorView of(String uid, GatewayException failure) {
      return new ErrorView(
          uid,
          failure.code().name(),
          failure.reason(),
          failure.action().name().toLowerCase(Locale.ROOT),
          failure.fields().stream()
              .collect(Collectors.toMap(FieldProblem::field, FieldProblem::problem, (a, b) -> b)),
          failure.retryAfter().map(Duration::toMillis).map(millis -> millis / 1e3).orElse(null));
    }
  }
}
