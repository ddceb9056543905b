package jobgateway.client;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonPrimitive;
import com.google.protobuf.ByteString;
import com.google.protobuf.Struct;
import com.google.protobuf.Value;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import jobgateway.v1.ContentChunk;
import jobgateway.v1.Job;

/** The result of a job, which may arrive in chunks. */
final class Content {
  /** The integers up to this one are exact as doubles. */
  private static final double MAX_EXACT = 1L << 53;

  private ByteString chunks = ByteString.EMPTY;

  /**
   * Adds a chunk. It first cuts the result to the chunk's offset, because chunks may start again at
   * 0 after a resume.
   */
  void add(ContentChunk chunk) {
    int offset = (int) Math.max(0, Math.min(chunk.getOffset(), chunks.size()));
    chunks = chunks.substring(0, offset).concat(chunk.getData());
  }

  /** Returns the bytes in chunks that have arrived. */
  ByteString chunks() {
    return chunks;
  }

  /** Returns the result of a done job as JSON. */
  ByteString json(Job job) {
    if (job.hasContent()) {
      return ByteString.copyFromUtf8(json(job.getContent()).toString());
    }
    return job.hasContentJson() ? job.getContentJson() : chunks;
  }

  /**
   * Compares the bytes of the result of a done job, in chunks or in the job itself, with their
   * SHA-256. A {@code Struct} does not have the bytes that the hash is about.
   *
   * @param complete whether the result was to arrive, so that one that has not is damaged, too
   * @throws GatewayException with {@code DATA_LOSS} if the bytes are damaged
   */
  void verify(Job job, boolean complete) {
    if (job.getContentSize() == 0 || job.hasContent()) {
      return;
    }
    var bytes = job.hasContentJson() ? job.getContentJson() : chunks;
    // A repeated submission may lead to a job without a number, whose result nobody has kept.
    boolean expected = complete && job.getUid() != 0;
    boolean whole = bytes.size() == job.getContentSize();
    if (bytes.isEmpty() && !expected || whole && sha256(bytes).equals(job.getContentSha256())) {
      return;
    }
    var arrived = bytes.size() + " of " + job.getContentSize() + " bytes arrived";
    throw GatewayException.damagedResult(job.getUid(), whole ? "its SHA-256 is wrong" : arrived);
  }

  private static String sha256(ByteString bytes) {
    try {
      var digest = MessageDigest.getInstance("SHA-256");
      bytes.asReadOnlyByteBufferList().forEach(digest::update);
      return HexFormat.of().formatHex(digest.digest());
    } catch (NoSuchAlgorithmException impossible) {
      throw new AssertionError("every Java has SHA-256", impossible);
    }
  }

  /** Returns the members of a {@code Struct}, with {@code 3} rather than {@code 3.0}. */
  private static JsonObject json(Struct struct) {
    var members = new JsonObject();
    struct.getFieldsMap().forEach((name, value) -> members.add(name, json(value)));
    return members;
  }

  private static JsonElement json(Value value) {
    return switch (value.getKindCase()) {
      case NULL_VALUE, KIND_NOT_SET -> JsonNull.INSTANCE;
      case BOOL_VALUE -> new JsonPrimitive(value.getBoolValue());
      case NUMBER_VALUE -> number(value.getNumberValue());
      case STRING_VALUE -> new JsonPrimitive(value.getStringValue());
      case STRUCT_VALUE -> json(value.getStructValue());
      case LIST_VALUE -> {
        var items = new JsonArray();
        value.getListValue().getValuesList().forEach(item -> items.add(json(item)));
        yield items;
      }
    };
  }

  private static JsonPrimitive number(double number) {
    boolean whole = Math.rint(number) == number && Math.abs(number) <= MAX_EXACT;
    return whole ? new JsonPrimitive((long) number) : new JsonPrimitive(number);
  }
}
