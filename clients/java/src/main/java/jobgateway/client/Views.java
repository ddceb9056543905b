package jobgateway.client;

import com.google.protobuf.ByteString;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Duration;
import java.util.HexFormat;
import java.util.Locale;
import java.util.Map;
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
        return new ResultView("json", null, json.size(), hash(json), contentSize, contentSha256);
      }
      if (job.getContentOmitted()) {
        return new ResultView(
            "chunks", null, chunks.size(), hash(chunks), contentSize, contentSha256);
      }
      return new ResultView("none", null, null, null, contentSize, contentSha256);
    }

    private static Double sum(Job job) {
      var data = job.getContent().getFieldsMap().get("data");
      var sum = data == null ? null : data.getStructValue().getFieldsMap().get("sum");
      return sum == null ? null : sum.getNumberValue();
    }
  }

  record HeartbeatView(int consecutiveFailures, String lastFailure) {}

  record ChunkView(long offset, int size, int held) {}

  record ResumeView(String code, String reason, boolean newConnection) {}

  record ErrorView(
      String code,
      String reason,
      String action,
      Map<String, String> fields,
      Double retryAfterSeconds) {

    static ErrorView of(Failure failure) {
      return new ErrorView(
          failure.code().name(),
          failure.reason(),
          failure.action().name().toLowerCase(Locale.ROOT),
          failure.fields(),
          failure.retryAfter().map(Duration::toMillis).map(millis -> millis / 1e3).orElse(null));
    }
  }

  private static String hash(ByteString bytes) {
    try {
      var digest = MessageDigest.getInstance("SHA-256");
      bytes.asReadOnlyByteBufferList().forEach(digest::update);
      return HexFormat.of().formatHex(digest.digest());
    } catch (NoSuchAlgorithmException impossible) {
      throw new AssertionError("every Java has SHA-256", impossible);
    }
  }
}
