package jobgateway.client;

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.Message;
import com.google.rpc.ErrorInfo;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.protobuf.StatusProto;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.Map;
import java.util.stream.Stream;
import jobgateway.v1.ContentChunk;
import jobgateway.v1.Job;
import jobgateway.v1.JobEvent;
import jobgateway.v1.Synced;
import jobgateway.v1.WatchFailure;

/** The events and errors of a gateway. */
final class Events {
  private Events() {}

  static JobEvent state(long uid, String token) {
    return event(uid).setJob(Job.newBuilder().setUid(uid)).setResumeToken(token).build();
  }

  /** Returns the end of a job with a result, and the SHA-256 of what was announced. */
  static JobEvent end(long uid, String result, String announced) {
    var job =
        Job.newBuilder()
            .setUid(uid)
            .setDone(true)
            .setContentJson(ByteString.copyFromUtf8(result))
            .setContentSize(announced.length())
            .setContentSha256(sha256(announced));
    return event(uid).setJob(job).build();
  }

  static JobEvent end(long uid) {
    return end(uid, "[1]", "[1]");
  }

  static JobEvent chunk(long uid, long offset, String data) {
    var chunk = ContentChunk.newBuilder().setOffset(offset);
    return event(uid).setContentChunk(chunk.setData(ByteString.copyFromUtf8(data))).build();
  }

  static JobEvent failed(long uid, Status.Code code, String reason) {
    var failure = WatchFailure.newBuilder().setCode(code.value()).setReason(reason);
    return event(uid).setFailure(failure).build();
  }

  static JobEvent synced(long requests) {
    return event(0).setSynced(Synced.newBuilder().setWatchRequests(requests)).build();
  }

  static JobEvent.Builder event(long uid) {
    return JobEvent.newBuilder().setUid(uid);
  }

  /** Returns an error of the gateway, with an {@code ErrorInfo} and further details. */
  static StatusException error(
      Status.Code code, String reason, Map<String, String> metadata, Message... details) {
    var info =
        ErrorInfo.newBuilder().setDomain("jobgateway").setReason(reason).putAllMetadata(metadata);
    return StatusProto.toStatusException(
        com.google.rpc.Status.newBuilder()
            .setCode(code.value())
            .addDetails(Any.pack(info.build()))
            .addAllDetails(Stream.of(details).map(Any::pack).toList())
            .build());
  }

  static GatewayException failure(Status.Code code, String reason) {
    return reason.isEmpty()
        ? new GatewayException(code, "from a proxy")
        : GatewayException.of(error(code, reason, Map.of()));
  }

  static String sha256(String text) {
    try {
      var digest = MessageDigest.getInstance("SHA-256");
      return HexFormat.of().formatHex(digest.digest(text.getBytes()));
    } catch (NoSuchAlgorithmException impossible) {
      throw new AssertionError(impossible);
    }
  }
}
