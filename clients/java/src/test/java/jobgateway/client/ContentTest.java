package jobgateway.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Struct;
import com.google.protobuf.util.JsonFormat;
import jobgateway.v1.Job;
import org.junit.jupiter.api.Test;

class ContentTest {
  private final Content content = new Content();

  private void add(long offset, String data) {
    content.add(Events.chunk(7, offset, data).getContentChunk());
  }

  private static Job announcing(String result) {
    return Events.end(7, "", result).getJob().toBuilder().clearContentJson().build();
  }

  @Test
  void chunksThatStartAgainReplaceTheResult() {
    add(0, "[1");
    add(2, "2]");
    add(0, "[1");
    add(2, "3]");
    content.verify(announcing("[13]"), true);
    assertEquals("[13]", content.json(announcing("[13]")).toStringUtf8());
  }

  @Test
  void aMissingChunkIsDamage() {
    add(5, "3]");
    assertThrows(GatewayException.class, () -> content.verify(announcing("[1, 23]"), true));
  }

  @Test
  void anOffsetThatIsNegativeIsNoFailure() {
    add(0, "[1]");
    add(-1, "[1]");
    content.verify(announcing("[1]"), true);
  }

  @Test
  void aResultHasTheAnnouncedSize() {
    var job = Events.end(7).getJob().toBuilder().setContentSize(4).build();
    assertThrows(GatewayException.class, () -> content.verify(job, true));
  }

  @Test
  void aResultIsMissingOnlyIfItWasToArrive() {
    content.verify(announcing("[1]"), false);
    assertThrows(GatewayException.class, () -> content.verify(announcing("[1]"), true));
  }

  @Test
  void theResultOfAJobWithoutANumberIsNotKept() {
    content.verify(announcing("[1]").toBuilder().clearUid().setContentOmitted(true).build(), true);
  }

  @Test
  void theErrorTellsWhatArrived() {
    add(0, "[1");
    assertDamaged("2 of 3 bytes arrived");
    add(2, "2");
    assertDamaged("its SHA-256 is wrong");
  }

  private void assertDamaged(String problem) {
    var end = announcing("[1]");
    var failure = assertThrows(GatewayException.class, () -> content.verify(end, true));
    assertTrue(failure.getMessage().contains(problem));
    assertEquals(7, failure.uid().getAsLong());
  }

  @Test
  void aStructBecomesTheJsonOfTheUpstream() throws Exception {
    var json = "{\"a\":[1,2.5,null,true],\"b\":{\"c\":\"<d>\"},\"e\":1.0E17}";
    var struct = Struct.newBuilder();
    JsonFormat.parser().merge(json, struct);
    var job = Job.newBuilder().setContent(struct).build();
    assertEquals(json, content.json(job).toStringUtf8());
  }
}
