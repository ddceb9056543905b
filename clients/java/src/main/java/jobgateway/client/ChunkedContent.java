package jobgateway.client;

import com.google.protobuf.ByteString;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import jobgateway.v1.ContentChunk;
import jobgateway.v1.Job;

/** The bytes of a result that arrives in chunks. */
final class ChunkedContent {
  private ByteString bytes = ByteString.EMPTY;

  /**
   * Adds a chunk. It first cuts the result to the chunk's offset, because chunks may start again at
   * 0 after a resume.
   *
   * @return the number of bytes before the chunk
   */
  int add(ContentChunk chunk) {
    int held = bytes.size();
    bytes = bytes.substring(0, (int) chunk.getOffset()).concat(chunk.getData());
    return held;
  }

  ByteString bytes() {
    return bytes;
  }

  /** Returns whether the bytes of the result of a done job do not match its SHA-256. */
  boolean isDamaged(Job job) {
    // A Struct does not have the bytes that the hash is about.
    if (job.getContentSize() == 0 || job.hasContent()) {
      return false;
    }
    return !sha256(job.hasContentJson() ? job.getContentJson() : bytes)
        .equals(job.getContentSha256());
  }

  static String sha256(ByteString bytes) {
    try {
      var digest = MessageDigest.getInstance("SHA-256");
      bytes.asReadOnlyByteBufferList().forEach(digest::update);
      return HexFormat.of().formatHex(digest.digest());
    } catch (NoSuchAlgorithmException impossible) {
      throw new AssertionError("every Java has SHA-256", impossible);
    }
  }
}
